"""``edge-store query``: read-only SQL on the live database, or on any restored or pulled file."""

import sys
from contextlib import closing
from pathlib import Path

import click

from edge_store.cli.archive import beside_archive
from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.target import chosen_database, target_options
from edge_store.cli.values import POSITIVE, bound, tell_unused, value_options

__all__ = ["query"]

ROWS_MAX = 10_000_000


@click.command()
@click.argument("statement", metavar="[SQL]", required=False)
@target_options
@value_options
@click.option(
    "--limit", type=click.IntRange(min=1, max=ROWS_MAX), default=10_000, show_default=True,
    help="Most rows to print.",
)  # fmt: skip
@click.option(
    "--timeout", type=POSITIVE, default=10.0, show_default=True, help="Most seconds to run."
)
@click.option(
    "--with-archive", is_flag=True, help="Also what retention has archived: docs/retention.md."
)
@output_options
def query(  # noqa: PLR0913  (one parameter per option)
    statement: str | None,
    db: Path | None,
    config: str | None,
    params: tuple[tuple[str, str], ...],
    texts: tuple[tuple[str, str], ...],
    limit: int,
    timeout: float,
    fmt: str | None,
    *,
    with_archive: bool,
) -> None:
    """Run one read-only SQL statement. Without SQL: the newest results.

    The views are the query API: generations, usage_by_hour, usage_by_day, completeness,
    completeness_by_day, v_openai, v_otel, sglang_inference_results. It works while the daemon runs.

    \b
    Example:
      edge-store query "select status, count(*) from results group by 1"
      edge-store query "select * from generations where id = :id" -p id 0190…
      edge-store query "select id from results where latency_ms / 1000 > :s" -p s 1.5
      edge-store query "select id from results where metadata->>'order' = :o" --text o 17
    """
    from edge_store.query import run_query
    from edge_store.sql import sql
    from edge_store.sqlite import open_reader

    if with_archive and db is not None:
        raise click.UsageError("--with-archive is for a box's own database: give --config")
    with interruptible():
        opened = (
            beside_archive(config)
            if with_archive
            else closing(open_reader(chosen_database(db, config)))
        )
        with opened as connection:
            result = run_query(
                connection,
                sql("select_newest") if statement is None else statement,
                bound(params, texts),
                rows_max=limit,
                timeout_s=timeout,
            )
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)
    tell_unused(result.unused)
    if result.is_cut:
        click.echo(
            f"edge-store: only the first {len(result.rows)} rows; narrow it, or raise --limit "
            f"(now {limit})",
            err=True,
        )
