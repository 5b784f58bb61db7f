"""Rows for people: tables that fit the terminal, and one line for each value."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

import click

from edge_store.cli.output.options import Details
from edge_store.cli.output.writing import Rows

__all__ = ["write_table", "write_tabulated", "write_vertical"]

CELL_CHARS_MAX = 60
CELL_CHARS_MIN = 8
TEXT_CHARS_MAX = 10 * CELL_CHARS_MAX  # of a value, before its white space is folded
COLUMN_GAP = 2
MEASURED_ROWS = 10_000  # what comes after them is cut to their widths
BARRED = frozenset({"github", "pipe"})  # in Markdown a bar ends a cell
JOINERS = "\u200c\u200d"  # not printable by themselves: in Persian and Hindi, and in emoji


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
    if len(widths) < len(names):
        click.echo(
            f"edge-store: {len(names) - len(widths)} more columns do not fit: --vertical shows all",
            err=True,
        )


def _write_line(row: list[str], widths: list[int], stream: TextIO) -> None:
    parts = (_fitted(cell, width) for cell, width in zip(row, widths, strict=False))
    stream.write((COLUMN_GAP * " ").join(parts).rstrip() + "\n")


def _rows(result: Rows) -> Iterator[tuple[Any, ...]]:
    for batch in result.batches():
        yield from batch


def _widths(names: list[str], cells: list[list[str]], width: int | None) -> list[int]:
    """Columns of the screen for each name. All are cut at ``CELL_CHARS_MAX``, and on a terminal the
    widest are cut further until a row fits, down to ``CELL_CHARS_MIN``: first those of prose, as
    the beginnings of ids are all the same; then the names; then the last columns are left out.
    """
    prose = [any(row[n].count(" ") > 1 for row in cells) for n in range(len(names))]
    found = [
        min(CELL_CHARS_MAX, max((_width(row[n]) for row in cells), default=0))
        for n in range(len(names))
    ]
    heads = [_width(name) for name in names]
    while width is not None and found:
        shown = [max(pair) for pair in zip(found, heads, strict=True)]
        if _line_width(shown) <= width:
            return shown
        widest = max(
            range(len(found)),
            key=lambda n: (found[n] > CELL_CHARS_MIN, prose[n], found[n]),
        )
        if found[widest] <= CELL_CHARS_MIN:
            break
        found[widest] -= 1
    shown = [max(pair) for pair in zip(found, heads, strict=True)]
    while width is not None and shown and _line_width(shown) > width:
        widest = shown.index(max(shown))
        if shown[widest] > CELL_CHARS_MIN:
            shown[widest] -= 1
        elif len(shown) > 1:
            shown.pop()
        else:
            shown[0] -= 1
    return shown


def _line_width(widths: list[int]) -> int:
    return sum(widths) + COLUMN_GAP * (len(widths) - 1)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return _shown(" ".join(str(value)[:TEXT_CHARS_MAX].split()))


def _shown(text: str) -> str:
    """A model's text must not reach the terminal as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in JOINERS else "\ufffd" for each in text)


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
    return [_shown(line.expandtabs(4)) for line in value.split("\n")]


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
        _shown(" ".join(value.expandtabs(1).splitlines()))
        if isinstance(value, str)
        else _cell(value)
    )
