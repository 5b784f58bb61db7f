"""Read-only SQL: what reads is answered within its bounds, everything else is refused."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_store import query
from edge_store.errors import NotAnEdgeStoreFile, QueryRefused
from edge_store.identity import create_identity
from edge_store.query import answering, run_query
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, open_writer

COUNT_FOR_EVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT {} FROM c"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "results.db"
    connection = open_writer(path)
    migrate(connection)
    create_identity(connection, "box-1")
    connection.close()
    return path


@pytest.fixture
def reader(database: Path) -> Iterator[Connection]:
    connection = open_reader(database)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO device VALUES (1, 'x', 0)",
        "WITH x AS (SELECT 1) INSERT INTO device SELECT 1, 'x', 0 FROM x",
        "UPDATE device SET device_id = 'x'",
        "DELETE FROM device",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "DROP TABLE device",
        "ATTACH ':memory:' AS other",
        "ATTACH '{folder}/other.db' AS other",
        "VACUUM",
        "VACUUM INTO '{folder}/other.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "SAVEPOINT s",
        "PRAGMA query_only = 0",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 9",
        "PRAGMA application_id = 9",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA writable_schema = 1",
        "PRAGMA wal_autocheckpoint = 1000",
        "SELECT load_extension('x')",
        "SELECT * FROM pragma_wal_checkpoint('TRUNCATE')",
        "SELECT 1; DELETE FROM device",
        "SELEC 1",
        "SELECT * FROM absent",
        "SELECT :unbound",
        "",
        "   ",
        "/* nothing */",
    ],
)
def test_what_does_not_read_is_refused_and_changes_nothing(
    database: Path, reader: Connection, tmp_path: Path, statement: str
) -> None:
    before = database.read_bytes(), sorted(p.name for p in tmp_path.glob("other*"))
    with pytest.raises(QueryRefused) as caught:
        run_query(reader, statement.format(folder=tmp_path), rows_max=10, timeout_s=60)
    assert caught.value.hint
    assert (database.read_bytes(), sorted(p.name for p in tmp_path.glob("other*"))) == before
    assert run_query(reader, "SELECT 1", rows_max=10, timeout_s=60).rows == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        sql("select_summary"),
        "SELECT name FROM sqlite_schema",
        "PRAGMA table_info(results)",
        "PRAGMA user_version",
        "PRAGMA journal_mode",
        "EXPLAIN QUERY PLAN SELECT * FROM results",
        "SELECT json_extract('{\"a\": 1}', '$.a')",
        "VALUES (1)",
    ],
)
def test_what_reads_is_answered(reader: Connection, statement: str) -> None:
    assert run_query(reader, statement, rows_max=1000, timeout_s=60).columns


@pytest.mark.parametrize("view", ["generations", "usage_by_day", "completeness",
                                  "completeness_by_day", "v_openai",
                                  "v_otel", "sglang_inference_results"])  # fmt: skip
def test_every_view_can_be_read(reader: Connection, view: str) -> None:
    assert run_query(reader, f"SELECT * FROM {view}", rows_max=10, timeout_s=60).columns


def test_query_that_runs_too_long_is_ended(reader: Connection) -> None:
    with pytest.raises(QueryRefused, match=r"longer than 0\.1 s"):
        run_query(reader, COUNT_FOR_EVER.format("count(*)"), rows_max=1, timeout_s=0.1)


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf])
def test_query_without_a_bound_in_time_is_refused(reader: Connection, timeout_s: float) -> None:
    with pytest.raises(QueryRefused, match="time limit"):
        run_query(reader, "SELECT 1", rows_max=1, timeout_s=timeout_s)


def test_rows_over_the_cap_are_left_out_and_said_so(reader: Connection) -> None:
    result = run_query(reader, COUNT_FOR_EVER.format("n"), rows_max=3, timeout_s=60)
    assert (result.rows, result.is_cut) == ([(1,), (2,), (3,)], True)


def test_rows_over_the_size_are_left_out_and_said_so(
    reader: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "RESULT_BYTES_MAX", 1000)
    statement = COUNT_FOR_EVER.format("zeroblob(300)")
    result = run_query(reader, statement, rows_max=1000, timeout_s=60)
    assert (len(result.rows), result.is_cut) == (4, True)


def test_exactly_as_many_rows_as_the_cap_are_not_cut(reader: Connection) -> None:
    result = run_query(reader, "VALUES (1), (2), (3)", rows_max=3, timeout_s=60)
    assert (len(result.rows), result.is_cut) == (3, False)


def test_columns_of_one_name_are_told_apart(reader: Connection) -> None:
    result = run_query(reader, "SELECT 1 AS a, 2 AS a, 3 AS a_2", rows_max=1, timeout_s=60)
    assert len(set(result.columns)) == 3


def test_params_are_values_and_not_sql(reader: Connection) -> None:
    text = "x'; DELETE FROM device; --"
    result = run_query(reader, "SELECT :p", {"p": text}, rows_max=1, timeout_s=60)
    assert result.rows == [(text,)]


def test_reader_has_no_other_limits_left_after_a_refusal(reader: Connection) -> None:
    with pytest.raises(QueryRefused):
        run_query(reader, "DELETE FROM device", rows_max=1, timeout_s=60)
    assert reader.execute("PRAGMA query_only").fetchone() == (1,)
    # the wall behind the authorizer, which is gone now: the connection itself does not write
    with pytest.raises(driver.OperationalError, match="readonly"):
        reader.execute("DELETE FROM device")


def test_rows_committed_meanwhile_are_seen(database: Path, reader: Connection) -> None:
    count = "SELECT count(*) FROM timelines"
    before = run_query(reader, count, rows_max=1, timeout_s=60).rows[0][0]
    writer = open_writer(database)
    create_identity(writer, "box-1", reason="restored")
    assert run_query(reader, count, rows_max=1, timeout_s=60).rows[0][0] == before + 1
    writer.close()


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    other, text = tmp_path / "other.db", tmp_path / "text.db"
    connection = driver.connect(str(other))
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    text.write_text("not a database, but long enough to be looked at " * 40)
    for path in (other, text, tmp_path / "absent.db", tmp_path):
        with pytest.raises(NotAnEdgeStoreFile):
            open_reader(path)
    assert not (tmp_path / "absent.db").exists()


RISING = (
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 150) "
    "SELECT zeroblob(iif(n > 48, 1048576, 1)) FROM c"
)


def test_large_rows_behind_small_ones_are_not_held_by_the_thousand(reader: Connection) -> None:
    with answering(reader, RISING, rows_max=150, timeout_s=60) as answer:
        held = [sum(len(value) for (value,) in rows) for rows in answer.batches()]
        assert answer.count == 150
    assert max(held) <= 17 * 2**20, "sixteen of them, where sixty-four would have been"


def test_no_row_is_read_beyond_what_an_answer_may_hold(
    reader: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "RESULT_BYTES_MAX", 2**20)
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    reader.create_function("made", 1, make)
    statement = RISING.replace("SELECT zeroblob", "SELECT made(n), zeroblob")
    answer = run_query(reader, statement, rows_max=150, timeout_s=60)
    assert answer.is_cut
    assert len(made) <= len(answer.rows) + 2, "the driver is one ahead"
