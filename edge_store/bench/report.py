"""What a run of the engine benchmark is written down as: JSON with every slice, and Markdown."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from edge_store import __version__
from edge_store.bench.engine import EngineRun, Kill, Pair, ratios_of
from edge_store.bench.figures import lower_bound, median
from edge_store.result import Record
from edge_store.sqlite import driver

__all__ = ["Place", "here", "keep_logs", "markdown", "write_report"]

PACKAGES = ("sglang", "torch", "transformers", "xgrammar", "uvicorn", "starlette", "uvloop")
NO_CARD = "none"
LOG_CHARS_KEPT = 100_000
COLUMNS = (
    *("load", "pairs", "requests/s, daemon ÷ own", "ratio", "95 % bound", "p50, ms"),
    *("p99, ms", "p99 ratio", "ttft p50, ms", "ttft ratio"),
    *("CPU of main process, µs/request", "CPU of all, µs/request"),
)


class Place(Record, frozen=True, kw_only=True):
    """Where and with what a run was made."""

    card: str
    processor: str
    cores: int
    kernel: str
    python: str
    edge_store: str
    sqlite: str
    packages: dict[str, str]


class Report(Record, frozen=True, kw_only=True):
    """The JSON file."""

    place: Place
    run: EngineRun


def here() -> Place:
    """This machine."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return Place(
        card=_card(),
        processor=_processor(),
        cores=os.cpu_count() or 0,
        kernel=platform.release(),
        python=platform.python_version(),
        edge_store=__version__,
        sqlite=driver.sqlite_version,
        packages=packages,
    )


def _card() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return NO_CARD
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else NO_CARD


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write_report(folder: Path, run: EngineRun) -> None:
    """``engine.json`` and ``engine.md`` in the folder, over those of an earlier round."""
    place = here()
    encoded = msgspec.json.encode(Report(place=place, run=run))
    (folder / "engine.json").write_bytes(msgspec.json.format(encoded, indent=1))
    (folder / "engine.md").write_text(markdown(place, run), encoding="utf-8")


def keep_logs(servers: Path, folder: Path) -> None:
    """The end of each server's log, which is about to go with the servers' folder."""
    for log in servers.glob("*/server.log"):
        said = log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARS_KEPT:]
        (folder / f"{log.parent.name}.log").write_text(said, encoding="utf-8")


def markdown(place: Place, run: EngineRun) -> str:
    """The section of docs/benchmarks.md that such a run fills."""
    arguments = " ".join(f"{key}={value}" for key, value in run.plan.arguments.items())
    lines = [
        f"edge-store {place.edge_store} (engine `{run.plan.kind}`), "
        + ", ".join(f"{name} {found}" for name, found in place.packages.items())
        + f", Python {place.python}, SQLite {place.sqlite}.",
        f"Card: {place.card}. Processor: {place.processor}, {place.cores} cores.",
        f"Windows of {run.plan.seconds:g} s. SGLang's arguments, the same for both: `{arguments}`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    by_load: dict[str, list[Pair]] = {}
    for pair in run.pairs:
        by_load.setdefault(pair.load.name, []).append(pair)
    lines += [_row(name, pairs) for name, pairs in by_load.items()]
    lines.append("")
    if run.kill is not None:
        lines += [_killed(run.kill), ""]
    lines += ["| figure | median | unit | bound | holds |", "|---|---|---|---|---|"]
    lines += [
        f"| {f.name} | {f.shown} | {f.unit} | {f.bound} | {'yes' if f.holds else '**no**'} |"
        for f in run.figures
        if f.bound
    ]
    return "\n".join(lines) + "\n"


def _killed(kill: Kill) -> str:
    whole = "whole" if kill.is_whole else "NOT whole"
    return (
        f"SIGKILL under {kill.connections} callers: {kill.acknowledged} answers of that load had "
        f"been acknowledged, {kill.acknowledged_in_run} in the whole run; {kill.in_database} of "
        f"them are in the database, which is {whole}; {kill.unanswered} requests were cut."
    )


def _row(name: str, pairs: Sequence[Pair]) -> str:
    rates = ratios_of(pairs, "requests_per_s")
    ttfts = ratios_of(pairs, "ttft_p50_ms")
    cells = [
        name,
        str(len(pairs)),
        _both(pairs, "requests_per_s"),
        f"{median(rates):.3f}",
        f"{lower_bound(rates):.3f}",
        _both(pairs, "p50_ms"),
        _both(pairs, "p99_ms"),
        f"{median(ratios_of(pairs, 'p99_ms')):.3f}",
        _both(pairs, "ttft_p50_ms") if ttfts else "-",
        f"{median(ttfts):.3f}" if ttfts else "-",
        _both(pairs, "cpu_us_parent"),
        _both(pairs, "cpu_us_tree"),
    ]
    return f"| {' | '.join(cells)} |"


def _both(pairs: Sequence[Pair], field: str) -> str:
    both = [(getattr(pair.daemon, field), getattr(pair.own, field)) for pair in pairs]
    daemon, own = (
        median([value for value in side if value is not None])  # None: no answer in that window
        for side in zip(*both, strict=True)
    )
    return f"{daemon:.0f} ÷ {own:.0f}"
