"""Writes rows batch by batch, each format as a pipe or a file takes it."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, Protocol, TextIO

import click
import msgspec

from edge_store.cli.output.options import Details, details
from edge_store.cli.output.words import as_json, is_utf8

__all__ = ["Rows", "plain", "write_rows"]

Batch = list[tuple[Any, ...]]
INT64 = range(-(2**63), 2**64)  # what the encoder takes
QUOTED = {"csv": re.compile('[,"\r\n]'), "tsv": re.compile('[\t"\r\n]')}
DELIMITER = {"csv": ",", "tsv": "\t"}
ENCODER = msgspec.json.Encoder()
INFINITE = math.inf


class Rows(Protocol):
    """What can be written: a ``QueryResult``, or an ``Answer`` as it comes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, each once."""

    def batches(self) -> Iterator[Batch]:
        """All rows; again when it is called again."""


def write_rows(result: Rows, fmt: str, stream: TextIO) -> None:
    """Write every row. BLOBs are base64 in JSON, CSV and TSV, and a size in a table."""
    told = details()
    if fmt == "parquet":
        from edge_store.cli.output.parquet import write_parquet

        write_parquet(result, told)
    elif stream.isatty():
        from edge_store.cli.output.pager import paged

        with paged(stream) as screen:
            _write(result, fmt, told, screen)
    else:
        _write(result, fmt, told, stream)


def _write(result: Rows, fmt: str, told: Details, stream: TextIO) -> None:
    match fmt:
        case "table" | "vertical" | "fmt":
            from edge_store.cli.output import table

            writers = {"table": table.write_table, "vertical": table.write_vertical}
            writers.get(fmt, table.write_tabulated)(result, told, stream)
        case "csv" | "tsv":
            _write_separated(result, fmt, told, stream)
        case "json":
            _write_array(result, told, _json_to(stream))
        case "raw":
            _write_raw(result, told, stream)
        case _:
            put = _json_to(stream)
            for batch in result.batches():
                put(_lines(result.columns, batch, told))


def _bytes_to(stream: TextIO) -> Callable[[bytes], object]:
    """What is UTF-8 need not be decoded to be encoded again."""
    buffer = getattr(stream, "buffer", None)
    if buffer is None or not is_utf8(stream):
        return lambda data: stream.write(data.decode())
    stream.flush()
    put: Callable[[bytes], object] = buffer.write
    return put


def _json_to(stream: TextIO) -> Callable[[bytes], object]:
    if is_utf8(stream):
        return _bytes_to(stream)
    return lambda data: stream.write(as_json(data.decode(), stream))


def _write_array(result: Rows, told: Details, put: Callable[[bytes], object]) -> None:
    before = b"["
    for batch in result.batches():
        # No line break is in a line of JSON but the one at its end.
        put(before + _lines(result.columns, batch, told)[:-1].replace(b"\n", b",\n "))
        before = b",\n "
    put(b"[]\n" if before == b"[" else b"]\n")


def _lines(columns: tuple[str, ...], batch: Iterable[tuple[Any, ...]], told: Details) -> bytes:
    """One JSON document a line."""
    rows = batch if isinstance(batch, list) else list(batch)
    if told.json_cols:
        rows = [tuple(map(_parsed, row)) for row in rows]
    try:
        encoded = _encoded(columns, rows, told)
        if b"null" not in encoded or not any(INFINITE in row or -INFINITE in row for row in rows):
            return encoded
    except (UnicodeEncodeError, OverflowError, TypeError):
        pass
    return _encoded(columns, [tuple(map(plain, row)) for row in rows], told)


def _encoded(columns: tuple[str, ...], rows: Batch, told: Details) -> bytes:
    if told.arrays:
        return ENCODER.encode_lines(rows)
    return ENCODER.encode_lines(list(map(dict, map(zip, repeat(columns), rows))))


def _parsed(value: Any) -> Any:
    """A text that is a JSON object or array as that, to the letter, on one line."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        data = value.encode()
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        if not _is_json(value):
            return value
    # In JSON, a line break as such is white space between two tokens.
    return msgspec.Raw(data.replace(b"\n", b" ").replace(b"\r", b" "))


def _is_json(text: str) -> bool:
    """Whether it is, also where a lone surrogate is escaped in it, which msgspec does not take."""
    import json

    try:
        json.loads(text, parse_constant=int)  # NaN is none: int() raises
    except (ValueError, RecursionError):
        return False
    return True


def plain(value: Any) -> Any:
    """A value that JSON has: what it has no number for is a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value not in INT64:
        return msgspec.Raw(str(value).encode())
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    is_known = isinstance(value, bytes | msgspec.Raw | int | float | dict | list | tuple | None)
    return value if is_known else str(value)


def _write_separated(result: Rows, fmt: str, told: Details, stream: TextIO) -> None:
    """As PostgreSQL writes it, so that NULL can be told from an empty text; but alone in its row
    NULL is quoted too, as many readers skip an empty line.
    """
    must_quote, delimiter = QUOTED[fmt].search, DELIMITER[fmt]

    def field(value: Any) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            return base64_text(value) if isinstance(value, bytes) else text_of(value)
        if value and not must_quote(value):
            return value
        doubled = value.replace('"', '""')
        return f'"{doubled}"'

    def line(row: Iterable[Any]) -> str:
        return delimiter.join(map(field, row)) or '""'

    if not told.no_headers:
        stream.write(line(result.columns) + "\n")
    stream.writelines("".join(f"{line(row)}\n" for row in batch) for batch in result.batches())


def text_of(value: Any) -> str:
    """Of a number, or a text; a truth value is called as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def base64_text(value: bytes) -> str:
    """As in JSON."""
    import base64

    return base64.b64encode(value).decode()


def _write_raw(result: Rows, told: Details, stream: TextIO) -> None:
    if told.raw not in result.columns:
        raise click.UsageError(
            f"the answer has no column {told.raw}; it has {', '.join(result.columns)}"
        )
    place = result.columns.index(told.raw)
    put = _bytes_to(stream)
    for batch in result.batches():
        for row in batch:
            value = row[place]
            if isinstance(value, bytes) and not stream.isatty():
                put(value)
            elif isinstance(value, bytes):
                put(value.decode(errors="backslashreplace").encode() + b"\n")
            else:
                text = "" if value is None else text_of(value)
                put(text.encode(errors="backslashreplace") + b"\n")
