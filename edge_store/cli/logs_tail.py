"""``edge-store logs tail``: the last results, and those that come."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edge_store.cli.logs_text import one_line, opened, tokens_text
from edge_store.cli.output import as_json
from edge_store.cli.selecting import selection_of, selection_options
from edge_store.cli.target import chosen_database, target_options

__all__ = ["tail"]

TEXT_CHARS = 60
LAST_MAX = 10_000


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "--lines", "-n", "count", type=click.IntRange(0, LAST_MAX), default=10, show_default=True,
    help="How many of the last ones first.",
)  # fmt: skip
@click.option("--nl", "as_json", is_flag=True, help="One JSON object a line, as in a pipe.")
@selection_options()
@target_options
def tail(
    db: Path | None, config: str | None, count: int, *, follow: bool, as_json: bool, **chosen: Any
) -> None:
    """Show the last results, the newest at the end; with -f those that come, as they come.

    They are there some tenths of a second after their COMMIT. Following goes on while the daemon is
    restarted, while the file is away, and in the file that a restore has put in its place.

    \b
    Example:
      edge-store logs tail -n 5
      edge-store logs tail -f --status failed
      edge-store logs tail -f --model demo | jq .answer
    """
    from edge_store.logs.follow import Follower
    from edge_store.logs.newest import COLUMNS, newest

    selection = selection_of(chosen)
    show = _object if as_json or not sys.stdout.isatty() else _line

    def write(rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            click.echo(show(dict(zip(COLUMNS, row, strict=True))))

    follower = Follower(chosen_database(db, config), selection, _say) if follow else None
    if count:
        with opened(db, config) as connection:
            last = newest(connection, selection, count).rows
        # those that have come since it began it will find itself
        write(sorted(row for row in last if follower is None or row[0] <= follower.after))
    if follower is not None:
        for rows in follower.looks():
            write(rows)


def _say(text: str) -> None:
    click.echo(f"edge-store: {text}", err=True)


def _object(row: dict[str, Any]) -> str:
    return as_json(json.dumps(row, ensure_ascii=False, separators=(",", ":")), sys.stdout)


def _line(row: dict[str, Any]) -> str:
    """For a terminal: the day is left out, it is today's as a rule."""
    status = row["error_type"] or row["status"]
    tokens = tokens_text(row["input_tokens"], row["output_tokens"])
    head = (
        f"{row['created_at'][11:23]} {row['id']} {one_line(row['model']) or '-'} "
        f"{click.style(status, fg='red' if status != 'completed' else 'green')} "
        f"{tokens} {row['latency_ms']:.0f} ms "
    )
    return head + " → ".join(_cut(row[name]) for name in ("prompt", "answer"))


def _cut(text: str | None) -> str:
    folded = one_line(text)
    return folded if len(folded) <= TEXT_CHARS else f"{folded[: TEXT_CHARS - 1]}…"
