"""Calls that asked for no output are counted, and are no results."""

from pathlib import Path

import pytest
from support.records import make_result, new_database

from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Operation
from edge_store.sqlite import Connection


@pytest.fixture
def database(tmp_path: Path) -> Connection:
    """One row of each operation."""
    connection, boot = new_database(tmp_path / "results.db")
    results = [
        make_result(
            number,
            boot.boot_id,
            operation=operation,
            outputs=() if operation is Operation.EMBEDDINGS else make_result().outputs,
        )
        for number, operation in enumerate(Operation, start=1)
    ]
    write_batch(connection, boot, read_head(connection), len(results), results)
    return connection


SHOWN = len(Operation) - 1


@pytest.mark.parametrize("view", ["generations", "v_openai", "v_otel", "sglang_inference_results"])
def test_they_are_in_no_view_of_results(database: Connection, view: str) -> None:
    assert database.execute(f"SELECT count(*) FROM {view}").fetchone() == (SHOWN,)


def test_they_are_not_counted_as_use(database: Connection) -> None:
    found = database.execute("SELECT sum(requests), sum(output_tokens) FROM usage_by_day")
    assert found.fetchone() == (SHOWN, 2 * SHOWN)


def test_they_are_counted_as_admitted_and_completed(database: Connection) -> None:
    found = database.execute("SELECT admitted, completed, percent FROM completeness")
    assert found.fetchone() == (len(Operation), len(Operation), 100.0)


def test_each_result_is_an_object_of_openais(database: Connection) -> None:
    found = database.execute("SELECT object, content IS NULL FROM v_openai ORDER BY created, id")
    assert sorted(found.fetchall()) == [
        ("chat.completion", 0),
        ("list", 1),
        ("text_completion", 0),
        ("text_completion", 0),
    ]
