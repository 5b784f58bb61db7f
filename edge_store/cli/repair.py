"""``edge-store repair``: what became of the JSON that was asked for; the present repairer again."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_json, write_rows
from edge_store.cli.target import chosen_database, target_options
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.config import Config
    from edge_store.repair import Repair
    from edge_store.result import Record

__all__ = ["repair"]

ROWS_MAX = 1_000_000
SINCE = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


@click.group()
def repair() -> None:
    """Show what became of structured output, and repair again with the repairer of today.

    \b
    Example:
      edge-store repair report
      edge-store repair reapply --dry-run
    """


@repair.command()
@target_options
@click.option("--errors", is_flag=True, help="The 20 commonest errors instead.")
@click.option(
    "--timeout", type=POSITIVE, default=60.0, show_default=True, help="Most seconds to run."
)
@output_options
def report(
    db: Path | None, config: str | None, timeout: float, fmt: str | None, *, errors: bool
) -> None:
    """Count the states of structured output by day and model, as the newest repairs have it.

    choices counts each choice of which JSON, a regex or a grammar was asked, or that calls tools.
    The states are those of json_state in the view `structured`; one with a regex alone has none.

    \b
    Example:
      edge-store repair report
      edge-store repair report --errors --csv
    """
    from edge_store.query import run_query
    from edge_store.sql import sql
    from edge_store.sqlite import open_reader

    connection = open_reader(chosen_database(db, config))
    try:
        with interruptible():
            block = "select_repair_errors" if errors else "select_repair_states"
            found = run_query(connection, sql(block), rows_max=ROWS_MAX, timeout_s=timeout)
    finally:
        connection.close()
    write_rows(found, chosen_format(fmt, sys.stdout), sys.stdout)


@repair.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--dry-run", is_flag=True, help="Repair, count, and write nothing.")
@click.option(
    "--since", type=click.DateTime(SINCE), help="Only of results admitted since then, in UTC."
)
def reapply(config: str | None, since: datetime | None, *, dry_run: bool) -> None:
    """Repair again what another version of the repairer has repaired, or given up.

    The rows stay as they are: each outcome is a row of `repairs`, and the views show the newest.
    It works while the daemon runs; the repairing is done here, in this command's own workers. Run
    a second time, it finds nothing to do.

    \b
    Example:
      edge-store repair reapply --dry-run
      edge-store repair reapply --since 2026-11-01
    """
    from edge_store.cli.change import changes
    from edge_store.config import load
    from edge_store.repair import ApplyRepairs

    settings = load(config).config
    start = round(since.replace(tzinfo=UTC).timestamp() * 1000) if since else 0
    counts = {"choices": 0, "written": 0}
    became: dict[str, int] = {}

    def carry_out(make: Callable[[str, "Record"], Any] | None) -> None:
        with interruptible():
            for page in _pages(settings, start):
                counts["choices"] += len(page)
                for before, after in page:
                    step = f"{before} to {after.json_state}"
                    became[step] = became.get(step, 0) + 1
                if make is not None and page:
                    repairs = tuple(after for _, after in page)
                    counts["written"] += make("repair.apply", ApplyRepairs(repairs=repairs))
        write_json({**counts, "became": became, "dry_run": dry_run}, sys.stdout)

    if dry_run:
        carry_out(None)
    else:
        changes(settings, carry_out)


def _pages(config: "Config", since: int) -> Iterator[list[tuple[str, "Repair"]]]:
    """What each choice was, and its repair; a page is one transaction."""
    from edge_store.api.routes import GENERATING
    from edge_store.api.turn import PATH as RESPONSES
    from edge_store.jsonrepair import JsonWorkers
    from edge_store.jsonrepair.assess import REPAIRER
    from edge_store.recorder.redacting import Redacting
    from edge_store.recorder.structured import Structured
    from edge_store.repair import count_repairable, reassessed, repairable
    from edge_store.responses.chat import PATH as CHAT
    from edge_store.sqlite import open_reader

    dialects = {**GENERATING, RESPONSES: GENERATING[CHAT]}  # a response is asked as a chat
    connection = open_reader(Path(config.store.path))
    try:
        with asyncio.Runner() as runner:
            workers = JsonWorkers(config.repair)
            runner.run(workers.__aenter__())
            try:
                structured = Structured(workers)
                redacting = Redacting(config.privacy, workers)  # with the rules of today
                total = count_repairable(connection, REPAIRER, since)
                with _progress(repairable(connection, REPAIRER, since), total) as pages:
                    for page in pages:
                        yield [
                            (
                                choice[1].json_state.value,
                                runner.run(
                                    reassessed((structured, redacting), dialects, REPAIRER, choice)
                                ),
                            )
                            for choice in page
                        ]
            finally:
                runner.run(workers.__aexit__(None, None, None))
    finally:
        connection.close()


@contextmanager
def _progress(pages: Iterable[list[Any]], total: int) -> Iterator[Iterable[list[Any]]]:
    """Count what has been done on a terminal."""
    if not sys.stderr.isatty():
        yield pages
        return
    with click.progressbar(length=total, label="repairing", file=sys.stderr) as bar:

        def counted() -> Iterator[list[Any]]:
            for page in pages:
                yield page
                bar.update(len(page))

        yield counted()
