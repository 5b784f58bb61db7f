"""``edge-store bench engine``: SGLang in the daemon against SGLang's own server."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.bench_options import (
    AT_LEAST_ONE,
    dir_option,
    given_arguments,
    measure,
    model_option,
    pairs_option,
    say,
    sglang_option,
)

if TYPE_CHECKING:
    from edge_store.bench.figures import Figure

__all__ = ["engine"]


@click.command()
@model_option
@sglang_option
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

    given = given_arguments(model, arguments)
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
