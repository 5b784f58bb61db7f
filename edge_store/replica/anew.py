"""Makes Litestream take the whole database anew, for when it may have read what is not in the file.

Frames of a COMMIT whose flush failed stay in the WAL until they are written over. Litestream reads
the WAL itself: it may have replicated them, and then waits for ever behind a place that no longer
is (seen: a replica that stood still, and said nothing).
"""

import asyncio

import structlog

from edge_store.errors import ReplicationError, StoreError
from edge_store.replica.supervisor import Litestream
from edge_store.sqlite import DatabaseThread, checkpoint

__all__ = ["forget_wal"]

log = structlog.get_logger(__name__)

TRIES, PAUSE_S = 10, 0.1  # a reader in the way has a moment to leave


async def forget_wal(litestream: Litestream, database: DatabaseThread) -> None:
    """Empty the WAL while no Litestream runs. The next one uploads the whole database.

    Raises:
        StoreError: it could not be emptied.
    """
    try:
        async with litestream.paused():
            for _ in range(TRIES):
                if await database.run(checkpoint):
                    log.warning("wal_emptied", consequence="the replica is uploaded anew")
                    return
                await asyncio.sleep(PAUSE_S)
    except ReplicationError as exc:
        raise StoreError(f"the WAL cannot be emptied: {exc}", hint=exc.hint) from exc
    raise StoreError(
        "the WAL cannot be emptied: another process reads the database and does not let go",
        hint="end it; `fuser -v` on the -shm file names it",
    )
