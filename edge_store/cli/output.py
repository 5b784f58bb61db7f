"""Rows on standard output: a table for people, NDJSON for pipes, CSV, TSV and JSON for the rest."""

import base64
import csv
import json
import math
import shutil
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

import click

from edge_store.clock import utc_text
from edge_store.query import QueryResult

__all__ = [
    "bytes_text",
    "chosen_format",
    "output_options",
    "span_text",
    "time_text",
    "write_json",
    "write_rows",
]

CELL_CHARS_MAX = 60
CELL_CHARS_MIN = 8
TEXT_CHARS_MAX = 10 * CELL_CHARS_MAX  # of a value, before its white space is folded
COLUMN_GAP = 2
F = TypeVar("F", bound=Callable[..., Any])
FORMATS = {
    "nl": "One JSON object per line; the default when piped.",
    "csv": "Comma-separated values with a header.",
    "tsv": "Tab-separated values with a header.",
    "table": "A table; the default on a terminal. Long values are cut.",
    "json": "One JSON array of objects.",
}


def output_options(command: F) -> F:
    """Add ``--nl --csv --tsv --table --json``, which set ``fmt``."""
    for name, text in reversed(FORMATS.items()):
        command = click.option(f"--{name}", "fmt", flag_value=name, default=None, help=text)(
            command
        )
    return command


def chosen_format(fmt: str | None, stream: TextIO) -> str:
    """The format asked for, or the one that fits the stream."""
    return fmt or ("table" if stream.isatty() else "nl")


def write_rows(result: QueryResult, fmt: str, stream: TextIO) -> None:
    """Write every row. BLOBs are base64 in JSON, CSV and TSV, and a size in a table."""
    match fmt:
        case "table":
            _write_table(result, stream)
        case "csv" | "tsv":
            writer = csv.writer(
                stream, delimiter="," if fmt == "csv" else "\t", lineterminator="\n"
            )
            writer.writerow(result.columns)
            writer.writerows([_plain(value) for value in row] for row in result.rows)
        case "json":
            objects = [_object(result.columns, row) for row in result.rows]
            stream.write(json.dumps(objects, ensure_ascii=False, indent=1) + "\n")
        case _:
            for row in result.rows:
                line = json.dumps(_object(result.columns, row), ensure_ascii=False)
                stream.write(f"{line}\n")


def _object(columns: tuple[str, ...], row: tuple[Any, ...]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(columns, row, strict=True)}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no number for it
    return value


def _write_table(result: QueryResult, stream: TextIO) -> None:
    cells = [[_cell(value) for value in row] for row in result.rows]
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    bounds = _bounds(result.columns, cells, width)
    widths = [max(len(name), bound) for name, bound in zip(result.columns, bounds, strict=True)]
    for row in (list(result.columns), ["-" * width for width in widths], *cells):
        parts = (_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        stream.write((COLUMN_GAP * " ").join(parts).rstrip() + "\n")


def _bounds(columns: tuple[str, ...], cells: list[list[str]], width: int | None) -> list[int]:
    """Characters each column may have: all are cut at ``CELL_CHARS_MAX``, and on a terminal the
    widest are cut further until a row fits, down to ``CELL_CHARS_MIN``: first those of prose, as
    the beginnings of ids are all the same.
    """
    prose = [any(row[n].count(" ") > 1 for row in cells) for n in range(len(columns))]
    found = [
        min(CELL_CHARS_MAX, max((len(row[n]) for row in cells), default=0))
        for n in range(len(columns))
    ]
    while width and found:
        shown = [max(bound, len(name)) for bound, name in zip(found, columns, strict=True)]
        widest = max(
            range(len(found)),
            key=lambda n: (found[n] > CELL_CHARS_MIN, prose[n], found[n]),
        )
        if sum(shown) + COLUMN_GAP * (len(shown) - 1) <= width or found[widest] <= CELL_CHARS_MIN:
            break
        found[widest] -= 1
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = " ".join(str(value)[:TEXT_CHARS_MAX].split())
    # a model's text must not reach the terminal as an escape sequence
    return "".join(character if character.isprintable() else "�" for character in text)


def _cut(text: str, bound: int) -> str:
    return text if len(text) <= bound else text[: bound - 1] + "…"


def write_json(value: Any, stream: TextIO) -> None:
    """Write one JSON document, indented."""
    import msgspec

    stream.write(msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")


def bytes_text(count: int) -> str:
    """A size for people: 64.0 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def span_text(seconds: float) -> str:
    """As 90 s, 45 min, 30 h or 12 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def time_text(milliseconds: int) -> str:
    """UTC milliseconds as RFC 3339, or the number where no calendar has the time."""
    return utc_text(milliseconds)
