"""``edge-store bench``: the figures we claim, measured here."""

from pathlib import Path

import click

from edge_store.cli.bench_engine import engine
from edge_store.cli.bench_logs import logs
from edge_store.cli.bench_many import many
from edge_store.cli.bench_options import (
    AT_LEAST_ONE,
    dir_option,
    given_arguments,
    measure,
    model_option,
    pairs_option,
    rows_option,
    say,
    sglang_option,
)
from edge_store.cli.bench_search import search

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure the writer, recording, queries, logs, search, checks, memory, many results, overload,
    batches, drills, an engine, a lake.

    Figures are medians over interleaved pairs. Exits 1 when one misses its bound.

    \b
    Example:
      edge-store bench writer
      edge-store bench recorder --pairs 20
    """


@bench.command()
@pairs_option
@rows_option
@dir_option
def writer(pairs: int, rows: int, directory: Path | None) -> None:
    """Measure the writer against a raw loop of the same statements.

    \b
    Example:
      edge-store bench writer --pairs 20
    """
    from edge_store.bench import bench_writer

    measure(directory, lambda folder: bench_writer(folder, pairs=pairs, slice_rows=rows))


@bench.command()
@pairs_option
@rows_option
@click.option(
    "--shares", is_flag=True,
    help="Time each part of it by itself instead, in as many rounds.",
)  # fmt: skip
@dir_option
def recorder(pairs: int, rows: int, *, shares: bool, directory: Path | None) -> None:
    """Measure what recording adds to a request of the demo engine.

    \b
    Example:
      edge-store bench recorder --pairs 20
      edge-store bench recorder --shares
    """
    from edge_store.bench import bench_recorder, bench_shares

    if shares:
        measure(directory, lambda folder: bench_shares(folder, rounds=pairs, requests=rows))
        return
    measure(directory, lambda folder: bench_recorder(folder, pairs=pairs, slice_requests=rows))


@bench.command()
@pairs_option
@click.option(
    "--rows", type=AT_LEAST_ONE, default=1_000_000, show_default=True,
    help="Results to ask; a million take a gigabyte and some minutes.",
)  # fmt: skip
@dir_option
def query(pairs: int, rows: int, directory: Path | None) -> None:
    """Measure queries over many results, and what their indexes cost an INSERT.

    \b
    Example:
      edge-store bench query --rows 100000
    """
    from edge_store.bench import bench_query

    measure(directory, lambda folder: bench_query(folder, rows=rows, pairs=pairs, say=say))


@bench.command()
@click.option("--rows", type=AT_LEAST_ONE, default=1_000_000, help="Results to write.")
@click.option("--rounds", type=AT_LEAST_ONE, default=5, help="Times that each writes them.")
@dir_option
def rows(rows: int, rounds: int, directory: Path | None) -> None:
    """Measure how `edge-store query` starts and writes rows, beside sqlite3 and sqlite-utils.

    \b
    Example:
      edge-store bench rows --rows 100000
    """
    from edge_store.bench.rows import bench_rows

    measure(directory, lambda folder: bench_rows(folder, rows=rows, rounds=rounds, say=say))


@bench.command()
@click.option(
    "--rows", type=AT_LEAST_ONE, default=200_000, show_default=True, help="Results in the file.",
)  # fmt: skip
@click.option(
    "--rounds", type=AT_LEAST_ONE, default=10, show_default=True,
    help="Checks of the whole file.",
)  # fmt: skip
@dir_option
def verify(rows: int, rounds: int, directory: Path | None) -> None:
    """Measure what `edge-store verify` takes per result of ordinary size.

    \b
    Example:
      edge-store bench verify --rows 100000
    """
    from edge_store.bench import bench_verify

    measure(directory, lambda folder: bench_verify(folder, rows=rows, rounds=rounds))


@bench.command()
@click.option(
    "--boxes", type=AT_LEAST_ONE, default=20, show_default=True, help="Copies to export.",
)  # fmt: skip
@click.option(
    "--rows", type=AT_LEAST_ONE, default=25_000, show_default=True,
    help="Results of each, of ten days.",
)  # fmt: skip
@dir_option
def lake(boxes: int, rows: int, directory: Path | None) -> None:
    """Measure the export of copies to a lake: CPU, bytes, and memory for few and for all boxes.

    \b
    Example:
      edge-store bench lake --boxes 10
    """
    from edge_store.bench.lake import bench_lake

    measure(directory, lambda folder: bench_lake(folder, boxes=boxes, rows=rows, say=say))


@bench.command()
@click.option(
    "--requests", type=AT_LEAST_ONE, default=100_000, show_default=True, help="Requests in all.",
)  # fmt: skip
@dir_option
def memory(requests: int, directory: Path | None) -> None:
    """Measure the daemon's memory over many requests.

    \b
    Example:
      edge-store bench memory --requests 20000
    """
    from edge_store.bench import bench_memory

    measure(directory, lambda folder: bench_memory(folder, requests=requests))


@bench.command()
@pairs_option
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=2.5, show_default=True,
    help="Length of a slice.",
)  # fmt: skip
@dir_option
def overload(pairs: int, seconds: float, directory: Path | None) -> None:
    """Measure the daemon under ten times the load that it can sustain.

    Callers of four tenants, one of which has seven tenths of them, wait as long as they are told
    when they are refused. At the end the daemon is killed under that load, and every acknowledged
    answer is looked for in its database.

    \b
    Example:
      edge-store bench overload --pairs 12
    """
    from edge_store.bench import OverloadPlan, bench_overload

    plan = OverloadPlan(pairs=pairs, seconds=seconds)
    measure(directory, lambda folder: bench_overload(folder, plan, say=say))


@bench.command()
@pairs_option
@click.option(
    "--lines", type=AT_LEAST_ONE, default=5000, show_default=True, help="Lines of a batch.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=4.0, show_default=True,
    help="Length of a window beside callers.",
)  # fmt: skip
@dir_option
def batch(pairs: int, lines: int, seconds: float, directory: Path | None) -> None:
    """Measure a batch against callers, and what callers notice of a batch.

    \b
    Example:
      edge-store bench batch --pairs 6
    """
    from edge_store.bench import BatchPlan, bench_batch

    plan = BatchPlan(pairs=pairs, lines=lines, seconds=seconds)
    measure(directory, lambda folder: bench_batch(folder, plan, say=say))


@bench.command()
@pairs_option
@click.option(
    "--mb", "megabytes", type=AT_LEAST_ONE, default=1000, show_default=True,
    help="Size of the database.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(min=1), show_default="as fast as they are answered",
    help="Requests a second of all callers.",
)  # fmt: skip
@dir_option
def drill(pairs: int, megabytes: int, rate: float | None, directory: Path | None) -> None:
    """Measure restore drills, full and incremental, and what callers notice of one.

    \b
    Example:
      edge-store bench drill --mb 200 --pairs 10
    """
    from edge_store.bench import DrillPlan, bench_drill

    plan = DrillPlan(pairs=pairs, megabytes=megabytes, offered_per_s=rate)
    measure(directory, lambda folder: bench_drill(folder, plan, say=say))


@bench.command()
@pairs_option
@click.option("--rows", type=AT_LEAST_ONE, default=100_000, help="Results that are to go.")
@click.option("--rate", type=AT_LEAST_ONE, default=100, help="Requests a second of all callers.")
@click.option("--connections", type=AT_LEAST_ONE, default=8, help="Callers at a time.")
@click.option("--whole", "is_whole", is_flag=True, help="Go on until nothing is left.")
@model_option
@sglang_option
@dir_option
def retention(  # noqa: PLR0913  (one parameter per option)
    *,
    pairs: int,
    rows: int,
    rate: int,
    connections: int,
    is_whole: bool,
    model: str | None,
    arguments: tuple[str, ...],
    directory: Path | None,
) -> None:
    """Measure retention with an archive: what callers and COMMITs notice of it, and its rate.

    The demo engine answers at once, so that nothing hides it; with --model SGLang answers.

    \b
    Example:
      edge-store bench retention --rows 1000000 --pairs 20 --whole
      edge-store bench retention --model /models/tiny --connections 64 --rate 300
    """
    from edge_store.bench import RetentionPlan, bench_retention

    plan = RetentionPlan(
        pairs=pairs,
        rows=rows,
        offered_per_s=rate,
        connections=connections,
        is_whole=is_whole,
        sglang=given_arguments(model, arguments),
    )
    measure(directory, lambda folder: bench_retention(folder, plan, say=say))


bench.add_command(engine)
bench.add_command(logs)
bench.add_command(many)
bench.add_command(search)
