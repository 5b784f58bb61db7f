"""Options and texts that the commands of ``logs`` share."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.target import chosen_database

if TYPE_CHECKING:
    from edge_store.query import QueryResult
    from edge_store.sqlite import Connection

__all__ = ["ids_argument", "one_line", "opened", "printable", "tabled", "tokens_text"]

F = TypeVar("F", bound=Callable[..., Any])

# Of a model's text: control characters but tab and newline, and what turns the direction of lines.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
SECOND_CHARS = 19  # of RFC 3339


def ids_argument(command: F) -> F:
    """One or more ids, or their beginnings."""
    return click.argument("ids", metavar="ID...", nargs=-1, required=True)(command)


@contextmanager
def opened(db: Path | None, config: str | None) -> "Iterator[Connection]":
    """The database that the options name, for reading."""
    from edge_store.sqlite import open_reader

    connection = open_reader(chosen_database(db, config))
    try:
        yield connection
    finally:
        connection.close()


def printable(text: str) -> str:
    """A text that cannot reach the terminal as anything but itself."""
    return UNSAFE.sub("�", text.replace("\r\n", "\n"))


def one_line(text: str | None) -> str:
    """The same without line breaks, which in a list would look like lines of ours."""
    return printable(" ".join((text or "").split()))


def tokens_text(given: int | None, made: int | None) -> str:
    """As 120+35; a dash for what is not known."""
    if given is None and made is None:
        return "-"
    return "+".join("-" if count is None else str(count) for count in (given, made))


def tabled(rows: "Sequence[Mapping[str, Any]]", shorts: Sequence[str]) -> "QueryResult":
    """The compact table: what a line of a terminal has room for, the most telling first."""
    from edge_store.query import QueryResult

    columns = ("time", "id", "status", "prompt", "answer", "model", "tokens", "ms")
    lines = [
        (
            row["created_at"][:SECOND_CHARS].replace("T", " "),
            short,
            row["error_type"] or f"{row['status']}{' (pinned)' if row['pinned'] else ''}",
            row["prompt"],
            row["answer"],
            row["model"],
            tokens_text(row["input_tokens"], row["output_tokens"]),
            f"{row['latency_ms']:.0f}",
        )
        for row, short in zip(rows, shorts, strict=True)
    ]
    return QueryResult(columns=columns, rows=lines, is_cut=False)
