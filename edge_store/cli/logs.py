"""``edge-store logs``: what was asked and answered, result by result."""

import sys
from pathlib import Path
from typing import Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.logs_change import pin, rm, unpin
from edge_store.cli.logs_compare import diff, replay
from edge_store.cli.logs_show import show
from edge_store.cli.logs_tail import tail
from edge_store.cli.logs_text import opened, tabled
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.search import reindex, search
from edge_store.cli.selecting import selection_of, selection_options
from edge_store.cli.target import target_options
from edge_store.cli.values import POSITIVE

__all__ = ["logs"]

SHOWN_MAX = 100_000


@click.group()
def logs() -> None:
    """What was asked and answered: the newest, one whole, what comes now.

    All but `rm`, `pin` and `unpin` also work on a restored or pulled file: `--db FILE`.

    \b
    Example:
      edge-store logs ls --since 2h --status failed
      edge-store logs show 0190d3e1-7c1f
      edge-store logs tail -f
    """


@logs.command()
@selection_options()
@click.option(
    "--limit", "-n", type=click.IntRange(1, SHOWN_MAX), default=20, show_default=True,
    help="Most results.",
)  # fmt: skip
@click.option(
    "--timeout", type=POSITIVE, default=30.0, show_default=True, help="Most seconds to look."
)
@target_options
@output_options
def ls(
    db: Path | None,
    config: str | None,
    limit: int,
    timeout: float,
    fmt: str | None,
    **chosen: Any,
) -> None:
    """List results, the newest first: with the beginnings of what was asked last and of the answer.

    On a terminal ids are cut to what tells them apart: `show` and the others take that.

    \b
    Example:
      edge-store logs ls
      edge-store logs ls --model demo --latency-min 500 --limit 50
      edge-store logs ls --since 1d --json-state repaired --nl
    """
    from edge_store.logs.find import short_ids
    from edge_store.logs.newest import newest

    selection, form = selection_of(chosen), chosen_format(fmt, sys.stdout)
    with opened(db, config) as connection, interruptible():
        found = newest(connection, selection, limit, timeout_s=timeout)
        if form == "table":
            rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
            shorts = short_ids(connection, [row["id"] for row in rows])
            write_rows(tabled(rows, shorts), form, sys.stdout)
        else:
            write_rows(found, form, sys.stdout)
    if found.is_cut and form == "table":
        click.echo(f"edge-store: the newest {limit}; --limit shows more", err=True)


for command in (show, tail, search, reindex, rm, pin, unpin, diff, replay):
    logs.add_command(command)
