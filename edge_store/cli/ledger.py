"""``edge-store ledger``: what was admitted and what became of it, per boot or per day."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.target import chosen_database, last_boot_of, still_open, target_options
from edge_store.cli.values import POSITIVE

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
@click.option(
    "--timeout", type=POSITIVE, default=60.0, show_default=True, help="Most seconds to run."
)
@output_options
def ledger(db: Path | None, config: str | None, by: str, timeout: float, fmt: str | None) -> None:
    """Show what was admitted and what became of it: nothing is missing from the sum.

    admitted = completed + incomplete + failed + cancelled + deleted (forget, retention) + lost +
    in_flight + interrupted + not_stored. A boot that was cut is known up to its last mark; what was
    admitted after it, for at most a beat (recorder.beat_s) before the cut, is unknown. The
    newest counts as cut where it has no end and no daemon answers; the view completeness calls it
    open until the next start. percent is the share of what has ended that is stored, or was deleted
    on purpose; none where a copy has something in flight, as nobody knows there what became of it.
    boot_no counts starts and clean ends, so it has holes.

    \b
    Example:
      edge-store ledger
      edge-store ledger --by day --csv --db pulled/box-1.db
    """
    from edge_store.clock import rfc3339
    from edge_store.lock import LastBoot
    from edge_store.query import run_query
    from edge_store.sql import sql
    from edge_store.sqlite import open_reader

    chosen = chosen_format(fmt, sys.stdout)
    path = chosen_database(db, config)
    connection = open_reader(path)
    try:
        with interruptible():
            look = partial(last_boot_of, path, config, is_copy=db is not None)
            before = look()
            connection.execute(sql("begin_reading"))  # the rows and the cuts are of one moment
            boot, last = still_open(connection, before, look)
            cut_day = rfc3339(boot[1])[:10] if boot and last is LastBoot.CUT else None
            params = {"cut_day": cut_day, "is_copy": last is LastBoot.COPIED}
            found = run_query(
                connection, sql(BLOCKS[by]), params, rows_max=ROWS_MAX, timeout_s=timeout
            )
            cuts = (
                run_query(connection, sql("select_cuts"), rows_max=ROWS_MAX, timeout_s=timeout).rows
                if chosen == "table"
                else []
            )
            restores = connection.execute(sql("select_restores")).fetchall()
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
    notes = [_restored(*restore) for restore in restores]
    if boot is not None and last is not LastBoot.GOES_ON:
        notes.append(_open(*boot, is_cut=last is LastBoot.CUT))
    for note in notes:  # beside the rows, which a program reads
        click.echo(note, err=chosen != "table")


def _restored(at: int, newest_at: int) -> str:
    from edge_store.clock import rfc3339

    after = f"after {rfc3339(newest_at)} up to then" if newest_at else "before it"
    return f"restored on {rfc3339(at)}: outcomes {after} are unknown"


def _open(boot_no: int, marked_at: int, *, is_cut: bool) -> str:
    """What a boot without an end is, when no daemon goes on in it."""
    from edge_store.clock import rfc3339

    mark = f"its last mark is of {rfc3339(marked_at)}"
    if not is_cut:
        return (
            f"boot {boot_no} had not ended when this copy was made: {mark}, what is in_flight was "
            "stored later, or is lost, and what it admitted later is unknown"
        )
    return (
        f"boot {boot_no} has no end, {mark}, and no daemon answers: it ended without a shutdown. "
        "What had no outcome is interrupted here, what it admitted later is unknown, and the next "
        "start counts it"
    )


def _without(found: "QueryResult", names: set[str]) -> "QueryResult":
    import msgspec

    kept = [n for n, name in enumerate(found.columns) if name not in names]
    return msgspec.structs.replace(
        found,
        columns=tuple(found.columns[n] for n in kept),
        rows=[tuple(row[n] for n in kept) for row in found.rows],
    )
