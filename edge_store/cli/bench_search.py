"""``edge-store bench search``: what full-text search costs over many results, and its index."""

from pathlib import Path

import click

__all__ = ["search"]

AT_LEAST_ONE = click.IntRange(min=1)


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
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder on the disk to measure; a temporary one in it is used and removed.",
)  # fmt: skip
def search(rows: int, rate: int, seconds: float, directory: Path | None) -> None:
    """Measure full-text search over many results, and its indexer beside a writer.

    \b
    Example:
      edge-store bench search --rows 100000
    """
    from edge_store.bench.search import bench_search
    from edge_store.cli.bench import measure, say

    measure(
        directory,
        lambda folder: bench_search(folder, rows=rows, seconds=seconds, rate=rate, say=say),
    )
