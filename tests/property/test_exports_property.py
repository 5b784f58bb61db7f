"""Any result: out as JSONL and back on a new box it is the same, and each other format holds it."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.drawing import FIELDS
from support.exporting import exported
from support.records import make_result, new_database

from edge_store.chain import verify_chain
from edge_store.exports.lines import LineOf
from edge_store.imports.sourced import named
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.disk import Disk
from edge_store.recorder.intake import BootOfItsOwn, Take
from edge_store.result import Boot, Result
from edge_store.rows import load_recorded
from edge_store.sqlite import Connection

Box = tuple[Path, Connection, Boot]
NASTY = st.sampled_from(
    ['{"a": "\\ud800"}', "[1e308, -0.0, 123456789012345678901234567890]", '{\n"a":\r\n1}',
     '{"\\u0000": 1, "a": 1, "a": 2}', "[" * 300 + "]" * 300, '"a text"', "null", "17",
     '{"نص": "👩‍🚀\u2028"}']
)  # fmt: skip
JSON_FIELDS = ("params", "metadata", "privacy")
GIVEN = {**FIELDS, **{name: FIELDS[name] | NASTY for name in JSON_FIELDS}}
BOX_ONLY = {"device_id", "boot_id", "boot_seq", "engine"}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    folder = tmp_path_factory.mktemp("export")
    made = []
    for name in ("from", "to"):
        connection, boot = new_database(folder / f"{name}.db")
        made.append((folder / f"{name}.db", connection, boot))
    yield made[0], made[1]
    for _, connection, _ in made:
        connection.close()


def last(connection: Connection) -> Result:
    cursor = connection.execute("SELECT * FROM results ORDER BY seq DESC LIMIT 1")
    return next(iter(list(load_recorded(connection, cursor)))).result


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fields=st.fixed_dictionaries(GIVEN))
def test_any_result_comes_back_from_its_line_as_it_was(
    boxes: tuple[Box, Box], fields: dict[str, Any]
) -> None:
    (source, connection, boot), (_, other, _) = boxes
    head = read_head(connection)
    if fields["batch_id"] is not None:  # a line of a batch is completed once
        fields = {**fields, "batch_id": f"{fields['batch_id']} {head.seq}"}
    result = make_result(head.seq + 1, boot.boot_id, **fields)
    write_batch(connection, boot, head, head.seq + 1, [result])
    stored = last(connection)  # what no database can hold is escaped by now
    folder = source.parent

    exported(source, folder / "x.jsonl", "jsonl", bodies=True, after=head.seq, restart=True)
    line = (folder / "x.jsonl").read_bytes()
    assert line.count(b"\n") == 1
    json.loads(line)
    back, _said, is_recorded = LineOf()(line)
    assert is_recorded
    assert back == stored
    own = BootOfItsOwn(other, Disk(folder / "to.db", 0), "jsonl")
    taken = own.take(Take(results=(named(back, None),)))
    own.end()
    assert taken.taken == 1
    kept = last(other)
    assert {name for name in stored.__struct_fields__
            if getattr(kept, name) != getattr(stored, name)} <= BOX_ONLY  # fmt: skip

    flat = connection.execute(
        "SELECT * FROM generations WHERE seq > ?", (head.seq,)).fetchall()  # fmt: skip
    exported(source, folder / "x.csv", "csv", after=head.seq, restart=True)
    text = (folder / "x.csv").read_bytes().decode()
    found = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert found == [["" if value is None else str(value) for value in row] for row in flat]
    exported(source, folder / "lake", "parquet", after=head.seq, restart=True)
    rows = [row for part in (folder / "lake").rglob("*.parquet")
            for row in pq.ParquetFile(part).read().to_pylist()]  # fmt: skip
    names = ("id", "output_text", "input_tokens", "params", "latency_ms", "tenant")
    shown = connection.execute(
        "SELECT id, output_text, input_tokens, params, latency_ms, tenant FROM generations "
        "WHERE seq > ?", (head.seq,)).fetchall()  # fmt: skip
    assert [tuple(row[name] for name in names) for row in rows] == shown


def test_the_boxes_of_everything_above_are_whole(boxes: tuple[Box, Box]) -> None:
    for _, connection, _ in boxes:
        assert verify_chain(connection).faults == ()
    percents = boxes[1][1].execute("SELECT percent FROM completeness").fetchall()
    assert {percent for (percent,) in percents} == {100.0}
