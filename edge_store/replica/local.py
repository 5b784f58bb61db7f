"""What replication keeps on this box's own disk, and that it stays within its bound.

While the store is away, Litestream keeps what it cannot send, and the WAL grows beside it. Past
``replica.local_bytes_max`` that is given up: Litestream's files go, the WAL is emptied, and the
next Litestream sends the whole database anew once it can. No result is lost by it; the states
between the last one that was sent and the new one are, for a restore to a point in time.

Measuring runs on any thread; making room on the loop, with the writer's thread for the checkpoint.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Protocol

from edge_store.loggers import get_logger
from edge_store.replica.status import ReplicaState
from edge_store.result import Record
from edge_store.sqlite import DatabaseThread
from edge_store.wal import empty_wal, move_wal, wal_bytes

__all__ = ["Held", "MayPause", "drop", "has_outgrown", "make_room", "measure", "remove_dropped"]

log = get_logger(__name__)

BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are
DROPPED = "dropped"  # what the folder of LTX files is called while it is removed


class MayPause(Protocol):
    """What runs Litestream."""

    def paused(self) -> AbstractAsyncContextManager[None]:
        """Without a Litestream on the database."""


class Held(Record, frozen=True, kw_only=True):
    """What lies on this disk for replication's sake, and the database itself."""

    wal_bytes: int
    ltx_bytes: int
    ltx_files: int
    database_bytes: int

    @property
    def bytes(self) -> int:
        """All that the bound is for."""
        return self.wal_bytes + self.ltx_bytes


def measure(database: Path, ltx: Path) -> Held:
    """Look at the files. ``ltx`` is Litestream's folder of them; it need not be there."""
    sizes = [BLOCK_BYTES * blocks for blocks in _blocks(ltx)]
    try:
        database_bytes = database.stat().st_size
    except FileNotFoundError:
        database_bytes = 0
    return Held(
        wal_bytes=wal_bytes(database),
        ltx_bytes=sum(sizes),
        ltx_files=len(sizes),
        database_bytes=database_bytes,
    )


def _blocks(folder: Path) -> Iterator[int]:
    """Of each file below ``folder`` that is still there when it is looked at."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _blocks(Path(entry.path))
            else:
                with suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_blocks


def has_outgrown(held: Held, bytes_max: int, state: ReplicaState) -> bool:
    """Whether room must be made. Never while it is ok: then Litestream keeps a quarter of an hour,
    and giving that up would cost an upload. What moves, or may, has room for the whole database
    beside: that is what the first upload after making room takes.
    """
    match state:
        case ReplicaState.OK:
            return False
        case ReplicaState.OFFLINE | ReplicaState.BROKEN:
            return held.bytes > bytes_max
        case ReplicaState.LAGGING | ReplicaState.STALLED:
            return held.bytes > bytes_max + held.database_bytes


async def make_room(litestream: MayPause, database: DatabaseThread, path: Path, ltx: Path) -> None:
    """Give up what Litestream has not sent, and empty the WAL, while none runs.

    Raises:
        ReplicationError: Litestream does not end.
        StoreError: the WAL cannot be emptied.
    """
    async with litestream.paused():
        await _finished(drop, ltx)
        await _finished(move_wal, path)  # the writer waits for the rest only
        await empty_wal(database)


async def _finished(function: Callable[[Path], None], path: Path) -> None:
    """Call it on a thread. Cancelled, wait for its end first: until then no Litestream runs."""
    running = asyncio.ensure_future(asyncio.to_thread(function, path))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def drop(ltx: Path) -> None:
    """Remove the folder, whole or not at all: with a part of it, Litestream would not go on."""
    remove_dropped(ltx)
    if ltx.is_dir():
        ltx.rename(ltx.with_name(DROPPED))
        remove_dropped(ltx)


def remove_dropped(ltx: Path) -> None:
    """What a removal that was cut short has left."""
    shutil.rmtree(ltx.with_name(DROPPED), ignore_errors=True)
