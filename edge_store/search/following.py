"""Keeps search.db up to date while the daemon runs: follows the results by their seq, and what is
deleted by its tombstones.

It works on a thread and with connections of its own, in steps of at most a few hundred results;
after each it pauses for twice the CPU time that it took, so that it never has more than a third of
a core. When the disk is low the index goes (recorder/disk.py): it is let go of within a second, and
made anew when there is room for as much. So is one that was deleted or does not fit.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import NamedTuple

from edge_store.loggers import get_logger
from edge_store.place import Place
from edge_store.recorder.around import Around
from edge_store.recorder.disk import DiskLevel
from edge_store.search.cleaning import clean, empty, mark_left
from edge_store.search.file import IndexBroken, drop_index, index_bytes, index_path, open_index
from edge_store.search.index import Step, step
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader, translated
from edge_store.wal import wal_bytes

__all__ = ["follow"]

log = get_logger(__name__)

LOOK_S = 1.0  # how often an idle one looks for tombstones, and whether the index is to go
GATHER_S = 0.1  # results that come one after the other are taken in together
QUIET_S = 2.0  # after the last that was forgotten: the words of many are merged out at once
EXPIRED_S = 60.0  # after the last that retention deleted, as it does so all the time;
LATEST_S = 30.0, 600.0  # but so long after the first of each at the latest
REST_PER_CPU = 2.0  # a third of a core
BROKEN_WITHIN_S = 60.0  # a second one so soon is for who looks after the rooms


class _Had(NamedTuple):
    """How many bytes an index had, and the database that it was of."""

    index_bytes: int = 0
    database_bytes: int = 1


async def follow(around: Around) -> None:
    """Until the daemon stops; where search is disabled, what there is goes at once, as nobody would
    take out of it what is forgotten.

    Raises:
        StoreError: the index cannot be written, or is broken again and again.
    """
    path = index_path(around.path)
    if not around.config.search.enabled:
        await asyncio.to_thread(drop_index, path)
        return
    broken_at: float | None = None
    had = _Had()
    while not around.commits.is_over:
        if around.disk.level is not DiskLevel.OK or await asyncio.to_thread(
            _lacks_room, around, had
        ):
            await asyncio.to_thread(drop_index, path)  # by now nobody here has it open
            around.metrics.search_index_bytes.set(0)
            await asyncio.sleep(LOOK_S)
            continue
        try:
            async with _opened(around, path) as (thread, reader):
                had = await _keep_up(around, path, thread, reader)
        except IndexBroken as exc:
            log.warning("search_index_dropped", bytes=index_bytes(path), error=str(exc))
            await asyncio.to_thread(drop_index, path)
            now = time.monotonic()
            if broken_at is not None and now - broken_at < BROKEN_WITHIN_S:
                raise
            broken_at = now


def _lacks_room(around: Around, had: _Had) -> bool:
    """Room for as much as there was: what it has left behind is room for a part of it, which would
    be made for nothing, again and again. Of fewer results the index is smaller.
    """
    if not around.disk.refusal_of(had.index_bytes):
        return False
    with closing(open_reader(around.path)) as reader:
        share = min(1.0, _used_bytes(reader) / had.database_bytes)
    return around.disk.refusal_of(round(share * had.index_bytes)) is not None


def _used_bytes(reader: Connection) -> int:
    with translated("the database's size cannot be read"):
        pages, free, page = reader.execute(sql("select_pages")).fetchone()
    return int((pages - free) * page)


@asynccontextmanager
async def _opened(around: Around, path: Path) -> AsyncIterator[tuple[DatabaseThread, Connection]]:
    reader = await asyncio.to_thread(open_reader, around.path)
    try:
        thread = await DatabaseThread.open(lambda: open_index(path, reader))
        try:
            yield thread, reader
        finally:
            await thread.close()
    finally:
        reader.close()


class _Due:
    """When the words of what was deleted are to be merged out: once it has been quiet for so long,
    and so long after the first at the latest. What an earlier daemon left is due at once.
    """

    def __init__(self, quiet_s: float, latest_s: float) -> None:
        self._quiet_s, self._latest_s = quiet_s, latest_s
        self._first = self._last = -math.inf

    def note(self, now: float, count: int) -> None:
        """So many were deleted."""
        if count:
            self._last = now
            self._first = min(self._first, now)

    def is_due(self, now: float) -> bool:
        """Whether it is."""
        return now - self._last > self._quiet_s or self.is_late(now)

    def is_late(self, now: float) -> bool:
        """Whether it is, though there are results to take in."""
        return now - self._first > self._latest_s

    def end(self, now: float) -> None:
        """All that was due is merged out."""
        if self.is_due(now):
            self._first = math.inf


class _Wal:
    """The WAL of the index, which has what was merged away until it is emptied. Who searches may be
    in the way of that; then it is tried again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_empty = self._is_told = False  # an earlier daemon may have left it so
        self._tried_at = -math.inf

    def fill(self) -> None:
        """More was merged away."""
        self._is_empty = False

    async def empty(self, thread: DatabaseThread, now: float) -> None:
        """Unless it is, or was tried a moment ago."""
        if self._is_empty or now - self._tried_at < LOOK_S:
            return
        self._tried_at = now
        self._is_empty = await thread.run(empty)
        if not (self._is_empty or self._is_told):
            log.warning("checkpoint_blocked", of=self._path.name, wal_bytes=wal_bytes(self._path))
        self._is_told = not self._is_empty


async def _keep_up(around: Around, path: Path, thread: DatabaseThread, reader: Connection) -> _Had:
    """Until the index is to go, has gone, or the daemon stops."""
    place, wal = Place(path), _Wal(path)
    await thread.run(mark_left)
    forgotten, expired = _Due(QUIET_S, LATEST_S[0]), _Due(EXPIRED_S, LATEST_S[1])
    taken_out_at, size = 0.0, 0
    while not around.commits.is_over:
        if _is_gone(place, path):
            break
        if around.is_crowded():
            await asyncio.sleep(GATHER_S)
            continue
        now = time.monotonic()
        take_out = now - taken_out_at >= LOOK_S  # each time costs as much as twenty deletions
        done = await thread.run(step, reader, around.commits.seq, take_out=take_out)
        size = _tell(around, path, done) or size
        taken_out_at = now if take_out and not done.is_more else taken_out_at
        forgotten.note(now, done.forgotten)
        expired.note(now, done.deleted - done.forgotten)
        cpu_s, is_unclean = done.cpu_s, False
        due = {"forgotten": forgotten.is_due(now), "expired": expired.is_due(now)}
        if any(due.values()) and (not done.is_more or forgotten.is_late(now)):
            cleaned_s, is_unclean = await thread.run(_cleaned, reader, **due)
            cpu_s += cleaned_s
            if is_unclean:
                wal.fill()
            else:
                forgotten.end(now)
                expired.end(now)
                await wal.empty(thread, now)
        if done.rows or done.is_more or is_unclean:
            gather_s = 0.0 if done.is_more or is_unclean else GATHER_S
            await asyncio.sleep(max(REST_PER_CPU * cpu_s, gather_s))
            continue
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await around.commits.past(done.seq)
        await asyncio.sleep(GATHER_S)
    return _Had(size, _used_bytes(reader))


def _is_gone(place: Place, path: Path) -> bool:
    """Whether a low disk has taken it, or somebody has; be it before it was looked at."""
    return place.is_left or not path.exists()


def _cleaned(connection: Connection, reader: Connection, /, **due: bool) -> tuple[float, bool]:
    before = time.thread_time()
    is_unclean = clean(connection, reader, **due)
    return time.thread_time() - before, is_unclean


def _tell(around: Around, path: Path, done: Step) -> int:
    """Returns the bytes of the index; 0 when it has gone."""
    metrics = around.metrics
    metrics.search_lag_rows.set(max(0, around.commits.seq - done.seq))
    metrics.search_lag_seconds.set(done.waited_ms / 1000)
    size = index_bytes(path)
    metrics.search_index_bytes.set(size)
    return size
