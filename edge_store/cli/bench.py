"""``edge-store bench``: the figures we claim, measured here."""

import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.bench_logs import logs
from edge_store.cli.bench_search import search

if TYPE_CHECKING:
    from edge_store.bench.figures import Figure

__all__ = ["bench", "measure", "say"]

AT_LEAST_ONE = click.IntRange(min=1)

pairs_option = click.option(
    "--pairs", type=AT_LEAST_ONE, default=12, show_default=True,
    help="Interleaved pairs of slices.",
)  # fmt: skip
rows_option = click.option(
    "--rows", type=AT_LEAST_ONE, default=4096, show_default=True,
    help="Rows or requests in a slice.",
)  # fmt: skip
dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder on the disk to measure; a temporary one in it is used and removed.",
)  # fmt: skip


@click.group()
def bench() -> None:
    """Measure the writer, recording, queries, logs, search, checks, memory, overload, batches,
    drills, an engine, a lake.

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
@dir_option
def retention(pairs: int, rows: int, rate: int, directory: Path | None) -> None:
    """Measure retention with an archive: what callers and COMMITs notice of it, and its rate.

    \b
    Example:
      edge-store bench retention --rows 1000000 --pairs 20
    """
    from edge_store.bench import RetentionPlan, bench_retention

    plan = RetentionPlan(pairs=pairs, rows=rows, offered_per_s=rate)
    measure(directory, lambda folder: bench_retention(folder, plan, say=say))


@bench.command()
@click.option("--model", help="Folder of the model that SGLang loads.")
@click.option(
    "--sglang", "arguments", multiple=True, metavar="KEY=VALUE",
    help="An argument of SGLang's ServerArgs for both servers, as mem_fraction_static=0.3; "
    "the value is JSON, else text. Repeatable.",
)  # fmt: skip
@click.option(
    "--kind", type=click.Choice(["sglang", "upstream", "demo"]), default="sglang",
    show_default=True,
    help="Engine of the daemon: SGLang in it, SGLang's own server behind it, or the demo engine "
    "(against the demo engine alone).",
)  # fmt: skip
@pairs_option
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=2.5, show_default=True,
    help="Length of a slice.",
)  # fmt: skip
@click.option(
    "--connections", type=AT_LEAST_ONE, multiple=True, default=(64, 256), show_default=True,
    help="Callers at a time. Repeatable.",
)  # fmt: skip
@click.option(
    "--mode", "modes", type=click.Choice(["plain", "streamed"]), multiple=True,
    help="Only chats of this kind: more pairs in the same time.",
)  # fmt: skip
@click.option(
    "--clients", type=AT_LEAST_ONE,
    help="Client processes; half the cores without it, 8 at most.",
)  # fmt: skip
@click.option(
    "--equal-rate", is_flag=True,
    help="Also ask both for as many streams a second, 0.8 of what SGLang's own server answers.",
)  # fmt: skip
@click.option(
    "--time-limit", type=click.FloatRange(min=1),
    help="Begin no round of pairs that would end later than this, in seconds after the start.",
)  # fmt: skip
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder for engine.json (every slice) and engine.md, written after each round, and for "
    "the ends of the servers' logs.",
)  # fmt: skip
@dir_option
def engine(  # noqa: PLR0913  (one parameter per option)
    *,
    model: str | None,
    arguments: tuple[str, ...],
    kind: str,
    pairs: int,
    seconds: float,
    connections: tuple[int, ...],
    modes: tuple[str, ...],
    clients: int | None,
    equal_rate: bool,
    time_limit: float | None,
    report: Path | None,
    directory: Path | None,
) -> None:
    """Measure the daemon with SGLang in it against SGLang's own server.

    Both run at once, one of them is loaded at a time, with plain and streamed chats. At the end
    the daemon is killed under load, and every acknowledged answer is looked for in its database.

    \b
    Example:
      edge-store bench engine --model /models/tiny --sglang mem_fraction_static=0.3
      edge-store bench engine --kind demo --pairs 2 --connections 16
    """
    from edge_store.bench import EnginePlan, EngineRun, bench_engine, keep_logs, write_report
    from edge_store.bench.order import Mode
    from edge_store.config import EngineKind

    given = dict(_argument(text) for text in arguments)
    if model is not None:
        given["model_path"] = model
    if kind != "demo" and "model_path" not in given:
        raise click.UsageError("--model is missing: the folder of the model that SGLang loads")
    plan = EnginePlan(
        kind=EngineKind(kind),
        arguments=given,
        connections=connections,
        modes=tuple(map(Mode, modes or ("plain", "streamed"))),
        pairs=pairs,
        seconds=seconds,
        clients=clients,
        has_equal_rates=equal_rate,
        time_limit_s=time_limit,
    )

    def keep(run: EngineRun) -> None:
        if report is not None:
            write_report(report, run)

    async def measured(folder: Path) -> "list[Figure]":
        try:
            return (await bench_engine(folder, plan, say=say, keep=keep)).figures
        finally:
            if report is not None:
                keep_logs(folder, report)

    measure(directory, measured)


def say(text: str) -> None:
    click.echo(text, err=True)


def _argument(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise click.UsageError(f"--sglang {text!r} is not KEY=VALUE")
    try:
        return key.replace("-", "_"), json.loads(value)
    except ValueError:
        return key.replace("-", "_"), value


def measure(
    directory: Path | None, measured: Callable[[Path], "Coroutine[Any, Any, Sequence[Figure]]"]
) -> None:
    """Run it in a temporary folder, print its figures, and exit 1 if one misses its bound."""
    import asyncio
    import tempfile

    import uvloop

    from edge_store.cli.output import write_rows
    from edge_store.query import QueryResult

    with (
        tempfile.TemporaryDirectory(prefix="edge-store-bench-", dir=directory) as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(measured(Path(name)))
    result = QueryResult(
        columns=("figure", "median", "unit", "bound", "holds"),
        rows=[(f.name, f.shown, f.unit, f.bound, "yes" if f.holds else "NO") for f in figures],
        is_cut=False,
    )
    write_rows(result, "table", sys.stdout)
    if not all(figure.holds for figure in figures):
        sys.exit(1)


bench.add_command(logs)
bench.add_command(search)
