"""Result ⇄ row ⇄ JSON, over every field, through a real file."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawing import FIELDS
from support.records import make_result, new_database

from edge_store.api.pages import public
from edge_store.chain import check_rows, verify_chain
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Boot, Content, Receipt, Result
from edge_store.rows import OUTPUT_COLUMNS, RESULT_COLUMNS, SHAPES, load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection

GIVEN_BY_TEST = {"id", "boot_id", "boot_seq"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Connection, Boot]]:
    connection, boot = new_database(tmp_path_factory.mktemp("rows") / "results.db")
    yield connection, boot
    connection.close()


def test_every_field_of_a_result_is_drawn() -> None:
    assert FIELDS.keys() | GIVEN_BY_TEST == set(Result.__struct_fields__)


@settings(max_examples=150, deadline=None)
@given(fields=st.fixed_dictionaries(FIELDS))
def test_a_result_comes_back_from_the_file_as_it_went_in(
    database: tuple[Connection, Boot], fields: dict[str, Any]
) -> None:
    connection, boot = database
    head = read_head(connection)
    if fields["batch_id"] is not None:  # a line of a batch is completed once
        fields = {**fields, "batch_id": f"{fields['batch_id']} {head.seq}"}
    result = make_result(head.seq + 1, boot.boot_id, **fields)

    written = write_batch(connection, boot, head, head.seq + 1, [result])

    (receipt,) = written.outcomes
    assert isinstance(receipt, Receipt), receipt
    assert written.head == read_head(connection)
    cursor = connection.execute(sql("select_result_by_id"), {"id": result.id})
    (recorded,) = load_recorded(connection, cursor)
    assert recorded.result == result
    assert (recorded.seq, recorded.timeline) == (receipt.seq, boot.timeline)
    packed = msgspec.json.encode(recorded)
    assert msgspec.json.decode(packed, type=type(recorded)) == recorded

    shown = json.loads(msgspec.json.encode(public(recorded, with_content=True)))
    assert shown["id"] == result.id
    assert shown["params"] == json.loads(result.params)
    assert shown["metadata"] == (None if result.metadata is None else json.loads(result.metadata))
    assert [o["output_text"] for o in shown["outputs"]] == [o.output_text for o in result.outputs]
    assert [o["output_json"] for o in shown["outputs"]] == [
        None if o.output_json is None else json.loads(o.output_json) for o in result.outputs
    ]


@settings(max_examples=60, deadline=None)
@given(
    some=st.lists(st.fixed_dictionaries(FIELDS), min_size=1, max_size=3),
    order=st.lists(st.integers(0, 2), min_size=2, max_size=45),
    fresh=st.booleans(),
)
def test_results_of_one_batch_come_back_whatever_they_have_in_common(
    database: tuple[Connection, Boot], some: list[dict[str, Any]], order: list[int], *, fresh: bool
) -> None:
    connection, boot = database
    head = read_head(connection)
    if fresh:
        SHAPES.clear()  # as in a process that has written nothing yet
    results = []
    for place, which in enumerate(order, head.seq + 1):
        fields = some[which % len(some)]
        if fields["batch_id"] is not None:
            fields = {**fields, "batch_id": f"{fields['batch_id']} {place}"}
        results.append(make_result(place, boot.boot_id, **fields))

    written = write_batch(connection, boot, head, head.seq + len(results), results)

    assert all(isinstance(outcome, Receipt) for outcome in written.outcomes), written.outcomes
    found = [
        recorded
        for result in results
        for recorded in load_recorded(
            connection, connection.execute(sql("select_result_by_id"), {"id": result.id})
        )
    ]
    assert [recorded.result for recorded in found] == results
    assert [recorded.seq for recorded in found] == [
        head.seq + n for n in range(1, len(results) + 1)
    ]
    assert check_rows(connection, head.seq + 1, head.seq + len(results)) == []


def test_the_chain_of_everything_above_holds(database: tuple[Connection, Boot]) -> None:
    connection, boot = database
    head = read_head(connection)
    write_batch(connection, boot, head, head.seq + 1, [make_result(head.seq + 1, boot.boot_id)])
    check = verify_chain(connection)
    assert check.faults == ()
    assert check.newest_digest == read_head(connection).digest


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("results", RESULT_COLUMNS),
        ("outputs", OUTPUT_COLUMNS),
        ("requests", ("seq", *Content.__struct_fields__, "output_at")),
        ("bodies", ("seq", *Content.__struct_fields__)),
    ],
)
def test_the_tables_columns_are_the_records_fields(
    database: tuple[Connection, Boot], table: str, columns: tuple[str, ...]
) -> None:
    connection, _ = database
    assert tuple(row[1] for row in connection.execute(f"PRAGMA table_info({table})")) == columns


@pytest.mark.parametrize(
    ("block", "columns"),
    [
        ("insert_result", RESULT_COLUMNS),
        ("insert_output", OUTPUT_COLUMNS),
        ("insert_content", ("seq", *Content.__struct_fields__, "output_at")),
    ],
)
def test_the_insert_names_the_records_fields_in_their_order(
    block: str, columns: tuple[str, ...]
) -> None:
    text = sql(block)
    names = text[text.index("(") + 1 : text.index(")")].split(",")
    assert tuple(name.strip() for name in names) == columns
    assert text.count("?") == len(columns)
