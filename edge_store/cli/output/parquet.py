"""Rows into a Parquet file. A column there has one type, so the rows are gone through twice: SQLite
says of each value what it is, and of a column nothing.
"""

import os
from typing import Any

import click

from edge_store.cli.output.options import Details
from edge_store.cli.output.writing import Rows
from edge_store.errors import EdgeStoreError, QueryRefused, install

__all__ = ["write_parquet"]

ROWS_PER_GROUP = 65_536
BYTES_PER_GROUP = 64 * 1024 * 1024
FILE_MODE = 0o640  # results are for their owner and group


def write_parquet(result: Rows, told: Details) -> None:
    """Write the whole file, or none.

    Raises:
        QueryRefused: a column has values of more than one type.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as exc:
        raise EdgeStoreError(
            "Parquet needs pyarrow, which is not here", hint=install("parquet")
        ) from exc
    assert told.parquet is not None
    schema = pa.schema(list(zip(result.columns, _types(result, pa), strict=True)))
    unfinished = told.parquet.with_name(f"{told.parquet.name}.new")
    count = 0
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        with parquet.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for rows in _groups(result):
                arrays = [
                    pa.array(column, type=field.type)
                    for column, field in zip(zip(*rows, strict=True), schema, strict=True)
                ]
                writer.write_table(pa.table(arrays, schema=schema))
                count += len(rows)
        unfinished.replace(told.parquet)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as exc:
        raise QueryRefused(
            f"a value is not of its column's type: {exc}", hint="CAST the column in the SQL"
        ) from exc
    finally:
        unfinished.unlink(missing_ok=True)
    click.echo(f"edge-store: {count} rows in {told.parquet}", err=True)


def _types(result: Rows, pa: Any) -> list[Any]:
    kinds: list[set[type]] = [set() for _ in result.columns]
    for batch in result.batches():
        for found, column in zip(kinds, zip(*batch, strict=True), strict=True):
            found.update(map(type, column))
    return [_type(name, found, pa) for name, found in zip(result.columns, kinds, strict=True)]


def _type(name: str, found: set[type], pa: Any) -> Any:
    known = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary(),
             bool: pa.bool_()}  # fmt: skip
    kinds = found - {type(None)}
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1 or not kinds <= known.keys():
        raise QueryRefused(
            f"column {name} has values of several types: "
            f"{', '.join(sorted(kind.__name__ for kind in kinds))}",
            hint=f"make it one: CAST({name} AS TEXT)",
        )
    return known[kinds.pop()] if kinds else pa.null()


def _groups(result: Rows) -> Any:
    """Batches put together, for a file of few groups."""
    held: list[tuple[Any, ...]] = []
    size = 0
    for batch in result.batches():
        held += batch
        size += sum(len(value) for row in batch for value in row if isinstance(value, str | bytes))
        if len(held) >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield held
            held, size = [], 0
    if held:
        yield held
