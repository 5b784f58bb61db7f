"""``edge-store fleet stats`` and ``search``: what a fleet did, and where it said something."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.fleet_query import chosen_lake, leave_if_unread, source_options
from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.restoring import moment
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.fleet.centre import Centre

__all__ = ["search", "stats"]

SINCE = click.option(
    "--since", callback=moment, help="From this time on, as 2026-01-31T08:00:00Z or 7d (ago)."
)
TIMEOUT = click.option(
    "--timeout", type=POSITIVE, default=300.0, show_default=True, help="Most seconds to run."
)


@click.command()
@source_options
@click.option(
    "--by", type=click.Choice(["device", "model", "day", "tenant"]),
    help="A row for each; else one for the fleet.",
)  # fmt: skip
@SINCE
@TIMEOUT
@output_options
def stats(  # noqa: PLR0913  (one parameter per option)
    folder: Path,
    lake_url: str | None,
    by: str | None,
    since: datetime | None,
    timeout: float,
    fmt: str | None,
    *,
    live: bool,
) -> None:
    """Tell requests, tokens, times, JSON and completeness of a fleet.

    Times are percentiles by nearest rank. JSON: of how many choices it was asked, in how many it
    was there as asked, and in how many it was extracted or repaired. `missing` were admitted and
    left nothing, by a crash or a disk that failed: the copies tell it, of days and of boxes, and of
    boxes without regard to --since. Exits 1 if a copy could not be read.

    \b
    Example:
      edge-store fleet stats --in fleet
      edge-store fleet stats --in fleet --by device --since 7d --csv
    """
    from edge_store.fleet.stats import By, fleet_stats

    centre = _centre(folder, lake_url, live=live)
    with interruptible():
        found = fleet_stats(centre, By(by) if by else None, _since(since), timeout_s=timeout)
    write_rows(found.result, chosen_format(fmt, sys.stdout), sys.stdout)
    leave_if_unread(found)


@click.command()
@click.argument("text")
@source_options
@SINCE
@click.option("--model", help="Of this model only.")
@click.option("--device", help="Of this box only.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most rows."
)
@TIMEOUT
@output_options
def search(  # noqa: PLR0913  (one parameter per option)
    text: str,
    folder: Path,
    lake_url: str | None,
    since: datetime | None,
    model: str | None,
    device: str | None,
    limit: int,
    timeout: float,
    fmt: str | None,
    *,
    live: bool,
) -> None:
    """Find answers and prompts that hold TEXT, in any letter case: the newest first.

    An answer is found by its first choice. Exits 1 if a copy could not be read.

    \b
    Example:
      edge-store fleet search "valve 7" --in fleet --since 30d --limit 20
    """
    from edge_store.fleet.search import Wanted, search_fleet

    wanted = Wanted(text=text, since_ms=_since(since), model=model, device_id=device, limit=limit)
    centre = _centre(folder, lake_url, live=live)
    with interruptible():
        found = search_fleet(centre, wanted, timeout_s=timeout)
    write_rows(found.result, chosen_format(fmt, sys.stdout), sys.stdout)
    leave_if_unread(found)


def _centre(folder: Path, lake_url: str | None, *, live: bool) -> "Centre":
    from edge_store.fleet.centre import Centre
    from edge_store.fleet.registry import load_registry

    return Centre(folder=folder, lake_url=chosen_lake(load_registry(folder), lake_url, live=live))


def _since(since: datetime | None) -> int:
    return max(0, round(since.timestamp() * 1000)) if since else 0
