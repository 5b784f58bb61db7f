"""What a database holds after a run: whether all that was acknowledged is there, and is whole."""

from pathlib import Path

from edge_store.chain import verify_chain
from edge_store.result import Record
from edge_store.sqlite import check_integrity, open_reader

__all__ = ["Found", "look_into"]


class Found(Record, frozen=True, kw_only=True):
    """The answer for one set of ids."""

    present: int  # of the ids, those of a completed result
    rows: int
    is_whole: bool  # every page and every digest of the file


def look_into(database: Path, acknowledged: set[str]) -> Found:
    """Look for the ids in one consistent view of the file, and check all of it."""
    connection = open_reader(database)
    try:
        connection.execute("BEGIN")
        stored = {
            row[0]
            for row in connection.execute("SELECT id FROM results WHERE status = 'completed'")
        }
        (rows,) = connection.execute("SELECT count(*) FROM results").fetchone()
        is_whole = check_integrity(connection, full=True) == "ok"
        is_whole = is_whole and verify_chain(connection).faults == ()
    finally:
        connection.close()
    return Found(present=len(acknowledged & stored), rows=rows, is_whole=is_whole)
