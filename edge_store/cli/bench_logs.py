"""``edge-store bench logs``: what single results and sums cost over many."""

from pathlib import Path

import click

__all__ = ["logs"]

AT_LEAST_ONE = click.IntRange(min=1)


@click.command()
@click.option(
    "--rows", type=AT_LEAST_ONE, default=1_000_000, show_default=True,
    help="Results to ask; a million take a gigabyte and some minutes.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=20.0, show_default=True,
    help="How long a writer is followed.",
)  # fmt: skip
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder on the disk to measure; a temporary one in it is used and removed.",
)  # fmt: skip
def logs(rows: int, seconds: float, directory: Path | None) -> None:
    """Measure `logs ls` and `stats` over many results, and the delay of `logs tail`.

    \b
    Example:
      edge-store bench logs --rows 100000
    """
    from edge_store.bench.logs import bench_logs
    from edge_store.cli.bench import measure, say

    measure(directory, lambda folder: bench_logs(folder, rows=rows, seconds=seconds, say=say))
