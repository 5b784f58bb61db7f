"""Results as Parquet and back, value for value: the digests that the chain has are taken again from
what a file holds. One row per result, its outputs and what was said of it later as lists in it; a
file of bodies only has one row per result, too.

Needs pyarrow, which is imported where it is used.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edge_store.errors import ConfigError, install
from edge_store.recorder.deletions import What
from edge_store.rows import (
    OUTPUT_COLUMNS,
    RESULT_COLUMNS,
    content_digest,
    row_digest,
    whole_body,
)
from edge_store.schema import statements
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver

__all__ = ["BODIES", "Packed", "decode", "encode", "faults_of", "pack", "require_pyarrow"]

BODIES = ("input_text", "request_body", "response_body")
OF_CONTENT = ("seq", "timeline", "id", "created_at", "completed_at", "digest")
LATER = {
    "annotations": ("at", "kind", "value"),
    "repairs": (
        "at", "choice_index", "output_json", "json_state", "schema_valid", "schema_error",
        "repair_log", "repairer",
    ),
}  # fmt: skip
LATER_OF = {"annotations": "select_annotations_of", "repairs": "select_repairs_of"}
ROWS_AT_ONCE = 256
LEVEL = 3  # of zstd
WIDTH = len(RESULT_COLUMNS)

Packed = dict[str, Any]  # a row, by column


def require_pyarrow() -> Any:
    """The library, with one thread: each of a large box's would hold memory of its own, and an
    archive is in no hurry.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415  (0.4 s, and few boxes need it)
    except ImportError as exc:
        raise ConfigError(
            "an archive needs pyarrow, which is not installed",
            hint=install("parquet"),
        ) from exc
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    return pyarrow


def pack(connection: Connection, seqs: Sequence[int]) -> tuple[list[Packed], list[int]]:
    """Whole results with their bodies, as far as they are here; and those that are not as they were
    committed, which are evidence and stay where they are.
    """
    wanted = set(seqs)
    span = {"seq_from": min(seqs), "seq_to": max(seqs)}
    outputs: dict[int, list[tuple[Any, ...]]] = {}
    for row in connection.execute(sql("select_chain_outputs"), span):
        if row[0] in wanted:
            outputs.setdefault(row[0], []).append(row)
    expired = {
        row[0]: row[-1]
        for row in connection.execute(sql("select_chain_deletions"), {"what": "content", **span})
    }
    packed, odd = [], []
    for row in connection.execute(sql("select_chain_results"), span):
        seq = row[0]
        if seq not in wanted:
            continue
        values = row[:WIDTH]
        bodies: tuple[Any, ...] = (None, None, None)
        content = expired.get(seq, b"")
        if row[WIDTH] is not None:
            text, sent, got = row[WIDTH + 1 :]
            bodies = (text, whole_body(connection, seq, sent), got)
            content = content_digest(bodies)
        mine = outputs.get(seq, [])
        if row_digest(values[:-1], mine, content) != values[-1]:
            odd.append(seq)
            continue
        found = dict(zip(RESULT_COLUMNS, values, strict=True))
        found["outputs"] = [
            dict(zip(OUTPUT_COLUMNS[1:], output[1:], strict=True)) for output in mine
        ]
        found |= dict(zip(BODIES, bodies, strict=True))
        found["content_digest"] = content
        for table, columns in LATER.items():
            of_result = connection.execute(sql(LATER_OF[table]), {"id": found["id"]})
            found[table] = [dict(zip(columns, values, strict=True)) for values in of_result]
        packed.append(found)
    return packed, odd


def encode(what: What, rows: Iterable[Packed]) -> bytes:
    """A file of these rows."""
    pyarrow = require_pyarrow()
    shape = _shape(what)
    table = pyarrow.Table.from_pylist(
        [{name: row[name] for name in shape.names} for row in rows], schema=shape
    )
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        table, sink, compression="zstd", compression_level=LEVEL, row_group_size=ROWS_AT_ONCE * 8
    )
    return bytes(sink.getvalue())


def decode(content: bytes) -> Iterator[Packed]:
    """The rows of a file.

    Raises:
        ValueError: it is none, or damaged.
    """
    pyarrow = require_pyarrow()
    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def faults_of(what: What, row: Packed) -> str | None:
    """What of a row is not as it was committed."""
    bodies = tuple(row[name] for name in BODIES)
    if row["request_body"] is not None and content_digest(bodies) != row["content_digest"]:
        return f"the bodies of seq {row['seq']} ({row['id']}) are not as they were"
    if what is What.CONTENT:
        return None
    values = tuple(row[name] for name in RESULT_COLUMNS[:-1])
    outputs = [
        (row["seq"], *(each[name] for name in OUTPUT_COLUMNS[1:])) for each in row["outputs"]
    ]
    if row_digest(values, outputs, row["content_digest"]) != row["digest"]:
        return f"seq {row['seq']} ({row['id']}) is not as it was committed"
    return None


def _shape(what: What) -> Any:
    pyarrow = require_pyarrow()
    types = {
        "INTEGER": pyarrow.int64(),
        "REAL": pyarrow.float64(),
        "TEXT": pyarrow.string(),
        "BLOB": pyarrow.binary(),
    }
    declared = _declared()

    def fields(table: str, columns: Iterable[str]) -> list[Any]:
        return [pyarrow.field(name, types[declared[table, name]]) for name in columns]

    bodies = [*fields("requests", BODIES), pyarrow.field("content_digest", pyarrow.binary())]
    if what is What.CONTENT:
        return pyarrow.schema([*fields("results", OF_CONTENT), *bodies])
    lists = {"outputs": OUTPUT_COLUMNS[1:], **LATER}
    return pyarrow.schema(
        [
            *fields("results", RESULT_COLUMNS),
            *bodies,
            *(
                pyarrow.field(table, pyarrow.list_(pyarrow.struct(fields(table, columns))))
                for table, columns in lists.items()
            ),
        ]
    )


def _declared() -> dict[tuple[str, str], str]:
    """The type of each column that a file has, as the first migration declares it."""
    connection = driver.connect(":memory:", isolation_level=None)
    try:
        for statement in statements("0001_initial.sql"):
            connection.execute(statement)
        return {
            (table, name): kind
            for table in ("results", "outputs", "requests", *LATER)
            for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")
        }
    finally:
        connection.close()
