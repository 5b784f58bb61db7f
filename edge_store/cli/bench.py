"""``edge-store bench``: the figures we claim, measured here."""

import sys
from pathlib import Path

import click

__all__ = ["bench"]

AT_LEAST_ONE = click.IntRange(min=1)


@click.command()
@click.argument("what", type=click.Choice(["writer", "recorder", "memory"]))
@click.option(
    "--pairs", type=AT_LEAST_ONE, default=12, show_default=True,
    help="Interleaved pairs of slices.",
)  # fmt: skip
@click.option(
    "--rows", type=AT_LEAST_ONE, default=4096, show_default=True,
    help="Rows or requests in a slice.",
)  # fmt: skip
@click.option(
    "--requests", type=AT_LEAST_ONE, default=100_000, show_default=True,
    help="Requests, for memory.",
)  # fmt: skip
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder on the disk to measure; a temporary one in it is used and removed.",
)  # fmt: skip
def bench(what: str, pairs: int, rows: int, requests: int, directory: Path | None) -> None:
    """Measure the writer, what recording costs, or the daemon's memory.

    Figures are medians over interleaved pairs. Exits 1 when one misses its bound.

    \b
    Example:
      edge-store bench writer
      edge-store bench recorder --pairs 20
    """
    import asyncio
    import tempfile

    import uvloop

    from edge_store import bench as room
    from edge_store.cli.output import write_rows
    from edge_store.query import QueryResult

    with tempfile.TemporaryDirectory(prefix="edge-store-bench-", dir=directory) as name:
        folder = Path(name)
        match what:
            case "writer":
                measured = room.bench_writer(folder, pairs=pairs, slice_rows=rows)
            case "recorder":
                measured = room.bench_recorder(folder, pairs=pairs, slice_requests=rows)
            case _:
                measured = room.bench_memory(folder, requests=requests)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(measured)
    result = QueryResult(
        columns=("figure", "median", "unit", "bound", "holds"),
        rows=[
            (f.name, f"{f.value:.3g}", f.unit, f.bound, "yes" if f.holds else "NO") for f in figures
        ],
        is_cut=False,
    )
    write_rows(result, "table", sys.stdout)
    if not all(figure.holds for figure in figures):
        sys.exit(1)
