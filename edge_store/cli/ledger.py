"""``edge-store ledger``: what was admitted and what became of it, per boot or per day."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.target import chosen_database, target_options

if TYPE_CHECKING:
    from edge_store.query import QueryResult

__all__ = ["ledger"]

ROWS_MAX = 1_000_000
BLOCKS = {"boot": "select_ledger_by_boot", "day": "select_ledger_by_day"}


@click.command()
@target_options
@click.option(
    "--by", type=click.Choice(list(BLOCKS)), default="boot", show_default=True,
    help="One row per start of the daemon, or per UTC day.",
)  # fmt: skip
@click.option("--timeout", default=60.0, show_default=True, help="Most seconds to run.")
@output_options
def ledger(db: Path | None, config: str | None, by: str, timeout: float, fmt: str | None) -> None:
    """Show what was admitted and what became of it: nothing is missing from the sum.

    admitted = completed + incomplete + failed + cancelled + deleted (forget, retention) + lost +
    in_flight + interrupted + not_stored. A boot that was cut is known up to its last mark; what was
    admitted after it, for at most a beat (recorder.beat_s) before the cut, is unknown. percent is
    the share of what has ended that is stored, or was deleted on purpose.

    \b
    Example:
      edge-store ledger
      edge-store ledger --by day --csv --db pulled/box-1.db
    """
    from edge_store.query import run_query
    from edge_store.sql import sql
    from edge_store.sqlite import open_reader

    chosen = chosen_format(fmt, sys.stdout)
    connection = open_reader(chosen_database(db, config))
    try:
        with interruptible():
            connection.execute(sql("begin_reading"))  # the rows and the cuts are of one moment
            found = run_query(connection, sql(BLOCKS[by]), rows_max=ROWS_MAX, timeout_s=timeout)
            cuts = (
                run_query(connection, sql("select_cuts"), rows_max=ROWS_MAX, timeout_s=timeout).rows
                if chosen == "table"
                else []
            )
    finally:
        connection.close()
    if chosen == "table":  # which is wide enough; the sentences below name the moments
        found = _without(found, {"ended_at", "unknown_after", "unknown_until"})
    write_rows(found, chosen, sys.stdout)
    for boot_no, started_at, interrupted, after, until in cuts:
        click.echo(
            f"boot {boot_no} was cut between {after or started_at} and {until}: {interrupted} "
            "interrupted; what it admitted in between is unknown"
        )


def _without(found: "QueryResult", names: set[str]) -> "QueryResult":
    import msgspec

    kept = [n for n, name in enumerate(found.columns) if name not in names]
    return msgspec.structs.replace(
        found,
        columns=tuple(found.columns[n] for n in kept),
        rows=[tuple(row[n] for n in kept) for row in found.rows],
    )
