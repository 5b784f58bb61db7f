"""Rows for people: tables that fit the terminal, and one line for each value."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

import click

from edge_store.cli.output.options import Details
from edge_store.cli.output.words import harmless
from edge_store.cli.output.writing import Rows

__all__ = ["write_table", "write_tabulated", "write_vertical"]

CELL_CHARS_MAX = 60
CELL_CHARS_MIN = 8
WORD_CHARS_MIN = 14  # of a value that is no prose: so much of an id tells it from others
KEY_CHARS_MIN = 20  # of the first column, which tells the rows apart: a time to its seconds
TEXT_CHARS_MAX = 10 * CELL_CHARS_MAX  # of a value, before its white space is folded
COLUMN_GAP = 2
MEASURED_ROWS = 10_000  # what comes after them is cut to their widths
BARRED = frozenset({"github", "pipe"})  # in Markdown a bar ends a cell


def write_table(result: Rows, told: Details, stream: TextIO) -> None:
    """Columns as wide as what is in them; on a terminal no wider than that."""
    rows = _rows(result)
    cells = [[_cell(value) for value in row] for row in islice(rows, MEASURED_ROWS)]
    names = [_cell(name) for name in result.columns]
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    widths = _widths(names, cells, width)
    head = [] if told.no_headers else [names, ["-" * width for width in widths]]
    for row in (*head, *cells):
        _write_line(row, widths, stream)
    for values in rows:
        _write_line([_cell(value) for value in values], widths, stream)
    left_out = len(names) - len(widths)
    if left_out:
        what = "more columns do" if left_out > 1 else "more column does"
        click.echo(f"edge-store: {left_out} {what} not fit: --vertical shows all", err=True)


def _write_line(row: list[str], widths: list[int], stream: TextIO) -> None:
    parts = (_fitted(cell, width) for cell, width in zip(row, widths, strict=False))
    stream.write((COLUMN_GAP * " ").join(parts).rstrip() + "\n")


def _rows(result: Rows) -> Iterator[tuple[Any, ...]]:
    for batch in result.batches():
        yield from batch


def _widths(names: list[str], cells: list[list[str]], width: int | None) -> list[int]:
    """Columns of the screen for each name. All are cut at ``CELL_CHARS_MAX``, and on a terminal the
    widest are cut further until a row fits: first those of prose, as the beginnings of ids are all
    the same; then the names. The last columns are left out where all the others would be cut below
    what can be read: a cut id still is one that `logs show` takes.
    """
    found = [
        min(CELL_CHARS_MAX, max((_width(row[n]) for row in cells), default=0))
        for n in range(len(names))
    ]
    heads = [_width(name) for name in names]
    if width is None:
        return [max(pair) for pair in zip(found, heads, strict=True)]
    prose = [any(row[n].count(" ") > 1 for row in cells) for n in range(len(names))]
    readable = [CELL_CHARS_MIN if each else WORD_CHARS_MIN for each in prose]
    readable[:1] = [KEY_CHARS_MIN]
    values = [min(pair) for pair in zip(found, readable, strict=True)]
    least = [max(v, min(head, CELL_CHARS_MIN)) for v, head in zip(values, heads, strict=True)]
    count = len(names)
    while count > 1 and _line_width(least[:count]) > width:
        count -= 1
    shown = found[:count]
    _cut(shown, heads, values, prose, width)
    shown = [max(pair) for pair in zip(shown, heads, strict=False)]
    while _line_width(shown) > width:
        slack = [n for n in range(count) if shown[n] > least[n]] or [0]
        shown[max(slack, key=lambda n: shown[n])] -= 1
    return shown


def _cut(
    found: list[int], heads: list[int], least: list[int], prose: list[bool], width: int
) -> None:
    """Make values shorter until a row fits, names and all, or all are at their ``least``."""
    while _line_width([max(pair) for pair in zip(found, heads, strict=False)]) > width:
        slack = [n for n in range(len(found)) if found[n] > least[n]]
        if not slack:
            return
        found[max(slack, key=lambda n: (prose[n], found[n]))] -= 1


def _line_width(widths: list[int]) -> int:
    return sum(widths) + COLUMN_GAP * (len(widths) - 1)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return harmless(" ".join(str(value)[:TEXT_CHARS_MAX].split()))


def _width(text: str) -> int:
    """Columns of the screen: two for one of 漢字."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fitted(text: str, width: int) -> str:
    """Cut or filled up to it."""
    taken = _width(text)
    if taken <= width:
        return text + " " * (width - taken)
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1) + "…" if width > 0 else ""


def write_vertical(result: Rows, told: Details, stream: TextIO) -> None:
    """One line for each value; a text keeps its lines."""
    names = [_cell(name) for name in result.columns]
    label = max(map(_width, names), default=0)
    for count, row in enumerate(_rows(result), start=1):
        lines = [] if told.no_headers else [f"-- {count} --"]
        for name, value in zip(names, row, strict=True):
            first, *more = _lines_of(value)
            lines.append(f"{_fitted(name, label)}  {first}".rstrip())
            lines += [f"{' ' * label}  {line}".rstrip() for line in more]
        stream.write("\n".join(lines) + "\n\n")


def _lines_of(value: Any) -> list[str]:
    if not isinstance(value, str):
        return [_cell(value)]
    return [harmless(line.expandtabs(4)) for line in value.split("\n")]


def write_tabulated(result: Rows, told: Details, stream: TextIO) -> None:
    """As tabulate makes it, which holds all rows. Values are whole, each on one line."""
    import types

    import tabulate
    from rich.cells import cell_len

    tabulate.WIDE_CHARS_MODE = True
    tabulate.wcwidth = types.SimpleNamespace(wcswidth=cell_len)  # measured as our own tables are
    rows = list(_rows(result))
    bar = "\\|" if told.tabulate in BARRED else "|"
    text = tabulate.tabulate(
        [[_whole(value).replace("|", bar) for value in row] for row in rows],
        headers=() if told.no_headers else [_cell(name) for name in result.columns],
        tablefmt=told.tabulate or "simple",
        disable_numparse=True,  # of a text it would make a number
        preserve_whitespace=True,
        colalign=[_alignment(column) for column in zip(*rows, strict=True)] or None,
    )
    stream.write(f"{text}\n")


def _alignment(column: Iterable[Any]) -> str:
    is_number = all(value is None or isinstance(value, int | float) for value in column)
    return "right" if is_number else "left"


def _whole(value: Any) -> str:
    return (
        harmless(" ".join(value.expandtabs(1).splitlines()))
        if isinstance(value, str)
        else _cell(value)
    )
