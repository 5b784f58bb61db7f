"""The WAL: how large it is, and moving it into the database.

All but the size only while no Litestream runs on the file: it would lose its place.
"""

import asyncio
from pathlib import Path

from edge_store.errors import StoreError
from edge_store.sqlite import Connection, DatabaseThread, open_writer, translated

__all__ = [
    "SOON_MS",
    "checkpoint",
    "checkpoint_soon",
    "empty_wal",
    "move_rest",
    "move_wal",
    "unmoved_bytes",
    "wal_bytes",
]

SOON_MS = 200  # every COMMIT waits as long for readers of an older state as it does
FRAME_HEADER_BYTES = 24  # before each page (sqlite.org/fileformat2.html, "The Write-Ahead Log")
TRIES, PAUSE_S = 10, 0.1  # a reader in the way has a moment to leave


def checkpoint(connection: Connection) -> bool:
    """Move the whole WAL into the database and empty it; false when a reader was in the way.

    Only while no Litestream runs on the file: it would lose its place.
    """
    with translated("the WAL could not be moved into the database"):
        (busy, _log, _moved) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def move_wal(path: Path) -> None:
    """Move what the WAL holds now into the database, beside a writer and without making him wait.
    The WAL keeps its size, and what is written meanwhile stays in it.

    Only while no Litestream runs on the file, and while another connection is open: the last one to
    close would empty the WAL in its own time.
    """
    connection = open_writer(path)
    try:
        with translated("the WAL could not be moved into the database"):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        connection.close()


def move_rest(connection: Connection) -> None:
    """On the writer's thread, after ``move_wal``: the next COMMIT writes from the WAL's beginning
    again, unless a reader is in the way. Some 0.5 ms, where emptying it takes ten.
    """
    with translated("the WAL could not be moved into the database"):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def unmoved_bytes(connection: Connection) -> int:
    """Of what was committed, so much is in the WAL alone. It may be less than the file, which keeps
    its size. (A SQLite older than 3.51 moves it instead of telling, and leaves 0.)
    """
    with translated("the WAL could not be looked at"):
        (_busy, frames, moved) = connection.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int((frames - moved) * (FRAME_HEADER_BYTES + page_bytes))


def wal_bytes(path: Path) -> int:
    """Size of the WAL beside the database; 0 when there is none."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def checkpoint_soon(connection: Connection, patience_ms: int = SOON_MS) -> bool:
    """As ``checkpoint``, on the writer's thread: one long read, as of a backup, may last for hours
    and is not waited for.
    """
    (before,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {min(before, patience_ms)}")
    try:
        return checkpoint(connection)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {before}")


async def empty_wal(database: DatabaseThread) -> None:
    """Empty it on the writer's thread, in short turns between which he goes on.

    Raises:
        StoreError: it could not be emptied.
    """
    for _ in range(TRIES):
        if await database.run(checkpoint_soon):
            return
        await asyncio.sleep(PAUSE_S)
    raise StoreError(
        "the WAL cannot be emptied: another process reads the database and does not let go",
        hint="end it; `fuser -v` on the -shm file names it",
    )
