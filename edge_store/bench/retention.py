"""Retention with an archive against callers of the same daemon: what they notice, what it does.

``edge-store retention apply`` runs beside callers of a steady rate; of three windows its processes
go on in one, and are stopped in two, in turns. What is told is the median of the ratios; and of the
ratios of the two without it, which says what noise alone is. Of COMMITs the daemon's own histogram
tells, as the difference over a window. Then it runs alone. Last, what ``auto_vacuum`` would cost.
"""

import asyncio
import math
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.engine import SHARED_ARGUMENTS
from edge_store.bench.figures import Figure, at_most, cpu_seconds, lower_bound, median
from edge_store.bench.order import Mode
from edge_store.bench.served import daemon_of
from edge_store.bench.vacuum import measure_vacuum
from edge_store.bench.writer import prepare, sample_result
from edge_store.clock import now_ms
from edge_store.config import EngineKind
from edge_store.recorder.batch import ChainHead, read_head, write_batch
from edge_store.result import Boot, Record
from edge_store.search.file import index_path, open_index
from edge_store.search.index import step
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, open_writer
from edge_store.wal import checkpoint

__all__ = ["RetentionPlan", "bench_retention"]

DAY_MS = 86_400_000
AGE_MS = 400 * DAY_MS
DAYS = 30  # that they are spread over
ROWS_PER_COMMIT = 512
COMMITS_PER_CHECKPOINT = 8
WINDOW_S = 10.0  # some files are written and deleted in it
ALONE_S = 20.0
SAY_S = 60.0
POLL_S = 0.1
COMMIT_RATIO_MAX, SERVING_RATIO_MAX = 1.5, 1.1
COMMIT_SECONDS = "edge_store_commit_seconds_bucket"
MIB = 1024 * 1024


class RetentionPlan(Record, frozen=True, kw_only=True):
    """How much is measured. ``offered_per_s``: of all callers. ``sglang``: its arguments; without
    them the demo engine answers. ``is_whole``: it goes on until nothing is left.
    """

    pairs: int
    rows: int
    is_whole: bool
    offered_per_s: float
    connections: int
    sglang: dict[str, Any]


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
    await asyncio.to_thread(_index, database)
    settings: dict[str, Any] = {"log.level": "warning", "store.path": str(database)}
    if plan.sglang:
        settings["engine.kind"] = EngineKind.SGLANG.value
        settings["engine.sglang"] = {**SHARED_ARGUMENTS, **plan.sglang}
    async with daemon_of(settings, folder / "daemon") as daemon, running_clients() as clients:
        beside = await Applying.begin(database, folder / "archive")
        try:
            measured = Measured(clients, daemon.pid, daemon.port, database, plan)
            await _begun(measured, beside)
            figures = await _pairs(measured, beside, plan, say)
            figures += await _alone(measured, beside, plan, say)
        finally:
            await beside.end()
    return figures + await asyncio.to_thread(measure_vacuum, folder, plan.pairs)


class Applying:
    """``edge-store retention apply`` and its children."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.peak_bytes = 0
        self._spent_s = 0.0

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
                self.peak_bytes = max(self.peak_bytes, resident_bytes(number))

    def cpu_seconds(self) -> float:
        """Of all that it started; as last seen, where it has ended."""
        total = 0.0
        for number in self.processes():
            with suppress(OSError):
                total += cpu_seconds(number, with_ended=True)
        self._spent_s = max(self._spent_s, total)
        return self._spent_s

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


def resident_bytes(process: int) -> int:
    """The memory of a process now."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process_id in processes:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)


class Measured:
    """The load on the daemon, and what its database and its histogram say."""

    def __init__(
        self, clients: Clients, pid: int, port: int, database: Path, plan: RetentionPlan
    ) -> None:
        self._clients = clients
        self.pid, self._port = pid, port
        self._database = database
        self._load = Load(
            connections=plan.connections, mode=Mode.PLAIN, offered_per_s=plan.offered_per_s
        )

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


class Round(NamedTuple):
    """Three windows, measured in turns."""

    beside: Window
    without: Window
    again: Window

    def ratios(self, of: Callable[[Window], float]) -> tuple[float, float]:
        """With retention ÷ without, and without ÷ without."""
        without = math.sqrt(of(self.without) * of(self.again))
        return of(self.beside) / without, of(self.without) / of(self.again)


async def _pairs(
    measured: Measured, beside: Applying, plan: RetentionPlan, say: Callable[[str], None]
) -> list[Figure]:
    found: list[Round] = []
    for number in range(plan.pairs + 1):
        windows: dict[int, Window] = {}
        for turn in range(3):
            place = (number + turn) % 3
            if place:
                with beside.stopped():
                    windows[place] = await measured.window()
            else:
                windows[place] = await measured.window()
                beside.look()
        one = Round(*(windows[place] for place in range(3)))
        say(
            f"{number}: p50 {_row(one, 'p50_ms')}, p99 {_row(one, 'p99_ms')} ms, COMMIT p99 "
            f"{', '.join(f'{each.commit_p99_ms:.1f}' for each in one)} ms, {one.beside.deleted} "
            f"deleted; load average {os.getloadavg()[0]:.1f}"
        )
        if number and one.beside.deleted:  # the first warms up
            found.append(one)
    assert found, "retention has deleted nothing meanwhile"
    return _compared(found)


def _row(one: Round, name: str) -> str:
    return ", ".join(f"{getattr(each.slice, name):.2f}" for each in one)


def _compared(found: list[Round]) -> list[Figure]:
    figures = []
    for name, of, bound in (
        ("callers' p50", lambda window: window.slice.p50_ms, None),
        ("callers' p99", lambda window: window.slice.p99_ms, SERVING_RATIO_MAX),
        ("p99 of COMMITs", lambda window: window.commit_p99_ms, COMMIT_RATIO_MAX),
    ):
        ratios, noise = zip(*(one.ratios(of) for one in found), strict=True)
        words, value = f"{name}, with retention ÷ without", median(ratios)
        figures.append(
            at_most(words, value, bound) if bound else Figure(name=words, value=value, unit="ratio")
        )
        high = -lower_bound([-value for value in noise])
        figures.append(
            Figure(
                name=f"{name}, noise of such a median, ±",
                value=(high - lower_bound(noise)) / 2,
                unit="ratio",
            )
        )
    pace = median([one.beside.deleted / WINDOW_S for one in found])
    name = "results archived and deleted beside callers"
    return [*figures, Figure(name=name, value=pace, unit="1/s")]


async def _alone(
    measured: Measured, beside: Applying, plan: RetentionPlan, say: Callable[[str], None]
) -> list[Figure]:
    before, began = measured.deleted(), time.monotonic()
    spent = beside.cpu_seconds() + cpu_seconds(measured.pid, with_ended=True)
    said = began
    while (plan.is_whole or time.monotonic() - began < ALONE_S) and not beside.is_over:
        await asyncio.sleep(POLL_S)
        beside.look()
        if time.monotonic() - said > SAY_S:
            said = time.monotonic()
            say(f"{measured.deleted()} of {plan.rows} are gone; {_sizes(measured, beside)}")
    deleted = measured.deleted() - before
    rate = deleted / (time.monotonic() - began)
    spent = beside.cpu_seconds() + cpu_seconds(measured.pid, with_ended=True) - spent
    say(f"alone: {rate:.0f} results/s; load average {os.getloadavg()[0]:.1f}")
    figures = [
        Figure(name="the same without callers", value=rate, unit="1/s"),
        Figure(
            name="CPU of it and of the daemon, a result",
            value=1e6 * spent / max(deleted, 1),
            unit="µs",
        ),
        Figure(name="largest process of it", value=beside.peak_bytes / MIB, unit="MiB"),
    ]
    if plan.is_whole:
        left = plan.rows - measured.deleted()
        figures.append(Figure(name="results left", value=left, unit="", bound="0", holds=not left))
    return figures


def _sizes(measured: Measured, beside: Applying) -> str:
    daemon, largest = resident_bytes(measured.pid), beside.peak_bytes
    return f"daemon {daemon / MIB:.0f} MiB, largest process of retention {largest / MIB:.0f} MiB"


def _fill(database: Path, rows: int, say: Callable[[str], None]) -> None:
    database.parent.mkdir()
    connection = open_writer(database)
    try:
        boot = prepare(connection)
        head, done, commits = read_head(connection), 0, 0
        while done < rows:
            some = min(ROWS_PER_COMMIT, rows - done)
            head = _grow(connection, boot, head, AGE_MS - DAYS * done // rows * DAY_MS, some)
            done, commits = done + some, commits + 1
            if commits % COMMITS_PER_CHECKPOINT == 0:
                checkpoint(connection)
    finally:
        connection.close()
    say(f"{done} results of over a year ago in {database.stat().st_size / 1e6:.0f} MB")


def _index(database: Path) -> None:
    """Else the daemon would be at it in every window: on a box it has been done long ago."""
    with (
        closing(open_reader(database)) as reader,
        closing(open_index(index_path(database), reader)) as index,
    ):
        (newest,) = reader.execute(sql("select_newest_seq")).fetchone()
        while step(index, reader, newest).is_more:
            pass


def _grow(connection: Connection, boot: Boot, head: ChainHead, age_ms: int, rows: int) -> ChainHead:
    at = now_ms() - age_ms
    results = [
        msgspec.structs.replace(sample_result(boot, head.seq + n), created_at=at, completed_at=at)
        for n in range(1, rows + 1)
    ]
    return write_batch(connection, boot, head, head.seq + rows, results).head
