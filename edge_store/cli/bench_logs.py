"""``edge-store bench logs``: what single results and sums cost over many."""

from pathlib import Path

import click

from edge_store.cli.bench_options import AT_LEAST_ONE, dir_option, measure, say

__all__ = ["logs"]


@click.command()
@click.option(
    "--rows", type=AT_LEAST_ONE, default=1_000_000, show_default=True,
    help="Results to ask; a million take a gigabyte and some minutes.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=20.0, show_default=True,
    help="How long a writer is followed.",
)  # fmt: skip
@dir_option
def logs(rows: int, seconds: float, directory: Path | None) -> None:
    """Measure `logs ls` and `stats` over many results, and the delay of `logs tail`.

    \b
    Example:
      edge-store bench logs --rows 100000
    """
    from edge_store.bench.logs import bench_logs

    measure(directory, lambda folder: bench_logs(folder, rows=rows, seconds=seconds, say=say))
