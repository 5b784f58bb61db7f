"""The WAL of a box without a replica: kept small while no COMMIT waits for the whole of it."""

import asyncio
import math
import shutil
import time
from pathlib import Path

from edge_store.errors import StoreError
from edge_store.loggers import get_logger
from edge_store.recorder.deletions import is_forgotten_since, last_tombstones
from edge_store.sqlite import DatabaseThread, is_vulnerable
from edge_store.wal import SOON_MS, checkpoint_soon, move_rest, move_wal, unmoved_bytes, wal_bytes

__all__ = ["checkpoint_when_large", "is_scarce"]

log = get_logger(__name__)

WAL_CHECK_S = 10.0
GROWN = 4  # times the bound: a reader has been in the way for long
EXPIRED_MS = 20  # for readers, who may be there in the next round, too
EXPIRED_S = 60.0  # what retention deletes all the time is not worth an empty WAL each time


async def checkpoint_when_large(
    path: Path, database: DatabaseThread, bound: int, reserve_bytes: int = 0
) -> None:
    """Move the WAL whenever more than ``bound`` bytes of it are not moved, so that he begins it
    anew; empty it when it has grown all the same, when something was forgotten, which it still
    holds, or has been deleted for some time, or when it is what brings the disk near
    ``reserve_bytes``, below which more than a WAL is given up; until cancelled.

    Most of it is moved beside the writer, who goes on; only what he wrote meanwhile is moved in a
    turn of his own. A full disk is logged, and the next round tries again.
    """
    emptied_of, is_forgotten = (0, 0), False
    looked_upto: int | None = None  # of the first round, which is due, none are looked at
    emptied_at = -math.inf
    while True:
        await asyncio.sleep(WAL_CHECK_S)
        try:
            deleted = await database.run(last_tombstones)
            if looked_upto is not None:
                is_forgotten |= await database.run(is_forgotten_since, looked_upto)
            is_forgotten |= deleted[1] != emptied_of[1]
            looked_upto = deleted[0]
            is_due = time.monotonic() - emptied_at >= EXPIRED_S and deleted != emptied_of
            size = wal_bytes(path)
            is_pressing = (
                is_forgotten or size > GROWN * bound or is_scarce(path, size, reserve_bytes)
            )
            if not (is_pressing or is_due) and (
                size <= bound or await database.run(unmoved_bytes) <= bound
            ):
                continue
            if not is_vulnerable():  # two that move it at once are what its bug needs
                await asyncio.to_thread(move_wal, path)
            if not (is_pressing or is_due):
                await database.run(move_rest)
            elif await database.run(checkpoint_soon, SOON_MS if is_pressing else EXPIRED_MS):
                emptied_of, emptied_at, is_forgotten = deleted, time.monotonic(), False
            else:
                log.warning("checkpoint_blocked", wal_bytes=wal_bytes(path))
        except StoreError as exc:
            log.warning("checkpoint_failed", code=exc.code, error=str(exc))


def is_scarce(path: Path, wal: int, reserve_bytes: int) -> bool:
    """Whether a WAL of so many bytes is worth its place: a tenth of the reserve, near to which the
    disk is.
    """
    if 10 * wal < reserve_bytes or not reserve_bytes:
        return False
    try:
        return shutil.disk_usage(path.parent).free < 2 * reserve_bytes
    except OSError:  # told by who watches the disk
        return False
