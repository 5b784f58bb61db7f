"""A copy of an older or a newer schema answers as one of this schema would."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.replicating import Database

from edge_store.errors import QueryRefused
from edge_store.fleet.query import find_copies, query_fleet
from edge_store.fleet.relations import open_compatible, relations
from edge_store.query import run_query
from edge_store.schema import SCHEMA_VERSION
from edge_store.sqlite import Connection, open_copy

VIEWS = [relation.name for relation in relations() if relation.is_view]


def older(connection: Connection) -> None:
    """As if a table, a column, and every view had come later."""
    for view in VIEWS:
        connection.execute(f"DROP VIEW {view}")
    connection.execute("DROP TABLE losses")
    connection.execute("ALTER TABLE drills DROP COLUMN cause")  # that has a default
    connection.execute("ALTER TABLE outputs DROP COLUMN constraint_error")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")


def newer(connection: Connection) -> None:
    """More of everything, and a view that means something else."""
    connection.execute("ALTER TABLE results ADD COLUMN later TEXT DEFAULT 'x'")
    connection.execute("CREATE TABLE later (x)")
    connection.execute("DROP VIEW generations")
    connection.execute("CREATE VIEW generations AS SELECT later FROM results WHERE 0")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


@pytest.fixture
def as_it_is(tmp_path: Path) -> Path:
    database = Database(tmp_path / "box-a.db", "box-a")
    database.write(3)
    database.connection.execute(
        "INSERT INTO drills (at, timeline, seq_to, rows, duration_ms, passed) "
        "VALUES (1, 'x', 3, 3, 1.0, 1)"
    )
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.connection.execute("PRAGMA journal_mode = DELETE")
    database.close()
    return tmp_path / "box-a.db"


def changed(copy: Path, change: Callable[[Connection], None]) -> Path:
    other = copy.parent / "other" / copy.name
    other.parent.mkdir()
    shutil.copy(copy, other)
    connection = open_copy(other)
    change(connection)
    connection.close()
    return other


@pytest.mark.parametrize("change", [older, newer])
def test_every_relation_gives_what_it_gives_of_this_schema(
    as_it_is: Path, change: Callable[[Connection], None]
) -> None:
    other = changed(as_it_is, change)
    with open_compatible(as_it_is) as ours, open_compatible(other) as theirs:
        for relation in relations():
            statement = f'SELECT * FROM "{relation.name}"'
            ours_found, theirs_found = (each.execute(statement) for each in (ours, theirs))
            assert theirs_found.fetchall() == ours_found.fetchall(), relation.name
            names = [column[0] for column in theirs_found.description]
            assert names == [column[0] for column in ours_found.description]


@pytest.mark.parametrize("change", [older, newer])
def test_fleet_query_answers_over_boxes_of_several_schemas(
    as_it_is: Path, change: Callable[[Connection], None]
) -> None:
    folder = changed(as_it_is, change).parent
    database = Database(folder / "box-b.db", "box-b")
    database.write(2)
    answer = query_fleet(
        find_copies(folder),
        "SELECT device_id, count(*), count(output_text) FROM generations GROUP BY 1",
        rows_max=10,
        timeout_s=60,
    )
    database.close()
    assert answer.unread == ()
    assert answer.result.rows == [("box-a", 3, 3), ("box-b", 2, 2)]


def test_copy_is_left_as_it_is_and_cannot_be_written(as_it_is: Path) -> None:
    other = changed(as_it_is, older)
    before = other.read_bytes()
    with open_compatible(other) as connection:
        (count,) = connection.execute("SELECT count(*) FROM generations").fetchone()
        with pytest.raises(QueryRefused):
            run_query(connection, "DELETE FROM results", rows_max=1, timeout_s=60)
        with pytest.raises(Exception, match="readonly"):
            connection.execute("DELETE FROM main.results")
    assert (count, other.read_bytes()) == (3, before)
