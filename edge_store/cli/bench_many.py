"""``edge-store bench many``: what a box takes that has very many results."""

from pathlib import Path

import click

from edge_store.cli.bench_options import AT_LEAST_ONE, dir_option, measure, say

__all__ = ["many"]


@click.command()
@click.option(
    "--rows", type=AT_LEAST_ONE, default=10_000_000, show_default=True,
    help="Results in the database; ten million take 10 GB, and while a backup is made 14 more.",
)  # fmt: skip
@click.option(
    "--db", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Ask this database instead of one that is made. It gets an answer of the demo engine each "
    "time that it is served, and its search index is made anew.",
)  # fmt: skip
@dir_option
def many(rows: int, db: Path | None, directory: Path | None) -> None:
    """Measure the commands of a box with very many results: time, CPU, and that memory is flat.

    \b
    Example:
      edge-store bench many --rows 1000000
    """
    from edge_store.bench.many import bench_many

    measure(directory, lambda folder: bench_many(folder, rows=rows, given=db, say=say))
