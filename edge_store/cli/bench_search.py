"""``edge-store bench search``: what full-text search costs over many results, and its index."""

from pathlib import Path

import click

from edge_store.cli.bench_options import AT_LEAST_ONE, dir_option, measure, say

__all__ = ["search"]


@click.command()
@click.option(
    "--rows", type=AT_LEAST_ONE, default=1_000_000, show_default=True,
    help="Results to ask; a million and their index take two gigabytes and some minutes.",
)  # fmt: skip
@click.option(
    "--rate", type=AT_LEAST_ONE, default=300, show_default=True,
    help="Results a second that the indexer follows.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=30.0, show_default=True,
    help="For so long.",
)  # fmt: skip
@dir_option
def search(rows: int, rate: int, seconds: float, directory: Path | None) -> None:
    """Measure full-text search over many results, and its indexer beside a writer.

    \b
    Example:
      edge-store bench search --rows 100000
    """
    from edge_store.bench.search import bench_search

    measure(
        directory,
        lambda folder: bench_search(folder, rows=rows, seconds=seconds, rate=rate, say=say),
    )
