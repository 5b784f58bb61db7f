"""How far the WAL is written, and how far Litestream has read it: a TXID alone does not tell.

Litestream takes a damaged frame for the end of the WAL: its replica syncs succeed, and what was
committed after that is in none. SQLite's index of the WAL (``-shm``) names the last committed
frame, and each of Litestream's files in ``ltx/0`` how far into which WAL it goes.

The index is read through a descriptor that is never closed: closing one would drop the locks that
SQLite has on that file in this process (fcntl(2)). No lock is taken; a header that is being written
is read again.
"""

import os
import struct
from enum import Enum, auto
from pathlib import Path

from edge_store.replica.ends import FRAME_HEADER_BYTES, SALT_BYTES, WAL_HEADER_BYTES, Ends, Upto
from edge_store.replica.ltx import HEADER_BYTES, LtxWal, read_wal

__all__ = ["UNREADABLE", "Reached", "Read", "Upto"]

# WalIndexHdr, twice; in native byte order but for the salts (sqlite.org/walformat.html).
INDEX_BYTES = 48
PAGE_SIZE_AT, SALTS_AT = 14, 32  # the last frame's number comes after the size of a page
PAGE_SIZE_MAX = 65536  # told as 1
INDEX_TRIES = 100  # it is written in less than a microsecond
NEWER_THAN_MAX = 1 << 31
UNREADABLE = Upto(b"", 0)  # of no WAL: nobody has read that


class Read(Enum):
    """Whether Litestream has read what was committed."""

    HELD = auto()  # all of it
    MISSED = auto()  # not all
    RESTARTED = auto()  # the WAL began anew since: the next question tells
    SKIPPED = auto()  # nor will it, as it has gone on with the next WAL
    UNKNOWN = auto()  # its files lie elsewhere


class Reached:
    """Of one database, and of Litestream's own folder for it."""

    def __init__(self, database: Path, ltx: Path) -> None:
        self._index = database.with_name(f"{database.name}-shm")
        self._files = ltx / "0"
        self._ends = Ends(database.with_name(f"{database.name}-wal"), self._files)
        self._descriptor: int | None = None

    def anew(self) -> None:
        """From here on Litestream takes the whole database."""
        self._ends.anew()

    def proven(self, txid: int) -> None:
        """A restore of ``txid`` has everything that was committed by then."""
        self._ends.proven(txid)

    def written(self) -> Upto | None:
        """The last commit in the WAL; None: there is none, or nobody has the database open. Asked
        after each COMMIT, so that it is known where each WAL ended.
        """
        for _ in range(INDEX_TRIES):
            try:
                content = self._read_index()
            except OSError:  # no descriptor is left, or the disk fails
                return UNREADABLE
            if content is None:
                return None
            header, again = content[:INDEX_BYTES], content[INDEX_BYTES:]
            if header == again:
                break
        else:
            return UNREADABLE
        page_size, frames = struct.unpack_from("=HI", header, PAGE_SIZE_AT)
        salts = header[SALTS_AT : SALTS_AT + SALT_BYTES]
        if not any(salts):
            return None  # there has not been a WAL
        frame_bytes = FRAME_HEADER_BYTES + (PAGE_SIZE_MAX if page_size == 1 else page_size)
        written = Upto(salts, WAL_HEADER_BYTES + frames * frame_bytes)
        self._ends.note(written, frame_bytes)
        return written if frames else None

    def _read_index(self) -> bytes | None:
        if self._descriptor is None or not os.fstat(self._descriptor).st_nlink:
            try:  # one of a file that is gone is left open, too
                self._descriptor = os.open(self._index, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        content = os.pread(self._descriptor, 2 * INDEX_BYTES, 0)
        return content if len(content) == 2 * INDEX_BYTES else None

    def judge(self, written: Upto | None, txid: int) -> Read:
        """Whether Litestream's answer ``txid`` has what was ``written`` before it was asked."""
        try:
            with (self._files / f"{txid:016x}-{txid:016x}.ltx").open("rb") as file:
                read = read_wal(file.read(HEADER_BYTES), txid)
        except OSError:
            if self._ends.has_skipped:
                return Read.SKIPPED
            return Read.HELD if written is None else Read.UNKNOWN
        if self._ends.skips(txid):
            return Read.SKIPPED
        if written is None:
            return Read.MISSED if self._ends.is_pending() else Read.HELD
        return Read.MISSED if read is None else _compared(written, read)


def _compared(written: Upto, read: LtxWal) -> Read:
    if read.salts == written.salts:
        return Read.HELD if read.end >= written.end else Read.MISSED
    ahead = int.from_bytes(read.salts[:4], "big") - int.from_bytes(written.salts[:4], "big")
    is_newer = 0 < ahead % (1 << 32) < NEWER_THAN_MAX  # each WAL's first salt is one more
    return Read.RESTARTED if is_newer else Read.MISSED
