"""Retention with an archive against callers of the same daemon: what they notice, what it does.

``edge-store retention apply`` runs beside callers of a steady rate; windows in which it goes on and
windows in which its processes are stopped take turns. Of COMMITs the daemon's own histogram tells,
as the difference over a window. Then it runs alone. Last, what ``auto_vacuum`` would cost a row.
"""

import asyncio
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.figures import Figure, at_most, cpu_seconds, median
from edge_store.bench.order import Mode
from edge_store.bench.served import daemon_of
from edge_store.bench.writer import prepare, sample_result
from edge_store.clock import now_ms
from edge_store.recorder.batch import ChainHead, read_head, write_batch
from edge_store.result import Boot, Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, open_writer
from edge_store.wal import checkpoint, wal_bytes

__all__ = ["RetentionPlan", "bench_retention"]

AGE_MS = 400 * 86_400_000
PER_DAY = 20_000
ROWS_PER_COMMIT = 512
COMMITS_PER_CHECKPOINT = 8
CALLERS = 8
WINDOW_S = 3.0
ALONE_S = 20.0
POLL_S = 0.1
COMMIT_RATIO_MAX, SERVING_RATIO_MAX = 1.5, 1.1
COMMIT_SECONDS = "edge_store_commit_seconds_bucket"
VACUUM_ROWS = 640
MIB = 1024 * 1024


class RetentionPlan(Record, frozen=True, kw_only=True):
    """How much is measured. ``offered_per_s``: of all callers."""

    pairs: int
    rows: int
    offered_per_s: float


class Window(Record, frozen=True, kw_only=True):
    """What callers met in one, and the p99 of COMMITs."""

    slice: Slice
    commit_p99_ms: float
    deleted: int


async def bench_retention(
    folder: Path, plan: RetentionPlan, *, say: Callable[[str], None]
) -> list[Figure]:
    """Measure.

    Raises:
        EdgeStoreError: the daemon did not start, or an answer was not whole.
    """
    database = folder / "store" / "results.db"
    await asyncio.to_thread(_fill, database, plan.rows, say)
    settings = {"log.level": "warning", "store.path": str(database), "replica.enabled": False}
    async with daemon_of(settings, folder / "daemon") as daemon, running_clients() as clients:
        beside = await Applying.begin(database, folder / "archive")
        try:
            measured = Measured(clients, daemon.pid, daemon.port, database, plan.offered_per_s)
            await _begun(measured, beside)
            figures = await _pairs(measured, beside, plan, say)
            figures += await _alone(measured, beside, say)
        finally:
            await beside.end()
    return figures + await asyncio.to_thread(_vacuum, folder, plan.pairs)


class Applying:
    """``edge-store retention apply`` and its children."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.peak_bytes = 0

    @classmethod
    async def begin(cls, database: Path, archive: Path) -> "Applying":
        """Start it."""
        settings = {
            "STORE__PATH": str(database),
            "REPLICA__ENABLED": "false",
            "RETENTION__KEEP_DAYS": "365",
            "RETENTION__ARCHIVE": str(archive),
        }
        config = archive.with_name("retention.toml")
        config.touch()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_store", "retention", "apply", "--yes"),
            *("--config", str(config)),
            env={**os.environ, **{f"EDGE_STORE_{key}": text for key, text in settings.items()}},
            stdout=asyncio.subprocess.DEVNULL,
            cwd=database.parent,
        )
        return cls(process)

    def processes(self) -> list[int]:
        """Its own, and those that it has started."""
        found = [self._process.pid]
        with suppress(OSError):
            tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            found += [int(number) for number in tasks.read_text(encoding="ascii").split()]
        return found

    def look(self) -> None:
        """Note the largest that one of them is."""
        for number in self.processes():
            with suppress(OSError):
                pages = Path(f"/proc/{number}/statm").read_text(encoding="ascii").split()[1]
                self.peak_bytes = max(self.peak_bytes, int(pages) * os.sysconf("SC_PAGE_SIZE"))

    def cpu_seconds(self) -> float:
        """Of all that it started."""
        total = 0.0
        for number in self.processes():
            with suppress(OSError):
                total += cpu_seconds(number, with_ended=True)
        return total

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to delete."""
        return self._process.returncode is not None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does not go on."""
        held = self.processes()
        _signal(held, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(held, signal.SIGCONT)

    async def end(self) -> None:
        """Kill it."""
        _signal(self.processes(), signal.SIGKILL)
        await self._process.wait()


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process_id in processes:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)


class Measured:
    """The load on the daemon, and what its database and its histogram say."""

    def __init__(
        self, clients: Clients, pid: int, port: int, database: Path, offered_per_s: float
    ) -> None:
        self._clients = clients
        self.pid, self._port = pid, port
        self._database = database
        self._load = Load(connections=CALLERS, mode=Mode.PLAIN, offered_per_s=offered_per_s)

    async def window(self) -> Window:
        """One."""
        before, gone = self._commits(), self.deleted()
        found, _ = await self._clients.slice(self.pid, self._port, self._load, WINDOW_S)
        after = self._commits()
        counts = {bound: after[bound] - before[bound] for bound in after}
        return Window(slice=found, commit_p99_ms=_p99_ms(counts), deleted=self.deleted() - gone)

    def deleted(self) -> int:
        """Results that retention has deleted so far."""
        with closing(open_reader(self._database)) as connection:
            (count,) = connection.execute(sql("bench_deleted")).fetchone()
        return int(count)

    def _commits(self) -> dict[float, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == COMMIT_SECONDS
        }


def _p99_ms(counts: dict[float, float]) -> float:
    """Of a histogram's cumulated counts, between the bounds of its bucket."""
    wanted = 0.99 * max(counts.values())
    low = below = 0.0
    for bound in sorted(counts):
        if counts[bound] >= wanted:
            share = (wanted - below) / max(counts[bound] - below, 1e-9)
            return 1000 * (low + share * (min(bound, 2 * low + 1) - low))
        low, below = bound, counts[bound]
    raise AssertionError("the last bucket has all")


async def _begun(measured: Measured, beside: Applying) -> None:
    """Wait until the first file is verified."""
    while not measured.deleted() and not beside.is_over:  # noqa: ASYNC110  (another process)
        await asyncio.sleep(POLL_S)


async def _pairs(
    measured: Measured, beside: Applying, plan: RetentionPlan, say: Callable[[str], None]
) -> list[Figure]:
    found: list[tuple[Window, Window]] = []
    for number in range(plan.pairs + 1):
        windows: dict[bool, Window] = {}
        for is_stopped in (True, False) if number % 2 else (False, True):
            if is_stopped:
                with beside.stopped():
                    windows[True] = await measured.window()
            else:
                windows[False] = await measured.window()
                beside.look()
        one, none = windows[False], windows[True]
        say(
            f"pair {number}: p50 {one.slice.p50_ms:.2f} and {none.slice.p50_ms:.2f} ms, p99 "
            f"{one.slice.p99_ms:.1f} and {none.slice.p99_ms:.1f} ms, COMMIT p99 "
            f"{one.commit_p99_ms:.1f} and {none.commit_p99_ms:.1f} ms, {one.deleted} deleted; "
            f"load average {os.getloadavg()[0]:.1f}"
        )
        if number and one.deleted:  # the first pair warms up
            found.append((one, none))
    assert found, "retention has deleted nothing meanwhile"
    ratio = "with retention ÷ without"
    return [
        Figure(
            name=f"callers' p50, {ratio}",
            value=median([one.slice.p50_ms / none.slice.p50_ms for one, none in found]),
            unit="ratio",
        ),
        at_most(
            f"callers' p99, {ratio}",
            median([one.slice.p99_ms / none.slice.p99_ms for one, none in found]),
            SERVING_RATIO_MAX,
        ),
        at_most(
            f"p99 of COMMITs, {ratio}",
            median([one.commit_p99_ms / none.commit_p99_ms for one, none in found]),
            COMMIT_RATIO_MAX,
        ),
        Figure(
            name="results archived and deleted beside callers",
            value=median([one.deleted / WINDOW_S for one, _ in found]),
            unit="1/s",
        ),
    ]


async def _alone(measured: Measured, beside: Applying, say: Callable[[str], None]) -> list[Figure]:
    before, began = measured.deleted(), time.monotonic()
    spent = beside.cpu_seconds() + cpu_seconds(measured.pid, with_ended=True)
    while time.monotonic() - began < ALONE_S and not beside.is_over:
        await asyncio.sleep(POLL_S)
        beside.look()
    deleted = measured.deleted() - before
    rate = deleted / (time.monotonic() - began)
    spent = beside.cpu_seconds() + cpu_seconds(measured.pid, with_ended=True) - spent
    say(f"alone: {rate:.0f} results/s; load average {os.getloadavg()[0]:.1f}")
    return [
        Figure(name="the same without callers", value=rate, unit="1/s"),
        Figure(
            name="CPU of it and of the daemon, a result",
            value=1e6 * spent / max(deleted, 1),
            unit="µs",
        ),
        Figure(name="largest process of it", value=beside.peak_bytes / MIB, unit="MiB"),
    ]


def _fill(database: Path, rows: int, say: Callable[[str], None]) -> None:
    database.parent.mkdir()
    connection = open_writer(database)
    try:
        boot = prepare(connection)
        head, done, commits = read_head(connection), 0, 0
        while done < rows:
            head, done, commits = (
                _grow(connection, boot, head, done),
                done + ROWS_PER_COMMIT,
                1 + commits,
            )
            if commits % COMMITS_PER_CHECKPOINT == 0:
                checkpoint(connection)
    finally:
        connection.close()
    say(f"{done} results of over a year ago in {database.stat().st_size / 1e6:.0f} MB")


def _grow(connection: Connection, boot: Boot, head: ChainHead, done: int) -> ChainHead:
    at = now_ms() - AGE_MS + done // PER_DAY * 86_400_000
    results = [
        msgspec.structs.replace(sample_result(boot, done + n), created_at=at, completed_at=at)
        for n in range(1, ROWS_PER_COMMIT + 1)
    ]
    return write_batch(connection, boot, head, done + ROWS_PER_COMMIT, results).head


def _vacuum(folder: Path, pairs: int) -> list[Figure]:
    """CPU and WAL of a row in a file that has ``auto_vacuum``, against one that has not."""
    figures = []
    for size in (1, 16, 64):
        with (
            closing(Slices(folder / f"plain{size}.db", 0)) as plain,
            closing(Slices(folder / f"vacuum{size}.db", 2)) as vacuumed,
        ):
            found = []
            for number in range(pairs):
                order = (plain, vacuumed) if number % 2 else (vacuumed, plain)
                took = {each: each.write(size) for each in order}
                ratios = zip(took[vacuumed], took[plain], strict=True)
                found.append([new / old for new, old in ratios])
        for place, name in enumerate(("CPU", "WAL")):
            figures.append(
                Figure(
                    name=f"{name} of a row with auto_vacuum ÷ without, {size} to a COMMIT",
                    value=median([each[place] for each in found]),
                    unit="ratio",
                )
            )
    return figures


class Slices:
    """A file of its own that grows."""

    def __init__(self, path: Path, auto_vacuum: int) -> None:
        self._path = path
        self.connection = open_writer(path)
        if auto_vacuum:  # before the first table; a WAL file is written anew for it
            self.connection.execute("PRAGMA journal_mode = DELETE")
            self.connection.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
            self.connection.execute(sql("vacuum"))
            self.connection.execute("PRAGMA journal_mode = WAL")
        assert self.connection.execute("PRAGMA auto_vacuum").fetchone() == (auto_vacuum,)
        self._boot = prepare(self.connection)
        self._head, self._done = read_head(self.connection), 0

    def write(self, size: int) -> tuple[float, float]:
        """CPU seconds and WAL bytes of some rows, so many to a COMMIT."""
        rows = VACUUM_ROWS if size > 1 else VACUUM_ROWS // 4
        results = [sample_result(self._boot, self._done + n) for n in range(1, rows + 1)]
        checkpoint(self.connection)
        began = time.process_time()
        for first in range(0, rows, size):
            batch = results[first : first + size]
            self._done += len(batch)
            written = write_batch(self.connection, self._boot, self._head, self._done, batch)
            self._head = written.head
        return time.process_time() - began, float(wal_bytes(self._path))

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
