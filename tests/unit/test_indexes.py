"""Indexes on JSON paths, and which index answers which question."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.records import make_result, new_database

from edge_store.bench.history import MODELS, History
from edge_store.errors import AlreadyRunning, InvalidRequest, NotAnEdgeStoreFile, NotFound
from edge_store.indexes import JsonPath, add_index, list_indexes, remove_index, sole_writer
from edge_store.lock import DatabaseLock
from edge_store.result import JsonState
from edge_store.rows import insert_rows, to_row
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader
from edge_store.wal import wal_bytes

ROWS = 2_000


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    made = History(tmp_path_factory.mktemp("history") / "results.db", ROWS)
    made.grow(ROWS)
    yield made
    made.close()


def plan(connection: Connection, statement: str, **params: Any) -> str:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", params)
    return "\n".join(row[3] for row in rows)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Four results: two with a customer, one with metadata."""
    path = tmp_path / "results.db"
    connection, boot = new_database(path)
    documents = ('{"customer": {"id": 7}}', '{"customer": {"id": 8}}', '{"other": 1}', None)
    for n, document in enumerate(documents, 1):
        result = make_result(n, boot.boot_id, metadata='{"order": 5}' if n == 1 else None)
        output = msgspec.structs.replace(
            result.outputs[0], output_json=document, json_state=JsonState.VALID
        )
        result = msgspec.structs.replace(result, outputs=(output,))
        insert_rows(connection, [to_row(n, boot.timeline, result)])
    connection.close()
    return path


# The questions that the shipped index answers.


@pytest.mark.parametrize("block", ["bench_usage_by_hour", "bench_usage_by_day", "bench_models"])
def test_what_asks_all_results_reads_the_index_in_its_order(history: History, block: str) -> None:
    found = plan(history.connection, sql(block))
    assert "results USING INDEX results_by_model_and_hour" in found
    by_hour, _, above = found.partition("results_by_model_and_hour")
    assert "TEMP B-TREE" not in by_hour + above.partition("SCAN usage_by_hour")[0]


def test_p95_reads_no_row_of_the_table(history: History) -> None:
    program = history.connection.execute(f"EXPLAIN {sql('bench_p95')}", {"model": "x"}).fetchall()
    (root,) = history.connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'results'"
    ).fetchone()
    cursors = {row[2] for row in program if row[1] == "OpenRead" and row[3] == root}
    assert [row for row in program if row[1] == "Column" and row[2] in cursors] == []


@pytest.mark.parametrize(
    ("block", "used"),
    [
        ("bench_newest", r"^SCAN r$"),  # backwards by its key, and ends after 50
        ("bench_by_id", r"SEARCH r USING INDEX sqlite_autoindex_results_1 \(id=\?\)"),
        (
            "bench_model_and_time",
            r"SEARCH r USING INDEX results_by_model_and_hour \(<expr>=\? AND <expr>>\? AND <expr><",
        ),
        ("bench_p95", r"SEARCH results USING INDEX results_by_model_and_hour \(<expr>=\?\)"),
    ],
)
def test_a_lookup_is_a_search(history: History, block: str, used: str) -> None:
    names = re.findall(r":(\w+)", sql(block))
    found = plan(history.connection, sql(block), **dict.fromkeys(names, "1"))
    assert re.search(used, found, re.MULTILINE), found
    assert block == "bench_p95" or "TEMP B-TREE" not in found


def test_p95_is_the_value_that_a_twentieth_is_above(history: History) -> None:
    models = [model for (model,) in history.connection.execute(sql("bench_models"))]
    assert models == sorted(set(MODELS))
    for model in models:
        ordered = [
            latency
            for (latency,) in history.connection.execute(
                "SELECT latency_ms FROM results WHERE request_model = ? ORDER BY 1 DESC", (model,)
            )
        ]
        found = history.connection.execute(sql("bench_p95"), {"model": model}).fetchone()
        assert found == (ordered[len(ordered) // 20],)


def test_usage_by_day_is_what_the_rows_say(history: History) -> None:
    by_rows = history.connection.execute(
        """SELECT date(created_at / 1000, 'unixepoch'), request_model, count(*),
            count(*) FILTER (WHERE status = 'completed'),
            count(*) FILTER (WHERE status <> 'completed'),
            sum(input_tokens), sum(output_tokens), sum(cached_tokens),
            round(avg(latency_ms), 6), round(avg(ttft_ms), 6)
        FROM results GROUP BY 1, 2 ORDER BY 1, 2"""
    ).fetchall()
    by_view = history.connection.execute(
        """SELECT day, model, requests, completed, not_completed, input_tokens, output_tokens,
            cached_tokens, round(latency_ms_mean, 6), round(ttft_ms_mean, 6)
        FROM usage_by_day ORDER BY 1, 2"""
    ).fetchall()
    assert len(by_view) > 100
    assert by_view == by_rows


# Paths


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("output.customer.id", "json_extract(output_json, '$.customer.id')"),
        ("metadata.order", "json_extract(metadata, '$.order')"),
        ("output.items[0].sku-2", "json_extract(output_json, '$.items[0].sku-2')"),
        ("output[3]", "json_extract(output_json, '$[3]')"),
        ("metadata.größe", "json_extract(metadata, '$.größe')"),
    ],
)
def test_a_path_says_what_a_query_must_say(text: str, expression: str) -> None:
    assert JsonPath.parse(text).expression == expression
    assert str(JsonPath.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "output", "output.", "customer.id", "output.a b", "output.a'b", 'output."a"', "output..a",
     "output.a[x]", "output.a;b", "output.a\n", "metadata.a)", "output." + "a" * 200],
)  # fmt: skip
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        JsonPath.parse(text)
    assert "output.customer.id" in refused.value.hint


# Making and removing


def test_an_index_holds_the_rows_that_have_the_path_and_is_used(database: Path) -> None:
    path = JsonPath.parse("output.customer.id")
    question = f"SELECT seq FROM outputs WHERE {path.expression} = 8"
    with sole_writer(database, stays_open=False) as connection:
        assert "SCAN outputs" in plan(connection, question)
        assert add_index(connection, path)
        found = plan(connection, question)
        assert found == "SEARCH outputs USING INDEX json.output.customer.id (<expr>=?)"
        assert connection.execute(question).fetchall() == [(2,)]
        (index,) = list_indexes(connection)
    assert (index.path, index.table, index.entries) == ("output.customer.id", "outputs", 2)
    assert index.expression == path.expression
    assert 2 < index.bytes < 100


def test_metadata_has_indexes_too_and_each_is_listed(database: Path) -> None:
    with sole_writer(database, stays_open=False) as connection:
        for text in ("output.customer.id", "metadata.order"):
            add_index(connection, JsonPath.parse(text))
        found = {index.path: index.entries for index in list_indexes(connection)}
        question = "SELECT id FROM results WHERE json_extract(metadata, '$.order') = 5"
        assert "USING INDEX json.metadata.order" in plan(connection, question)
    assert found == {"metadata.order": 1, "output.customer.id": 2}


def test_the_size_is_read_from_the_index_alone(database: Path) -> None:
    path = JsonPath.parse("output.customer.id")
    with sole_writer(database, stays_open=False) as connection:
        add_index(connection, path)
        assert "COVERING INDEX" in plan(connection, path.sql("measure_output_index"))


def test_adding_again_changes_nothing_and_other_case_is_refused(database: Path) -> None:
    with sole_writer(database, stays_open=False) as connection:
        assert add_index(connection, JsonPath.parse("output.id"))
        assert not add_index(connection, JsonPath.parse("output.id"))
        with pytest.raises(InvalidRequest, match=r"output\.id") as refused:
            add_index(connection, JsonPath.parse("output.ID"))
        assert "index rm output.id" in refused.value.hint
        assert len(list_indexes(connection)) == 1


def test_a_removed_index_is_gone_and_only_that_one(database: Path) -> None:
    with sole_writer(database, stays_open=False) as connection:
        for text in ("output.a", "output.a.b"):
            add_index(connection, JsonPath.parse(text))
        remove_index(connection, JsonPath.parse("output.a"))
        assert [index.path for index in list_indexes(connection)] == ["output.a.b"]
        with pytest.raises(NotFound, match=r"output\.a"):
            remove_index(connection, JsonPath.parse("output.a"))


def test_an_index_on_a_missing_path_is_empty(database: Path) -> None:
    with sole_writer(database, stays_open=False) as connection:
        add_index(connection, JsonPath.parse("output.nowhere"))
        (index,) = list_indexes(connection)
    assert (index.entries, index.bytes) == (0, 0)


# The lock


def test_beside_a_daemon_nothing_is_changed(database: Path) -> None:
    with DatabaseLock(database), pytest.raises(AlreadyRunning) as refused:  # noqa: SIM117
        with sole_writer(database, stays_open=False):
            pytest.fail("two writers")
    assert refused.value.exit_code == 75
    assert "stop the daemon first" in refused.value.hint


def test_the_lock_is_free_afterwards(database: Path) -> None:
    with sole_writer(database, stays_open=False):
        pass
    with DatabaseLock(database):
        pass


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotAnEdgeStoreFile), sole_writer(tmp_path / "no.db", stays_open=False):
        pytest.fail("made from nothing")
    assert list(tmp_path.iterdir()) == []


def test_only_a_replicated_file_keeps_its_wal(database: Path) -> None:
    with sole_writer(database, stays_open=True) as kept:
        add_index(kept, JsonPath.parse("output.a"))
    assert wal_bytes(database) > 0
    with sole_writer(database, stays_open=False) as connection:
        add_index(connection, JsonPath.parse("output.b"))
    kept.close()
    reader = open_reader(database)
    assert [index.path for index in list_indexes(reader)] == ["output.a", "output.b"]
    reader.close()
