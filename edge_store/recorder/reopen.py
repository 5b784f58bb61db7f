"""After an I/O error: open the database again, and believe only what it then shows.

When a flush fails, Linux marks the pages clean and forgets them: what a read then finds in the page
cache need not be on the disk, and a second flush says nothing of the first. So the cached pages of
the WAL are dropped, a new connection reads the head and the rows of the newest commit back, and
their digests must be those of the chain. What was not known to be committed is either there whole,
or is written again.
"""

import os
from contextlib import suppress
from pathlib import Path

from edge_store.chain import is_as_written
from edge_store.errors import Corrupt, StoreError
from edge_store.loggers import get_logger
from edge_store.recorder.batch import ChainHead, read_head
from edge_store.sql import sql
from edge_store.sqlite import RESTORE_HINT, Connection, DatabaseThread, driver, translated

__all__ = ["reopened"]

log = get_logger(__name__)


async def reopened(
    database: DatabaseThread, acknowledged: ChainHead, uncertain: ChainHead | None
) -> bool:
    """Replace the connection. Whether ``uncertain``, the head of a COMMIT that failed, got in.

    Raises:
        StoreError: it still cannot be read or written.
        Corrupt: it holds neither head, or its newest rows are not what was committed.
    """
    await database.run(_require_file)
    await database.reopen()
    head = await database.run(_verified_head)
    is_in = uncertain is not None and head == uncertain
    if not is_in and head != acknowledged:
        raise Corrupt(
            f"after an I/O error the database ends at seq {head.seq}, not at the acknowledged "
            f"{acknowledged.seq}, or with another digest",
            hint=RESTORE_HINT,
        )
    log.warning("database_reopened", seq=head.seq, uncertain_batch_stored=is_in)
    return is_in


def _path(connection: Connection) -> Path:
    with translated("the database cannot be read back after an I/O error"):
        return Path(connection.execute(sql("select_database_path")).fetchone()[0])


def _require_file(connection: Connection) -> None:
    path = _path(connection)
    if not path.exists():  # to open it would make a new one
        raise StoreError(f"{path} is not there any more", hint="is its disk mounted?")


def _verified_head(connection: Connection) -> ChainHead:
    with translated("the database cannot be read back after an I/O error"):
        _drop_cached_wal(connection)
        connection.execute(sql("begin"))  # that it can be written, too
        try:
            head = read_head(connection)
            _check_newest(connection)
        finally:
            with suppress(driver.Error):
                connection.execute(sql("rollback"))
    return head


def _drop_cached_wal(connection: Connection) -> None:
    """Have the next reads come from the disk.

    Only the WAL: SQLite has no lock on that file, so that closing a descriptor of it drops none.
    """
    path = _path(connection)
    try:
        descriptor = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        pass  # nothing was written since it was emptied
    except OSError as exc:
        raise StoreError(f"{path}-wal cannot be read back after an I/O error: {exc}") from exc


def _check_newest(connection: Connection) -> None:
    """Recompute the digest of the newest commit from the rows that are stored."""
    link = connection.execute(sql("select_newest_link")).fetchone()
    if link is not None and not is_as_written(connection, link):
        raise Corrupt(
            "after an I/O error the newest commit, or a result of it, is not what was written",
            hint=RESTORE_HINT,
        )
