"""Starts all that is compared, loads one at a time in turn, and prints medians with their bounds.

A slice of each in every round; a ratio is taken within its round. CPU is what the kernel has
charged in the slice to every process that had a part in it: callers, broker, workers, server, and
children that have ended. Memory is their PSS, the largest at the end of a slice. Run by
scripts/bench-stack.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, NamedTuple, Self

import msgspec

from edge_store.bench.figures import CLOCK_TICKS, Figure, median
from edge_store.bench.writer import sample_result
from edge_store.cli.output import write_rows
from edge_store.clock import now_ms
from edge_store.ids import BootId, DeviceId
from edge_store.query import QueryResult
from edge_store.result import Boot, Content
from edge_store.rows import OUTPUT_COLUMNS, RESULT_COLUMNS, to_row

HERE = Path(__file__).parent
ROWS_MAX = 32_768
SAMPLES = 1024  # written again and again: by who commits more, in several goes
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
MIB = 1024 * 1024
FIRST_ROWS = 64
KINDS = (
    "as-written",
    "improved",
    "batched",
    "asyncpg",
    "asyncpg-wide",
    "sqlite-utils",
    "sqlite-utils-wal",
    "ours",
)
NAMES = {
    "as-written": "Celery + Redis + PostgreSQL as written",
    "improved": "Celery, connection kept, groups of 64 tasks",
    "batched": "Celery, connection kept, 64 rows to a task",
    "asyncpg": "asyncpg, group commit, our tables",
    "asyncpg-wide": "asyncpg, group commit, one wide table",
    "sqlite-utils": "sqlite-utils row by row, as it comes",
    "sqlite-utils-wal": "sqlite-utils row by row, WAL",
    "ours": "edge-store's writer",
}
RATE_BOUNDS = {
    "as-written": 40,
    "improved": 10,
    "batched": None,
    "asyncpg": 1.5,
    "asyncpg-wide": None,
    "sqlite-utils": 15,
    "sqlite-utils-wal": 15,
}
CPU_SHARE_MAX, MEMORY_SHARE_MAX = 1 / 50, 1 / 3


class Slice(NamedTuple):
    rows_per_s: float
    cpu_us: float
    pss_mib: float


class Process:
    """A child in a session of its own; leaving ends it and all that it started, by their ids."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, environ: Mapping[str, str], user: str | None
    ) -> None:
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env={**os.environ, **environ},
                cwd=HERE,
                text=True,
                start_new_session=True,
                **({"user": user, "group": user, "extra_groups": []} if user else {}),
            )
        self.pid = self._child.pid
        self._log = log

    def __enter__(self) -> Self:
        return self

    def read(self) -> str:
        """The next line it prints."""
        out: IO[str] | None = self._child.stdout
        assert out is not None
        line = out.readline()
        if not line:
            sys.exit(f"{self._child.args} ended: {self._log.read_text()[-2000:]}")
        return line.strip()

    def ask(self, line: str) -> str:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()
        return self.read()

    def __exit__(self, *_exc: object) -> None:
        self._child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_TIMEOUT_S)
        if self._child.returncode is None:  # else its id may be another's by now
            for pid in tree(self.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._child.communicate()


def tree(root: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text("ascii", errors="replace")
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, left = [], [root]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def cpu_seconds(roots: Sequence[int]) -> float:
    """Of the trees so far, their ended and awaited children included."""
    ticks = 0
    for pid in (pid for root in roots for pid in tree(root)):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
        except OSError:
            continue
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))  # utime to cstime (proc(5))
    return ticks / CLOCK_TICKS


def pss_mib(roots: Sequence[int]) -> float:
    """Proportional memory of the trees."""
    total = 0
    for pid in (pid for root in roots for pid in tree(root)):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
        except OSError:
            continue
        total += int(rollup.partition("\nPss:")[2].split()[0]) * 1024
    return total / MIB


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int, what: str) -> None:
    """Wait until somebody listens there."""
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                sys.exit(f"{what} does not listen on port {port}")
            time.sleep(0.05)
        else:
            return


def write_samples(path: Path) -> None:
    """The shipped benchmark's rows, by table; bytes as the text that they are."""
    boot = Boot(
        boot_id=BootId("boot"), device_id=DeviceId("bench"), timeline="timeline", version="0",
        engine="demo", engine_version="0", clock_synced=True,
    )  # fmt: skip
    content = ("seq", *Content.__struct_fields__)  # others take it as it came
    columns = {"results": RESULT_COLUMNS, "outputs": OUTPUT_COLUMNS, "requests": content}
    with path.open("w", encoding="utf-8") as out:
        for n in range(1, SAMPLES + 1):
            result = sample_result(boot, n)
            row = to_row(n, boot.timeline, result)
            values = (row.result, row.outputs[0], (n, *msgspec.structs.astuple(result.content)))
            tables = {
                table: dict(zip(names, map(_plain, each), strict=True))
                for (table, names), each in zip(columns.items(), values, strict=True)
            }
            out.write(json.dumps(tables) + "\n")
    path.chmod(0o644)


def _plain(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


class Servers(NamedTuple):
    """Redis and PostgreSQL, and what their clients need to know."""

    redis: int
    postgres: int
    environ: dict[str, str]


def start_servers(processes: ExitStack, work: Path, binaries: Path) -> Servers:
    user = "postgres" if os.getuid() == 0 else None
    data, sockets = work / "postgres", work / "sockets"
    for folder in (data, sockets):
        folder.mkdir(mode=0o700)
        if user:
            shutil.chown(folder, user, user)
    subprocess.run(
        [binaries / "initdb", "-D", data, "--auth=trust", "--username=postgres", "-E", "UTF8"],
        check=True, stdout=subprocess.DEVNULL, cwd="/",
        **({"user": user, "group": user, "extra_groups": []} if user else {}),
    )  # fmt: skip
    redis_port, postgres_port = free_port(), free_port()
    redis = processes.enter_context(
        Process(
            ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "",
             "--dir", work],
            work / "redis.log", {}, None,
        )
    )  # fmt: skip
    postgres = processes.enter_context(
        Process(
            [binaries / "postgres", "-D", data, "-p", str(postgres_port), "-k", sockets,
             "-c", "listen_addresses=127.0.0.1"],
            work / "postgres.log", {}, user,
        )
    )  # fmt: skip
    accepts(redis_port, "Redis")
    accepts(postgres_port, "PostgreSQL")
    where = f"127.0.0.1:{postgres_port}"
    return Servers(
        redis.pid,
        postgres.pid,
        {
            "STACK_ROWS": str(work / "rows.jsonl"),
            "STACK_BROKER": f"redis://127.0.0.1:{redis_port}/0",
            "STACK_DSN": f"host=127.0.0.1 port={postgres_port} user=postgres dbname=postgres",
            "STACK_URL": f"postgresql://postgres@{where}/postgres?sslmode=disable",
            "STACK_SQLITE": str(work / "sqlite-utils"),
            "PYTHONPATH": str(HERE),
        },
    )


class Contender:
    """One kind: who writes, and which processes have a part in it."""

    def __init__(self, client: Process, others: Sequence[int]) -> None:
        self._client = client
        self._roots = [client.pid, *others]
        self.rows = FIRST_ROWS

    def slice(self, seconds: float) -> Slice:
        """Write ``rows`` rows; the next slice takes about ``seconds``."""
        rows, cpu = self.rows, cpu_seconds(self._roots)
        spent = float(self._client.ask(str(rows)))
        cpu = cpu_seconds(self._roots) - cpu
        aim = int(rows * seconds / spent) // FIRST_ROWS * FIRST_ROWS
        self.rows = min(max(aim, FIRST_ROWS), rows * 8, ROWS_MAX)
        return Slice(rows / spent, cpu / rows * 1e6, pss_mib(self._roots))


def start(processes: ExitStack, work: Path, binaries: Path, workers: int) -> dict[str, Contender]:
    write_samples(work / "rows.jsonl")
    servers = start_servers(processes, work, binaries)
    python = work / "venv" / "bin" / "python"
    subprocess.run(
        [python, HERE / "theirs.py", "prepare"], env={**os.environ, **servers.environ}, check=True
    )
    worker = processes.enter_context(
        Process(
            [python, "-m", "celery", "-A", "tasks", "worker", "--concurrency", str(workers),
             "--loglevel", "WARNING", "--without-gossip", "--without-mingle"],
            work / "celery.log", {**servers.environ, "C_FORCE_ROOT": "1"}, None,
        )
    )  # fmt: skip
    stack: tuple[int, ...] = (servers.redis, servers.postgres, worker.pid)
    others = dict.fromkeys(("as-written", "improved", "batched"), stack)
    others |= dict.fromkeys(("asyncpg", "asyncpg-wide"), (servers.postgres,))
    contenders = {}
    for kind in KINDS:
        theirs = kind != "ours"
        command = [python, HERE / "theirs.py", kind] if theirs else [
            sys.executable, HERE / "ours.py", work / "ours.db"]  # fmt: skip
        client = processes.enter_context(
            Process(command, work / f"{kind}.log", servers.environ if theirs else {}, None)
        )
        assert client.read() == "ready"
        contenders[kind] = Contender(client, others.get(kind, ()))
    return contenders


def figures_of(found: Mapping[str, Sequence[Slice]]) -> list[Figure]:
    """Ratios within a round, medians over rounds."""
    ours = found["ours"]
    figures = []
    for kind, bound in RATE_BOUNDS.items():
        pairs = list(zip(ours, found[kind], strict=True))
        rate = median([o.rows_per_s / t.rows_per_s for o, t in pairs])
        name = NAMES[kind]
        figures.append(
            Figure(name=f"rows/s, ours ÷ {name}", value=rate, unit="ratio",
                   bound=f"≥ {bound:g}" if bound else "", holds=not bound or rate >= bound)
        )  # fmt: skip
        shares = (
            ("CPU per row", median([o.cpu_us / t.cpu_us for o, t in pairs]), CPU_SHARE_MAX),
            ("memory", median([o.pss_mib / t.pss_mib for o, t in pairs]), MEMORY_SHARE_MAX),
        )
        is_stack = kind in ("as-written", "improved")
        figures += [
            Figure(
                name=f"{what}, ours ÷ {name}", value=share, unit="ratio",
                bound=f"≤ 1/{1 / most:.0f}" if is_stack else "",
                holds=not is_stack or share <= most,
            )
            for what, share, most in shares
        ]  # fmt: skip
    return figures


def show(columns: Sequence[str], rows: list[tuple[object, ...]]) -> None:
    write_rows(QueryResult(columns=tuple(columns), rows=rows, is_cut=False), "table", sys.stdout)
    print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--postgres", type=Path, required=True)
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=2 * (os.cpu_count() or 1))
    given = parser.parse_args()
    found: dict[str, list[Slice]] = {kind: [] for kind in KINDS}
    with ExitStack() as processes:
        contenders = start(processes, given.work, given.postgres, given.workers)
        for kind, contender in contenders.items():  # warm up, and find how many rows a slice has
            for _ in range(3):
                contender.slice(given.seconds)
            print(f"{now_ms() / 1000:.0f} {kind}: {contender.rows} rows a slice", file=sys.stderr)
        for round_ in range(given.slices):
            for kind, contender in contenders.items():
                found[kind].append(contender.slice(given.seconds))
            rates = ", ".join(f"{kind} {each[-1].rows_per_s:.0f}" for kind, each in found.items())
            print(f"round {round_ + 1}: rows/s {rates}", file=sys.stderr)
    show(
        ("64 producers", "rows/s", "CPU, µs/row", "memory, MiB"),
        [
            (NAMES[kind], f"{median([s.rows_per_s for s in each]):.0f}",
             f"{median([s.cpu_us for s in each]):.0f}", f"{max(s.pss_mib for s in each):.0f}")
            for kind, each in found.items()
        ],
    )  # fmt: skip
    figures = figures_of(found)
    show(
        ("figure", "median", "unit", "bound", "holds"),
        [
            (
                f.name,
                f"{f.value:.3g}",
                f.unit,
                f.bound,
                ("yes" if f.holds else "NO") * bool(f.bound),
            )
            for f in figures
        ],
    )
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
