"""The transactions read from the log are those that Delta itself answers, one by one."""

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from edge_store.fleet.lake.store import Lake, said
from edge_store.fleet.lake.tables import schema_of
from edge_store.fleet.lake.transactions import Transactions

NAMES = [f"rows/box-{number}/t/0" for number in range(8)]


@pytest.fixture
def delta(tmp_path: Path) -> DeltaTable:
    """A table of five commits: two before its checkpoint, one of which names a box again."""
    made = Lake(str(tmp_path)).make("results", 1)
    for number in range(4):
        commit(made, {NAMES[number]: number, NAMES[0]: 10 * number})
        if number == 1:
            made.create_checkpoint()
    return made


def commit(delta: DeltaTable, transactions: dict[str, int]) -> None:
    rows = schema_of("results").empty_table()
    write_deltalake(delta, rows, mode="append", commit_properties=said("test", transactions))


def asked(delta: DeltaTable) -> dict[str, int | None]:
    return {name: delta.transaction_version(name) for name in NAMES}


def read(delta: DeltaTable) -> dict[str, int | None]:
    found = Transactions(delta, {})
    return {name: found.get(name) for name in NAMES}


def test_all_are_read_from_checkpoint_and_commits(delta: DeltaTable) -> None:
    assert read(delta) == asked(delta)
    assert read(delta)[NAMES[0]] == 30


def test_a_table_that_is_open_at_an_earlier_version_is_read_as_of_then(delta: DeltaTable) -> None:
    for version in range(delta.version() + 1):
        then = DeltaTable(delta.table_uri, version=version)
        assert read(then) == asked(then)


def test_a_log_without_its_early_commits_is_read(delta: DeltaTable) -> None:
    log = Path(delta.table_uri.removeprefix("file://"), "_delta_log")
    for version in range(2):
        (log / f"{version:020}.json").unlink()
    assert read(DeltaTable(delta.table_uri)) == asked(DeltaTable(delta.table_uri))


@pytest.mark.parametrize("more", [{"parts": 2}, {"v2Checkpoint": {}}])
def test_a_log_of_another_shape_is_asked_through_delta(
    delta: DeltaTable, more: dict[str, object]
) -> None:
    expected = asked(delta)
    last = Path(delta.table_uri.removeprefix("file://"), "_delta_log", "_last_checkpoint")
    last.write_text(json.dumps({**json.loads(last.read_text()), **more}))
    assert read(delta) == expected


def test_what_is_committed_later_is_noted(delta: DeltaTable) -> None:
    found = Transactions(delta, {})
    found.note({NAMES[7]: 70})
    assert found.get(NAMES[7]) == 70
