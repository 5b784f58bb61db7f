"""What a person may run against a live database: reading, for a while, so many rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.records import new_database

from edge_store.errors import QueryRefused
from edge_store.query import QueryResult, run_query
from edge_store.sqlite import Connection, open_reader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    new_database(tmp_path / "results.db")
    return tmp_path / "results.db"


@pytest.fixture
def reader(path: Path) -> Iterator[Connection]:
    connection = open_reader(path)
    yield connection
    connection.close()


def run(reader: Connection, statement: str, **params: object) -> QueryResult:
    return run_query(reader, statement, params, rows_max=100, timeout_s=60)


def test_reading_is_allowed(reader: Connection) -> None:
    found = run(reader, "SELECT event, :x AS given FROM boots", x=7)
    assert found.columns == ("event", "given")
    assert found.rows == [("start", 7)]
    assert not found.is_cut


def test_a_cut_result_says_so(reader: Connection) -> None:
    counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    found = run_query(reader, counting, rows_max=3, timeout_s=60)
    assert found.rows == [(1,), (2,), (3,)]
    assert found.is_cut


def test_a_query_that_runs_too_long_is_stopped(reader: Connection) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    with pytest.raises(QueryRefused, match=r"longer than 0\.05 s"):
        run_query(reader, endless, rows_max=1, timeout_s=0.05)
    assert run(reader, "SELECT 1").rows == [(1,)], "the connection is as before"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM results",
        "UPDATE device SET device_id = 'x'",
        "INSERT INTO device VALUES (1, 'x', 1)",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "DROP VIEW generations",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "SAVEPOINT x",
        "PRAGMA query_only = 0",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 9",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('x')",
    ],
)
def test_whatever_does_not_only_read_is_refused(
    path: Path, reader: Connection, statement: str
) -> None:
    before = sorted(file.name for file in path.parent.iterdir())
    with pytest.raises(QueryRefused):
        run(reader, statement)
    assert sorted(file.name for file in path.parent.iterdir()) == before


@pytest.mark.parametrize(
    "statement",
    ["", "SELEC 1", "SELECT 1; SELECT 2", "SELECT\0 1", "SELECT '\ud800'", "SELECT :missing"],
)
def test_what_is_not_one_statement_is_refused(reader: Connection, statement: str) -> None:
    with pytest.raises(QueryRefused):
        run(reader, statement)


def test_a_value_that_sqlite_cannot_take_is_refused(reader: Connection) -> None:
    with pytest.raises(QueryRefused):
        run(reader, "SELECT :x", x=2**64)


def test_sql_without_a_bound_is_refused(reader: Connection) -> None:
    with pytest.raises(QueryRefused, match="characters"):
        run(reader, "SELECT " + "1," * 100_000 + "1")


@pytest.mark.parametrize("pragma", ["table_info(results)", "user_version", "page_count"])
def test_looking_at_the_schema_is_allowed(reader: Connection, pragma: str) -> None:
    assert run(reader, f"PRAGMA {pragma}").rows


def test_a_text_that_is_no_utf8_is_answered_with_what_shows_it(reader: Connection) -> None:
    with pytest.raises(QueryRefused, match="UTF-8") as caught:
        run(reader, "SELECT cast(x'ff41' AS TEXT) AS odd")
    assert "cast(… as blob)" in caught.value.hint
    assert run(reader, "SELECT cast(cast(x'ff41' AS TEXT) AS BLOB)").rows == [(b"\xffA",)]
