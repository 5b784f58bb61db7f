"""The rows of the comparison, made by measure.py, and where they go.

``WIDE`` is one table with no index but that of the id: kinder than our schema, as one INSERT a row
does it. ``SAME`` are our three tables, with the keys and the index that ours have.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, dict[str, Any]]  # of each of our tables: column and value
TYPES = {int: "bigint", float: "double precision", str: "text", type(None): "text"}


@cache
def rows() -> list[Row]:
    """All of them, read once: no contender is charged with the making of what it writes."""
    with Path(os.environ["STACK_ROWS"]).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@cache
def flat_rows() -> list[dict[str, Any]]:
    """The same, each as one row."""
    return [flat(row) for row in rows()]


def flat(row: Row) -> dict[str, Any]:
    """All of it as one row."""
    outputs = {f"output_{k}" if k == "finish_reason" else k: v for k, v in row["outputs"].items()}
    return {**row["requests"], **outputs, **row["results"]}


def _columns(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {TYPES[type(value)]}" for name, value in values.items())


def _insert(table: str, names: tuple[str, ...], places: Iterator[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(places)})"  # noqa: S608


with Path(os.environ["STACK_ROWS"]).open(encoding="utf-8") as _file:
    _FIRST: Row = json.loads(_file.readline())
WIDE_COLUMNS = tuple(flat(_FIRST))
WIDE_CREATE = f"CREATE TABLE wide ({_columns(flat(_FIRST))}, PRIMARY KEY (id))"
WIDE_BY_NAME = _insert("wide", WIDE_COLUMNS, (f"%({name})s" for name in WIDE_COLUMNS))
WIDE_BY_NUMBER = _insert("wide", WIDE_COLUMNS, (f"${n + 1}" for n in range(len(WIDE_COLUMNS))))
WIDE_BY_VALUES = f"INSERT INTO wide ({', '.join(WIDE_COLUMNS)}) VALUES %s"  # noqa: S608

SAME_BY_NUMBER = {
    table: _insert(table, tuple(values), (f"${n + 1}" for n in range(len(values))))
    for table, values in _FIRST.items()
}
SAME_CREATE = (
    f"""CREATE TABLE results ({_columns(_FIRST["results"])},
        PRIMARY KEY (seq), UNIQUE (id))""",
    """CREATE INDEX ON results (coalesce(response_model, request_model), (created_at / 3600000),
        created_at, status, latency_ms, ttft_ms, input_tokens, output_tokens, cached_tokens)
        WHERE operation <> 'prefix_cache'""",
    """CREATE INDEX ON results (
        coalesce(tenant, ''), coalesce(response_model, request_model, ''), seq)
        WHERE endpoint = '/v1/chat/completions' AND status = 'completed'""",
    f"""CREATE TABLE outputs ({_columns(_FIRST["outputs"])}, PRIMARY KEY (seq, choice_index),
        FOREIGN KEY (seq) REFERENCES results (seq) ON DELETE CASCADE)""",
    f"""CREATE TABLE requests ({_columns(_FIRST["requests"])}, PRIMARY KEY (seq),
        FOREIGN KEY (seq) REFERENCES results (seq) ON DELETE CASCADE)""",
)
