"""What ``edge-store query`` takes to start, and to write many rows, beside what others take for it.

Each program is a process of its own that writes to a file that nobody reads, in turn with the
others, so that whatever else the machine does falls on all. CPU is the user's and the system's time
of the process; memory is the most that was resident.
"""

import asyncio
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge_store.bench.figures import Figure, at_least, at_most, median
from edge_store.bench.history import History
from edge_store.sql import sql

__all__ = ["Run", "bench_rows", "run_once"]

START_CPU_S_MAX = 0.15
ROWS_PER_S_MIN = 300_000
GROWTH_MAX = 1.1
FEW_ROWS = 1_000
STARTS = 11
TIMEOUT = "3600"
# A process begins with the memory of the one that starts it, to the kernel: so a small one does.
# It takes the processes that outlive their parent, too, to charge them to the run.
LAUNCHER = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
out = os.open(os.devnull, os.O_WRONLY)
began = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
_, status, usage = os.wait4(pid, 0)
wall, cpu, peak = time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
while True:
    try:
        _, _, usage = os.wait4(-1, 0)
    except ChildProcessError:
        break
    cpu, peak = cpu + usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss)
print(wall, cpu, peak)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Run(NamedTuple):
    """One process: seconds, CPU seconds, most resident bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


async def bench_rows(
    folder: Path, *, rows: int, rounds: int, say: Callable[[str], None]
) -> list[Figure]:
    """``rows`` results are written as JSON lines, ``rounds`` times by each program."""
    return await asyncio.to_thread(_bench, folder, rows, rounds, say)


def _bench(folder: Path, rows: int, rounds: int, say: Callable[[str], None]) -> list[Figure]:
    path = folder / "rows.db"
    with closing(History(path, rows)) as history:
        history.grow(rows, say)
        return [*_starts(path), *_written(path, rows, rounds, say)]


def _query(path: Path, statement: str, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "edge_store", "query", statement, "--db", str(path),
        "--timeout", TIMEOUT, *options,
    ]  # fmt: skip


def _starts(path: Path) -> list[Figure]:
    runs = [run_once(_query(path, sql("bench_nothing"))) for _ in range(STARTS)]
    bare = [run_once([sys.executable, "-c", ""]) for _ in range(STARTS)]
    return [
        at_most("start of query, CPU", median([run.cpu_s for run in runs]), START_CPU_S_MAX, "s"),
        Figure(name="start of Python, CPU", value=median([run.cpu_s for run in bare]), unit="s"),
    ]


def _written(path: Path, rows: int, rounds: int, say: Callable[[str], None]) -> list[Figure]:
    statement = sql("bench_narrow")
    programs: dict[str, Sequence[str]] = {
        "edge-store --nl": _query(path, statement, "--nl"),
        "edge-store --csv": _query(path, statement, "--csv"),
        "sqlite-utils --nl": [
            sys.executable, "-m", "sqlite_utils", "query", str(path), statement, "--nl",
        ],
    }  # fmt: skip
    shell = shutil.which("sqlite3")
    if shell:
        programs["sqlite3 -json"] = [shell, "-readonly", "-json", str(path), statement]
    else:
        say("there is no sqlite3: it is left out")
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for turn in range(rounds + 1):  # the first warms the file up
        for name, command in programs.items():
            run = run_once(command)
            if turn:
                runs[name].append(run)
        say(f"round {turn} of {rounds}")
    few = run_once(_query(path, statement, "--nl", "--limit", str(FEW_ROWS)))
    figures = []
    for name, each in runs.items():
        rate = median([rows / run.cpu_s for run in each])
        what = f"{name}, {rows} narrow rows"
        figures += [
            at_least(f"{what}, per CPU second", rate, ROWS_PER_S_MIN, "rows/s")
            if name == "edge-store --nl"
            else Figure(name=f"{what}, per CPU second", value=rate, unit="rows/s"),
            Figure(
                name=f"{what}, per second",
                value=median([rows / run.wall_s for run in each]),
                unit="rows/s",
            ),
            Figure(
                name=f"{name}, most memory",
                value=median([run.peak_bytes / 2**20 for run in each]),
                unit="MiB",
            ),
        ]
    growth = median([run.peak_bytes / few.peak_bytes for run in runs["edge-store --nl"]])
    figures.append(at_most(f"most memory, {rows} rows ÷ {FEW_ROWS}", growth, GROWTH_MAX))
    return figures


def run_once(command: Sequence[str]) -> Run:
    """Let it write to a file that nobody reads."""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", LAUNCHER, *command],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    wall_s, cpu_s, peak_kib = map(float, done.stdout.split())
    return Run(wall_s, cpu_s, int(peak_kib) * 1024)
