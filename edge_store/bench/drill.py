"""Restore drills, full and incremental ones, against callers of the same daemon: how long one
takes, what it writes, and what callers notice.

Beside callers there is always one: windows of a load in which it goes on and windows in which its
processes are stopped take turns, short ones, so that what else the machine does is in both. The
database, its replica and the scratch copy share one disk. The drill is asked for by the admin
socket, as ``edge-store replica drill`` does.
"""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.figures import Figure, at_least, at_most, cpu_seconds, lower_bound, median
from edge_store.bench.order import Mode
from edge_store.bench.served import daemon_of
from edge_store.bench.writer import prepare, sample_result
from edge_store.duty import PERIOD_S, is_stopped
from edge_store.errors import EdgeStoreError
from edge_store.recorder.batch import read_head, write_batch
from edge_store.replica.proof import Kind
from edge_store.result import Boot, Record, Result
from edge_store.socketpath import reachable_socket
from edge_store.sqlite import open_writer
from edge_store.wal import checkpoint

__all__ = ["DrillPlan", "bench_drill"]

BODY_BYTES = 5000
PROGRAM = b"edge_store.replica.proof"
ROWS_PER_COMMIT = 512
COMMITS_PER_CHECKPOINT = 8
CALLERS = 4
WINDOW_S = 2.0
YEAR_S = 31_536_000
POLL_S = 0.02
START_TIMEOUT_S = 120.0  # of a drill's process, on a full machine
DRILL_TIMEOUT_S = 7200.0
RATE_MIN = 0.95
DRILL_S_PER_GB_MAX = 60.0


class DrillPlan(Record, frozen=True, kw_only=True):
    """How much is measured. ``offered_per_s``: of all callers; None: each asks again at once."""

    pairs: int
    megabytes: int  # of the database
    offered_per_s: float | None


async def bench_drill(
    folder: Path, plan: DrillPlan, *, say: Callable[[str], None] = lambda _text: None
) -> list[Figure]:
    """Measure.

    Raises:
        EdgeStoreError: the daemon did not start, an answer was not whole, or a drill not passed.
    """
    database = folder / "store" / "results.db"
    rows = await asyncio.to_thread(_fill, database, plan.megabytes, say)
    settings = {
        "log.level": "warning",
        "store.path": str(database),
        "replica.enabled": True,
        "replica.url": f"file://{folder}/replica",
        "replica.drill_interval_s": YEAR_S,  # a copy is kept, and none comes by itself
    }
    async with daemon_of(settings, folder / "daemon") as daemon, running_clients() as clients:
        with reachable_socket(database) as socket:
            drills = Drill(socket, rows)
            say("the first drill waits for the whole database to be replicated")
            callers = Callers(clients, daemon.pid, daemon.port, plan.offered_per_s)
            figures = []
            for kind in Kind:
                await drills.once(Kind.FULL)  # which leaves its copy
                figures += await _alone(drills, kind, callers, plan, say)
                figures += await _beside(drills, kind, callers, plan, say)
            return figures


class Drill:
    """Drills that the daemon is asked for."""

    def __init__(self, socket: Path, rows: int) -> None:
        self._socket = socket
        self._rows = rows

    async def once(self, kind: Kind) -> float:
        """Its seconds.

        Raises:
            EdgeStoreError: it did not pass, proved less than there was, or was of the other kind.
        """
        query = "?full=true" if kind is Kind.FULL else ""
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        said: dict[str, Any] = {}
        async with (
            httpx.AsyncClient(transport=transport, timeout=DRILL_TIMEOUT_S) as client,
            client.stream("POST", f"http://daemon/drills{query}") as answer,
        ):
            async for line in answer.aiter_lines():
                said = msgspec.json.decode(line) or said
        proof = said["drills"][-1]["proof"] if "drills" in said else None
        if (
            proof is None
            or proof["failure"]
            or proof["rows"] < self._rows
            or proof["kind"] != kind.value
        ):
            raise EdgeStoreError(f"a drill did not pass: {said}")
        return float(proof["duration_ms"]) / 1000


class Callers:
    """The load that is put on the daemon."""

    def __init__(self, clients: Clients, pid: int, port: int, offered_per_s: float | None) -> None:
        self._clients = clients
        self.pid, self._port = pid, port
        self._load = Load(connections=CALLERS, mode=Mode.PLAIN, offered_per_s=offered_per_s)

    async def window(self) -> Slice:
        """One window."""
        measured, _ = await self._clients.slice(self.pid, self._port, self._load, WINDOW_S)
        return measured


class Beside:
    """Drills, one after the other, while it is entered; while ``stopped`` none goes on."""

    def __init__(self, drills: Drill, kind: Kind, daemon_pid: int) -> None:
        self._drills = drills
        self._kind = kind
        self._daemon_pid = daemon_pid
        self._may_begin = asyncio.Event()
        self._may_begin.set()
        self._running: asyncio.Future[None] | None = None
        self.ended = 0

    async def __aenter__(self) -> Self:
        self._running = asyncio.ensure_future(self._run())
        return self

    async def _run(self) -> None:
        while True:
            await self._may_begin.wait()
            await self._drills.once(self._kind)
            self.ended += 1

    async def __aexit__(self, *_exc: object) -> None:
        assert self._running is not None
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    async def under_way(self) -> None:
        """Wait until there is one.

        Raises:
            EdgeStoreError: one did not pass.
        """
        assert self._running is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            while not processes_of_drill(self._daemon_pid):
                if self._running.done():
                    self._running.result()
                await asyncio.sleep(POLL_S)

    def cpu_seconds(self) -> float:
        """What the one under way has taken so far."""
        total = 0.0
        for process_id in processes_of_drill(self._daemon_pid):
            with suppress(OSError):
                total += cpu_seconds(process_id, with_ended=True)
        return total

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """None goes on, and none begins. The daemon leaves stopped what was when its turn ended."""
        self._may_begin.clear()
        held: list[int] = []
        try:
            while held := processes_of_drill(self._daemon_pid):
                if any(map(is_stopped, held)):  # by the daemon, which will continue them
                    await asyncio.sleep(POLL_S / 10)
                    continue
                _signal(held, signal.SIGSTOP)
                await asyncio.sleep(PERIOD_S)
                if all(map(is_stopped, held)):
                    break
            yield
        finally:
            _signal(held, signal.SIGCONT)
            self._may_begin.set()


@asynccontextmanager
async def going_on() -> AsyncIterator[None]:
    """The drill does, after as long a rest of the callers as a stop takes: the disk rests, too."""
    await asyncio.sleep(PERIOD_S)
    yield


def processes_of_drill(daemon_pid: int) -> list[int]:
    """All of its session."""
    children: dict[int, list[int]] = {}
    sessions: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
                _state, parent, _group, session = stat.rpartition(")")[2].split()[:4]
                children.setdefault(int(parent), []).append(int(entry.name))
                sessions.setdefault(int(session), []).append(int(entry.name))
    for child in children.get(daemon_pid, []):
        with suppress(OSError):
            if PROGRAM in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return sessions.get(child, [])
    return []


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process_id in processes:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)


async def _alone(
    drills: Drill, kind: Kind, callers: Callers, plan: DrillPlan, say: Callable[[str], None]
) -> list[Figure]:
    """One without callers, after some results. What it wrote, its end adds to the daemon's sum."""
    await callers.window()
    before = written_bytes(callers.pid)
    seconds = await drills.once(kind)
    megabytes = (written_bytes(callers.pid) - before) / 1e6
    say(f"{kind.value} drill alone: {seconds:.1f} s, {megabytes:.0f} MB written")
    bound = DRILL_S_PER_GB_MAX * max(1.0, plan.megabytes / 1000)
    return [
        at_most(f"a drill of {plan.megabytes} MB alone, {kind.value}", seconds, bound, "s"),
        Figure(name=f"what it wrote, {kind.value}", value=megabytes, unit="MB"),
    ]


async def _beside(
    drills: Drill, kind: Kind, callers: Callers, plan: DrillPlan, say: Callable[[str], None]
) -> list[Figure]:
    pairs: list[tuple[Slice, Slice]] = []
    shares: list[float] = []
    async with Beside(drills, kind, callers.pid) as beside:
        for number in range(plan.pairs + 1):
            await beside.under_way()
            slices: dict[bool, Slice] = {}
            for is_stopped in (True, False) if number % 2 else (False, True):
                began, spent = time.monotonic(), beside.cpu_seconds()
                async with beside.stopped() if is_stopped else going_on():
                    slices[is_stopped] = await callers.window()
                if not is_stopped and (more := beside.cpu_seconds() - spent) >= 0:
                    shares.append(more / (time.monotonic() - began))
            one, none = slices[False], slices[True]
            say(
                f"{kind.value}, pair {number}: "
                f"{one.requests_per_s:.0f} and {none.requests_per_s:.0f} requests/s "
                f"({one.requests_per_s / none.requests_per_s:.3f}); p50 {one.p50_ms:.2f} and "
                f"{none.p50_ms:.2f} ms, p99 {one.p99_ms:.1f} and {none.p99_ms:.1f} ms; "
                f"load average {os.getloadavg()[0]:.1f}"
            )
            if number:  # the first pair warms up
                pairs.append((one, none))
    rates = [one.requests_per_s / none.requests_per_s for one, none in pairs]
    p50s = [one.p50_ms / none.p50_ms for one, none in pairs]
    p99s = [one.p99_ms / none.p99_ms for one, none in pairs]
    drill = f"with {kind.value} drills ÷ without"
    return [
        at_least(f"callers' rate, {drill}", median(rates), RATE_MIN),
        Figure(name="the same, 95 % above", value=lower_bound(rates), unit="ratio"),
        Figure(name=f"callers' p50, {drill}", value=median(p50s), unit="ratio"),
        Figure(name=f"callers' p99, {drill}", value=median(p99s), unit="ratio"),
        Figure(name="what the drill took of one core", value=median(shares), unit="ratio"),
        Figure(name="drills that came to their end", value=beside.ended, unit=""),
    ]


def written_bytes(process_id: int) -> int:
    """Of the process and of those of its children that have ended."""
    lines = Path(f"/proc/{process_id}/io").read_text(encoding="ascii").splitlines()
    found = dict(line.split(": ") for line in lines)
    return int(found["write_bytes"])


def _fill(database: Path, megabytes: int, say: Callable[[str], None]) -> int:
    """Write that much; returns how many results."""
    database.parent.mkdir()
    connection = open_writer(database)
    try:
        boot = prepare(connection)
        head, rows, commits = read_head(connection), 0, 0
        while database.stat().st_size < megabytes * 1_000_000:
            results = [_result(boot, rows + n) for n in range(1, ROWS_PER_COMMIT + 1)]
            rows += ROWS_PER_COMMIT
            head = write_batch(connection, boot, head, rows, results).head
            commits += 1
            if commits % COMMITS_PER_CHECKPOINT == 0:
                checkpoint(connection)
    finally:
        connection.close()
    say(f"{rows} results in {database.stat().st_size / 1e6:.0f} MB")
    return rows


def _result(boot: Boot, number: int) -> Result:
    """An ordinary one with a longer answer, which compression does little to."""
    result = sample_result(boot, number)
    body = hashlib.shake_256(number.to_bytes(8, "big")).hexdigest(BODY_BYTES // 2).encode()
    assert result.content is not None
    content = msgspec.structs.replace(result.content, response_body=body)
    return msgspec.structs.replace(result, content=content)
