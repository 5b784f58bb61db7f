"""Where each WAL ended, and whether Litestream had read it so far before it went on.

Who checkpoints has the next COMMIT begin the WAL anew. Litestream does it when it has read all;
another program does it at any time. What was not read by then is in none of Litestream's files,
and every answer after that looks complete. (It notices, and takes the whole database, only where
what it had read last is no longer in the WAL.)

So it is noted after each COMMIT how far the WAL goes; and when there is a new one, where the one
before it ended, which the frames tell that are not written over yet. A WAL is known by its salts,
and their order by who was seen first: they are random where another connection had emptied it.
"""

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

from edge_store.replica.ltx import HEADER_BYTES, LtxWal, has_every_page, read_wal

__all__ = ["SALT_BYTES", "WAL_HEADER_BYTES", "Ends", "Upto"]

WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
SALT_BYTES = 8
IS_COMMIT = slice(4, 8)  # of a frame's header: the size of the database, 0 but for the last one
FRAME_SALTS = slice(8, 16)
ENDED_MAX = 4096  # WALs that Litestream has not gone past: a day offline has 1,440
FILES_MAX = 1000  # looked into at an answer: a quarter of an hour's, which is what is kept
READ_MAX = 2 * FILES_MAX  # WALs of which it is known how far they were read: all of an answer's


class Upto(NamedTuple):
    """So far into the WAL of these salts, in bytes."""

    salts: bytes
    end: int


class Ends:
    """Of one WAL after the other, and of Litestream's own files in ``files``."""

    def __init__(self, wal: Path, files: Path) -> None:
        self._wal, self._files = wal, files
        self.anew()

    def anew(self) -> None:
        """From here on Litestream takes the whole database: of what was, nothing matters."""
        self._last: Upto | None = None
        self._place: dict[bytes, int] = {}  # in the order in which they were seen
        self._ended: deque[Upto] = deque(maxlen=ENDED_MAX)
        self._skipped: Upto | None = None  # the newest: who has all after it lacks none
        self._skipped_by = 0  # the TXID of the answer that told
        self._read: dict[bytes, LtxWal] = {}
        self._newest: LtxWal | None = None
        self._whole: LtxWal | None = None  # of the newest file with all of the database
        self._txid = 0

    def note(self, written: Upto, frame_bytes: int) -> None:
        """The WAL is written so far."""
        last = self._last
        if last is None or last.salts != written.salts:
            self._place[written.salts] = next(reversed(self._place.values()), 0) + 1
            if last is not None:
                self._ended.append(self._end_of(last, written.salts, frame_bytes))
            if len(self._place) > ENDED_MAX + 1:
                del self._place[next(iter(self._place))]
        self._last = written

    def _end_of(self, last: Upto, now: bytes, frame_bytes: int) -> Upto:
        """With what came after the ``last`` look: the WAL of ``now`` begins with its own frames,
        and behind them are those of the one before.
        """
        try:
            descriptor = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)  # nobody locks that file
        except OSError:
            return last

        def header(number: int) -> bytes:
            at = WAL_HEADER_BYTES + number * frame_bytes
            return os.pread(descriptor, FRAME_HEADER_BYTES, at)

        try:
            low, high = 0, max(0, os.fstat(descriptor).st_size - WAL_HEADER_BYTES) // frame_bytes
            while low < high:
                middle = (low + high) // 2
                if header(middle)[FRAME_SALTS] in (now, last.salts):
                    low = middle + 1
                else:
                    high = middle
            while low and header(low - 1)[FRAME_SALTS] == last.salts:
                if any(header(low - 1)[IS_COMMIT]):
                    return Upto(last.salts, max(last.end, WAL_HEADER_BYTES + low * frame_bytes))
                low -= 1  # of a transaction that was rolled back
        except OSError:
            pass
        finally:
            os.close(descriptor)
        return last

    @property
    def has_skipped(self) -> bool:
        """Whether it is known, and not made good since."""
        return self._skipped is not None

    def is_pending(self) -> bool:
        """Whether a WAL is gone of which Litestream has not read all, by its last answer."""
        return any(not self._is_read(each) for each in self._ended)

    def skips(self, txid: int) -> bool:
        """Whether Litestream, which has answered ``txid``, has gone on from a WAL that it had not
        read to its end, and has not taken the whole database since.
        """
        self._take_up(txid)
        kept: deque[Upto] = deque(maxlen=ENDED_MAX)
        for each in self._ended:
            if self._is_read(each) or self._is_in_whole(each):
                continue
            if self._is_past(each):
                self._skipped, self._skipped_by = each, txid
            else:
                kept.append(each)
        self._ended = kept
        if self._skipped is not None and self._is_in_whole(self._skipped):
            self._skipped = None
        return self.has_skipped

    def proven(self, txid: int) -> None:
        """A restore of ``txid`` has everything, whatever was skipped by then."""
        if txid >= self._skipped_by:
            self._skipped = None

    def _take_up(self, txid: int) -> None:
        """What Litestream's files since the last answer say."""
        if txid < self._txid:
            if self._look_into(self._txid) is not None:
                return  # the answer came late
            self._txid, self._newest = 0, None  # they were removed
        news: list[LtxWal] = []
        oldest = max(self._txid, txid - FILES_MAX)
        are_all = oldest == self._txid
        for number in range(txid, oldest, -1):
            found = self._look_into(number)
            if found is None:
                are_all = not self._txid  # who looks for the first time finds what is kept
                break
            news.append(found)
        if not are_all:  # how far a WAL was read cannot be told any more
            self._ended.clear()
        for found in reversed(news):
            if self._newest is None or self._newest.salts != found.salts:
                if has_every_page(self._path(found.txid)):
                    self._whole = found
                self._read.pop(found.salts, None)
            self._read[found.salts] = self._newest = found
            if len(self._read) > READ_MAX:
                del self._read[next(iter(self._read))]
        self._txid = txid

    def _path(self, txid: int) -> Path:
        return self._files / f"{txid:016x}-{txid:016x}.ltx"

    def _look_into(self, txid: int) -> LtxWal | None:
        try:
            with self._path(txid).open("rb") as file:
                return read_wal(file.read(HEADER_BYTES), txid)
        except OSError:
            return None

    def _is_read(self, ended: Upto) -> bool:
        read = self._read.get(ended.salts)
        return read is not None and read.end >= ended.end

    def _is_past(self, ended: Upto) -> bool:
        """Whether Litestream reads a later WAL by now."""
        return self._newest is not None and self._is_after(self._newest, ended)

    def _is_in_whole(self, ended: Upto) -> bool:
        return self._whole is not None and self._is_after(self._whole, ended)

    def _is_after(self, file: LtxWal, ended: Upto) -> bool:
        if file.salts == ended.salts:
            return False
        place, read = self._place.get(file.salts), self._read.get(ended.salts)
        if place is not None:
            return place > self._place.get(ended.salts, 0)
        return read is not None and read.txid < file.txid  # of a WAL with no commit of ours
