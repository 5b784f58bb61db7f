"""Any value that SQLite can hold comes back from each format that is for programs."""

import base64
import csv
import io
import json
import math
import tempfile
import unicodedata
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_store.cli.output import Rows, write_rows
from edge_store.query import QueryResult, answering
from edge_store.sqlite import driver

SPECIAL = ("\x00", "\ud800".encode("unicode_escape").decode(), "\r\n", "\u200f\u05d0\u202e", "👩‍🚀",
           "漢", '""', ",\t;", "'", " x ", "\u2028", "inf", "null", "0", "\x1b[2J",
           "\x85")  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.lists(
    st.sampled_from(SPECIAL), max_size=4
).map("".join)
NUMBER = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from([1e308, math.inf, -math.inf, 2**63 - 1])
)
VALUE = st.none() | NUMBER | TEXT | st.binary(max_size=8)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.tuples(*[VALUE] * width), min_size=1, max_size=4)
)


def written(result: Rows, fmt: str, **details: Any) -> str:
    stream = io.StringIO(newline="")
    with click.Context(click.Command("test")) as context:
        context.meta["edge_store.cli.output"] = details
        write_rows(result, fmt, stream)
    return stream.getvalue()


def through_sqlite(rows: list[tuple[Any, ...]], fmt: str, **details: Any) -> str:
    """What the rows are once they were in a table: nothing is lost on the way there."""
    names = ", ".join(f"c{n}" for n in range(len(rows[0])))
    with closing(driver.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"CREATE TABLE t ({names})")
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO t VALUES ({marks})", rows)
        with answering(connection, "SELECT * FROM t", rows_max=100, timeout_s=60) as answer:
            return written(answer, fmt, **details)


def as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value


@given(ROWS)
def test_json_gives_back_every_value(rows: list[tuple[Any, ...]]) -> None:
    expected = [[as_json(value) for value in row] for row in rows]
    lines = through_sqlite(rows, "nl").split("\n")
    assert lines.pop() == ""
    assert [list(json.loads(line).values()) for line in lines] == expected
    assert [list(row.values()) for row in json.loads(through_sqlite(rows, "json"))] == expected
    assert json.loads(through_sqlite(rows, "json", arrays=True)) == expected
    lines = through_sqlite(rows, "nl", arrays=True).split("\n")[:-1]
    assert [json.loads(line) for line in lines] == expected
    kinds = [[type(value) for value in row] for row in expected]
    assert [[type(value) for value in json.loads(line)] for line in lines] == kinds


@given(ROWS)
def test_separated_values_give_back_every_text(rows: list[tuple[Any, ...]]) -> None:
    expected = [["" if v is None else str(as_json(v)) for v in row] for row in rows]
    for fmt, delimiter in (("csv", ","), ("tsv", "\t")):
        text = through_sqlite(rows, fmt)
        head, *found = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        assert (head, found) == ([f"c{n}" for n in range(len(rows[0]))], expected)
        bare = io.StringIO(through_sqlite(rows, fmt, no_headers=True), newline="")
        assert list(csv.reader(bare, delimiter=delimiter, strict=True)) == expected


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_raw_gives_back_every_text(texts: list[str]) -> None:
    rows = [(text,) for text in texts]
    assert through_sqlite(rows, "raw", raw="c0") == "".join(f"{text}\n" for text in texts)


DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, list | dict))  # fmt: skip


@given(DOCUMENT, st.sampled_from([None, 1]))
@example(["\ud800", {"\udfff": 1}], 1)
@example([10**400, {"a": 1e308}], None)
def test_json_columns_give_back_every_document(document: Any, indent: int | None) -> None:
    text = json.dumps(document, indent=indent)  # lone surrogates are escaped
    shown = through_sqlite([(text,)], "nl", json_cols=True)
    assert shown.count("\n") == 1
    assert json.loads(shown) == {"c0": document}


@given(st.lists(st.tuples(st.none() | TEXT, NUMBER), min_size=1, max_size=3))
def test_pages_for_people_have_no_control_characters_and_whole_lines(
    rows: list[tuple[Any, ...]],
) -> None:
    for fmt in ("table", "vertical", "fmt"):
        shown = through_sqlite(rows, fmt, tabulate="psql")
        bad = {each for each in shown if unicodedata.category(each) in ("Cc", "Cs")} - {"\n"}
        assert not bad, fmt
        if fmt == "table":
            assert shown.count("\n") == len(rows) + 2


@given(st.lists(st.tuples(st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | TEXT,
                          st.none() | st.binary(max_size=8),
                          st.none() | st.floats(allow_nan=False)), max_size=4))  # fmt: skip
def test_parquet_gives_back_every_value_of_a_column_of_one_type(
    rows: list[tuple[Any, ...]],
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    result = QueryResult(columns=("i", "t", "b", "f"), rows=rows, is_cut=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        written(result, "parquet", parquet=file)
        table = pq.read_table(file)
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
