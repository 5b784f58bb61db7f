"""A selection is one condition: each field narrows it by itself, and all of them together."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.records import make_result, new_database

from edge_store.result import JsonState, Operation, Output, Status
from edge_store.rows import insert_rows, to_row
from edge_store.selection import EVERYTHING, Selection
from edge_store.sqlite import Connection

ONE = Selection(
    since=2_000,
    until=3_000,
    model="m",
    status=Status.FAILED,
    operation=Operation.GENERATE,
    tenant="key-1",
    user="ada",
    conversation="c",
    batch="b",
    json_state=JsonState.REPAIRED,
    tokens_min=70,
    tokens_max=80,
    latency_min_ms=900.0,
    latency_max_ms=1000.0,
    pinned=True,
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    connection, _ = new_database(tmp_path / "results.db")
    wanted = make_result(
        2,
        created_at=2_000,
        response_model="m",
        status=Status.FAILED,
        operation=Operation.GENERATE,
        tenant="key-1",
        user_id="ada",
        conversation_id="c",
        batch_id="b",
        input_tokens=50,
        output_tokens=25,
        latency_ms=950.0,
        outputs=(Output(choice_index=0, output_text="{}", json_state=JsonState.REPAIRED),),
    )
    rows = [
        make_result(1, created_at=1_999, input_tokens=500, latency_ms=2_000.0),
        wanted,
        make_result(3, created_at=3_000),
    ]
    insert_rows(connection, [to_row(seq, "t", row) for seq, row in enumerate(rows, 1)])
    pin = "INSERT INTO annotations (at, id, kind, value) VALUES (1, ?, 'pin', ?)"
    connection.execute(pin, (wanted.id, "true"))
    connection.execute(pin, (rows[0].id, "true"))
    connection.execute(pin, (rows[0].id, "false"))
    yield connection
    connection.close()


def chosen(connection: Connection, selection: Selection) -> list[int]:
    statement = f"SELECT r.seq FROM results AS r WHERE {selection.condition} ORDER BY 1"
    return [seq for (seq,) in connection.execute(statement, selection.values)]


def test_without_fields_it_is_everything(connection: Connection) -> None:
    assert Selection().condition == EVERYTHING
    assert chosen(connection, Selection()) == [1, 2, 3]


def test_all_fields_together_leave_the_one_that_has_them_all(connection: Connection) -> None:
    assert chosen(connection, ONE) == [2]


@pytest.mark.parametrize("name", Selection.__struct_fields__)
def test_each_field_narrows_by_itself(connection: Connection, name: str) -> None:
    alone = Selection(**{name: msgspec.structs.asdict(ONE)[name]})
    found = chosen(connection, alone)
    assert 2 in found
    assert len(found) < 3
