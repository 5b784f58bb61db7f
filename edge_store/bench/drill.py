"""Restore drills against callers of the same daemon: how long one takes, and what callers notice.

Windows of a load with a drill under way and without one, in turn: those with one follow each other
until it has ended, and as many without come after or before. Database, replica and scratch copy
share one disk. The drill is asked for by the admin socket, as ``edge-store replica drill`` does.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.figures import Figure, at_least, at_most, median
from edge_store.bench.order import Mode
from edge_store.bench.served import daemon_of
from edge_store.bench.writer import prepare, sample_result
from edge_store.errors import EdgeStoreError
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Boot, Record, Result
from edge_store.socketpath import reachable_socket
from edge_store.sqlite import open_writer
from edge_store.wal import checkpoint

__all__ = ["DrillPlan", "bench_drill"]

BODY_BYTES = 5000
ROWS_PER_COMMIT = 512
COMMITS_PER_CHECKPOINT = 8
CALLERS = 4
WINDOW_S = 4.0
WINDOWS_MAX = 4  # a drill that goes on longer is ended
QUIET_S = 3.0  # for the disk, after a drill that was ended
DRILL_TIMEOUT_S = 1800.0
RATE_MIN = 0.95
DRILL_S_PER_GB_MAX = 60.0


class DrillPlan(Record, frozen=True, kw_only=True):
    """How much is measured. ``offered_per_s``: of all callers; None: each asks again at once."""

    pairs: int
    megabytes: int  # of the database
    offered_per_s: float | None


class Side(Record, frozen=True, kw_only=True):
    """Windows of one kind, one after the other."""

    windows: list[Slice]

    @property
    def requests_per_s(self) -> float:
        return sum(each.requests_per_s for each in self.windows) / len(self.windows)

    @property
    def p50_ms(self) -> float:
        return median([each.p50_ms for each in self.windows])

    @property
    def p99_ms(self) -> float:
        return median([each.p99_ms for each in self.windows])


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
        "replica.drill_interval_s": 0,
    }
    async with daemon_of(settings, folder / "daemon") as daemon, running_clients() as clients:
        with reachable_socket(database) as socket:
            drills = Drill(socket, rows)
            say("the first drill waits for the whole database to be replicated")
            alone = [await drills.once() for _ in range(2)][-1]
            say(f"a drill alone: {alone:.1f} s")
            callers = Callers(clients, daemon.pid, daemon.port, plan.offered_per_s)
            return await _beside(drills, callers, plan, alone, say)


class Drill:
    """Drills that the daemon is asked for."""

    def __init__(self, socket: Path, rows: int) -> None:
        self._socket = socket
        self._rows = rows

    async def once(self) -> float:
        """Its seconds.

        Raises:
            EdgeStoreError: it did not pass, or proved less than there was.
        """
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        said: dict[str, Any] = {}
        async with (
            httpx.AsyncClient(transport=transport, timeout=DRILL_TIMEOUT_S) as client,
            client.stream("POST", "http://daemon/drills") as answer,
        ):
            async for line in answer.aiter_lines():
                said = msgspec.json.decode(line) or said
        proof = said["drills"][-1]["proof"] if "drills" in said else None
        if proof is None or proof["failure"] or proof["rows"] < self._rows:
            raise EdgeStoreError(f"a drill did not pass: {said}")
        return float(proof["duration_ms"]) / 1000


class Callers:
    """The load that is put on the daemon."""

    def __init__(self, clients: Clients, pid: int, port: int, offered_per_s: float | None) -> None:
        self._clients = clients
        self._pid, self._port = pid, port
        self._load = Load(connections=CALLERS, mode=Mode.PLAIN, offered_per_s=offered_per_s)

    async def window(self) -> Slice:
        """One window."""
        measured, _ = await self._clients.slice(self._pid, self._port, self._load, WINDOW_S)
        return measured


async def _beside(
    drills: Drill, callers: Callers, plan: DrillPlan, alone_s: float, say: Callable[[str], None]
) -> list[Figure]:
    rates, p50s, p99s, took = [], [], [], []
    windows = 2
    for number in range(plan.pairs + 1):
        before = await _windows(callers, windows) if number % 2 else None
        side, drill_s = await _with_drill(drills, callers)
        windows = len(side.windows)
        quiet = before or await _windows(callers, windows)
        rate = side.requests_per_s / quiet.requests_per_s
        ended = "ended by us" if drill_s is None else f"{drill_s:.1f} s"
        say(
            f"pair {number}: {side.requests_per_s:.0f} and {quiet.requests_per_s:.0f} requests/s "
            f"({rate:.3f}); p50 {side.p50_ms:.2f} and {quiet.p50_ms:.2f} ms, p99 {side.p99_ms:.1f} "
            f"and {quiet.p99_ms:.1f} ms; drill {ended}; load average {os.getloadavg()[0]:.1f}"
        )
        if number:  # the first pair warms up
            rates.append(rate)
            p50s.append(side.p50_ms / quiet.p50_ms)
            p99s.append(side.p99_ms / quiet.p99_ms)
            took += [drill_s] if drill_s is not None else []
    figures = [
        at_most(
            f"a drill of {plan.megabytes} MB alone",
            alone_s,
            DRILL_S_PER_GB_MAX * max(1.0, plan.megabytes / 1000),
            "s",
        ),
        at_least("callers' rate, with a drill ÷ without", median(rates), RATE_MIN),
        Figure(name="callers' p50, with a drill ÷ without", value=median(p50s), unit="ratio"),
        Figure(name="callers' p99, with a drill ÷ without", value=median(p99s), unit="ratio"),
        Figure(name="drills that ended", value=len(took) / plan.pairs, unit="ratio"),
    ]
    if took:
        figures.append(Figure(name="a drill beside callers", value=median(took), unit="s"))
    return figures


async def _windows(callers: Callers, number: int) -> Side:
    return Side(windows=[await callers.window() for _ in range(number)])


async def _with_drill(drills: Drill, callers: Callers) -> tuple[Side, float | None]:
    """Windows that a drill was under way in, and its seconds; None if it had to be ended."""
    drilling = asyncio.ensure_future(drills.once())
    windows: list[Slice] = []
    try:
        while not drilling.done() and len(windows) < WINDOWS_MAX:
            measured = await callers.window()
            if not windows or not drilling.done():  # the last one it had left
                windows.append(measured)
        if drilling.done():
            return Side(windows=windows), drilling.result()
        return Side(windows=windows), None
    finally:
        if not drilling.done():
            drilling.cancel()
            with suppress(asyncio.CancelledError):
                await drilling
            await asyncio.sleep(QUIET_S)


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
