"""The WAL of a box without a replica: kept small while no COMMIT waits for the whole of it."""

import asyncio
from pathlib import Path

import structlog

from edge_store.errors import StoreError
from edge_store.recorder.deletions import last_tombstones
from edge_store.sqlite import DatabaseThread, is_vulnerable
from edge_store.wal import checkpoint_soon, move_wal, wal_bytes

__all__ = ["checkpoint_when_large"]

log = structlog.get_logger(__name__)

WAL_CHECK_S = 10.0


async def checkpoint_when_large(path: Path, database: DatabaseThread, bound: int) -> None:
    """Empty the WAL whenever it is over ``bound`` bytes, and when something was deleted, which it
    still holds; until cancelled.

    Most of it is moved beside the writer, who goes on; only what he wrote meanwhile is moved in a
    turn of his own. A full disk is logged, and the next round tries again.
    """
    emptied_of = (0, 0)
    while True:
        await asyncio.sleep(WAL_CHECK_S)
        try:
            deleted = await database.run(last_tombstones)
            if wal_bytes(path) <= bound and deleted == emptied_of:
                continue
            if not is_vulnerable():  # two that move it at once are what its bug needs
                await asyncio.to_thread(move_wal, path)
            if await database.run(checkpoint_soon):
                emptied_of = deleted
            else:
                log.warning("checkpoint_blocked", wal_bytes=wal_bytes(path))
        except StoreError as exc:
            log.warning("checkpoint_failed", code=exc.code, error=str(exc))
