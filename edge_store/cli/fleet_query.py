"""``edge-store fleet query``: one SQL statement over all boxes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.values import Bounds, bound, bound_options, tell_unused, value_options

if TYPE_CHECKING:
    from edge_store.fleet.query import FleetAnswer
    from edge_store.fleet.registry import Registry
    from edge_store.fleet.search import Found
    from edge_store.fleet.stats import FleetStats

__all__ = ["chosen_lake", "leave_if_unread", "query", "source_options"]

F = TypeVar("F", bound=Callable[..., Any])


def source_options(command: F) -> F:
    """Add ``--in``, ``--lake`` and ``--live``."""
    for option in (
        click.option(
            "--live", is_flag=True, help="Ask the copies alone: all tables and views of a box."
        ),
        click.option(
            "--lake", "lake_url",
            help="The lake to ask, with what the copies have beyond it; else that of fleet.toml.",
        ),
        click.option(
            "--in", "folder", required=True, help="The folder that `fleet pull` filled.",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def chosen_lake(registry: "Registry", lake_url: str | None, *, live: bool) -> str | None:
    """The lake that the options name; None for the copies alone.

    Raises:
        UsageError: they name both.
    """
    if live and lake_url is not None:
        raise click.UsageError("give --lake or --live, not both: --live asks the copies alone")
    return None if live else lake_url or registry.lake


@click.command()
@click.argument("statement", metavar="SQL")
@source_options
@value_options
@bound_options(timeout_s=60.0)
@output_options
def query(  # noqa: PLR0913  (one parameter per option)
    statement: str,
    folder: Path,
    lake_url: str | None,
    params: tuple[tuple[str, str], ...],
    texts: tuple[tuple[str, str], ...],
    bounds: Bounds,
    fmt: str | None,
    *,
    live: bool,
) -> None:
    """Run one read-only SQL statement over all boxes. @NAME: one of [queries] in fleet.toml.

    Of a fleet with a lake, DuckDB answers, from the lake and what the copies have beyond it: views
    results, outputs, generations, structured, requests and bodies. Else, and with --live, SQLite
    answers, from the copies named <device id>.db: all tables and views of a box. Both have a
    device_id column. Exits 1 if a copy could not be read; the others are answered for.

    \b
    Example:
      edge-store fleet query "select device_id, count(*) from results group by 1" --in fleet
      edge-store fleet query @slow --in fleet -p ms 5000 --csv
      edge-store fleet query "select * from completeness" --in fleet --live
    """
    from edge_store.fleet.centre import Centre, saved_query
    from edge_store.fleet.registry import load_registry

    chosen = chosen_format(fmt, sys.stdout)
    registry = load_registry(folder)
    centre = Centre(folder=folder, lake_url=chosen_lake(registry, lake_url, live=live))
    with interruptible():
        answer = centre.ask(
            saved_query(registry, statement),
            bound(params, texts),
            rows_max=bounds.rows(held=True),
            timeout_s=bounds.timeout_s,
        )
    write_rows(answer.result, chosen, sys.stdout)
    tell_unused(answer.result.unused)
    if answer.left_out and not live:
        click.echo(
            f"edge-store: {answer.left_out} older copies are kept aside and left out: "
            "`edge-store fleet export` makes a lake that counts their rows, each once",
            err=True,
        )
    leave_if_unread(answer)
    bounds.end(len(answer.result.rows), is_cut=answer.result.is_cut)


def leave_if_unread(answer: "FleetAnswer | FleetStats | Found") -> None:
    """Name the lake and the copies that are missing from an answer, and exit 1 if a copy is."""
    if answer.absent_lake is not None:
        click.echo(
            f"edge-store: there is no lake at {answer.absent_lake}: the copies answered, as with "
            "--live",
            err=True,
        )
    for each in answer.unread:
        click.echo(f"edge-store: not in this answer: {each.error}", err=True)
    if answer.unread:
        sys.exit(1)
