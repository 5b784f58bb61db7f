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
from typing import NamedTuple

from edge_store.replica.ltx import HEADER_BYTES

__all__ = ["Reached", "Read", "Upto"]

# WalIndexHdr, twice; in native byte order but for the salts (sqlite.org/walformat.html).
INDEX_BYTES = 48
PAGE_SIZE_AT, LAST_FRAME_AT, SALTS_AT = 14, 16, 32
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
PAGE_SIZE_MAX = 65536  # told as 1
INDEX_TRIES = 100  # it is written in less than a microsecond
WAL_IN_LTX = struct.Struct(">QQ8s")  # where in the WAL it begins, bytes of it, its salts
WAL_IN_LTX_AT = 48
NEWER_THAN_MAX = 1 << 31


class Upto(NamedTuple):
    """So far into the WAL of these salts, in bytes."""

    salts: bytes
    end: int


class Read(Enum):
    """Whether Litestream has read what was committed."""

    HELD = auto()  # all of it
    MISSED = auto()  # not all
    RESTARTED = auto()  # the WAL began anew since: the next question tells
    UNKNOWN = auto()  # its files lie elsewhere


class Reached:
    """Of one database, and of Litestream's own folder for it."""

    def __init__(self, database: Path, ltx: Path) -> None:
        self._index = database.with_name(f"{database.name}-shm")
        self._files = ltx / "0"
        self._descriptor: int | None = None

    def written(self) -> Upto | None:
        """The last commit in the WAL; None: there is none, or nobody has the database open."""
        for _ in range(INDEX_TRIES):
            content = self._read_index()
            if content is None:
                return None
            header, again = content[:INDEX_BYTES], content[INDEX_BYTES:]
            if header == again:
                break
        else:
            return Upto(b"", 0)  # of no WAL: nobody has read that
        (frames,) = struct.unpack_from("=I", header, LAST_FRAME_AT)
        (page_size,) = struct.unpack_from("=H", header, PAGE_SIZE_AT)
        if not frames:
            return None
        frame_bytes = FRAME_HEADER_BYTES + (PAGE_SIZE_MAX if page_size == 1 else page_size)
        return Upto(header[SALTS_AT : SALTS_AT + 8], WAL_HEADER_BYTES + frames * frame_bytes)

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
        if written is None:
            return Read.HELD
        try:
            with (self._files / f"{txid:016x}-{txid:016x}.ltx").open("rb") as file:
                header = file.read(HEADER_BYTES)
        except OSError:
            return Read.UNKNOWN
        if len(header) < HEADER_BYTES:
            return Read.MISSED
        start, size, salts = WAL_IN_LTX.unpack_from(header, WAL_IN_LTX_AT)
        if salts == written.salts:
            return Read.HELD if start + size >= written.end else Read.MISSED
        ahead = int.from_bytes(salts[:4], "big") - int.from_bytes(written.salts[:4], "big")
        is_newer = 0 < ahead % (1 << 32) < NEWER_THAN_MAX  # each WAL's first salt is one more
        return Read.RESTARTED if is_newer else Read.MISSED
