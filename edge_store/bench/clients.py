"""A load of several client processes, and what one slice of it measured."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from edge_store.bench.figures import cpu_seconds, median, percentile, tree_cpu_seconds
from edge_store.bench.order import DRAIN_TIMEOUT_S, Mode, Order, Outcome
from edge_store.errors import EdgeStoreError
from edge_store.result import Record

__all__ = ["Clients", "Load", "Slice", "running_clients"]

RAMP_S = 0.8  # from the first connection to the window: the burst of the start is over
CROWD_RAMP_S = 2.5  # the same where callers are refused: those of the burst have come again
NUMBERS_PER_ORDER = 1_000_000
LINE_BYTES_MAX = 64 * 1024 * 1024
START_TIMEOUT_S = 60.0
SPARE_S = 10.0  # for a client to notice that its time is over


class Load(Record, frozen=True, kw_only=True):
    """What is put on a server: so many connections, asking in this way."""

    connections: int
    mode: Mode
    tenants: tuple[int, ...] = ()  # how many of the connections are whose; then they may be refused
    offered_per_s: float | None = None  # of all together; None: each asks again at once

    @property
    def name(self) -> str:
        rate = "" if self.offered_per_s is None else f", {self.offered_per_s:.0f}/s"
        return f"{self.connections} {self.mode}{rate}"


class Slice(Record, frozen=True, kw_only=True):
    """One window of a load on one server. Times are milliseconds, CPU µs per request."""

    answers: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    ttft_p50_ms: float | None  # streamed only
    tokens_per_answer: float
    cpu_us_tree: float
    cpu_us_parent: float
    client_busy: float  # the busiest client's share of one core
    refused: int = 0
    answers_by_tenant: tuple[int, ...] = ()


class Clients:
    """The processes of the load. One slice at a time."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes
        self._orders = 0

    async def slice(
        self, pid: int, port: int, load: Load, seconds: float, *, ramp_s: float | None = None
    ) -> tuple[Slice, set[str]]:
        """Measure a server under a load; the slice, and the ids of all answers seen to their end.
        ``ramp_s``: from the first connection to the window, if another than is usual.

        Raises:
            EdgeStoreError: an answer was not 200 and whole, or there was none.
        """
        if ramp_s is None:
            ramp_s = CROWD_RAMP_S if load.tenants else RAMP_S
        begins_at = time.monotonic() + ramp_s
        order = self._order(port, load, begins_at, begins_at + seconds)
        async with asyncio.TaskGroup() as tasks:
            outcomes_task = tasks.create_task(self._carry_out(order))
            await asyncio.sleep(begins_at - time.monotonic())
            # The parent's within the tree's, however long this waits between the two.
            began_at, tree, parent = time.monotonic(), tree_cpu_seconds(pid), cpu_seconds(pid)
            await asyncio.sleep(begins_at + seconds - time.monotonic())
            parent, tree = cpu_seconds(pid) - parent, tree_cpu_seconds(pid) - tree
            took_s = time.monotonic() - began_at
        outcomes = outcomes_task.result()
        latencies = [value for outcome in outcomes for value in outcome.latencies_s]
        ttfts = [value for outcome in outcomes for value in outcome.ttfts_s]
        failures = sum(outcome.failures + outcome.unanswered for outcome in outcomes)
        if failures:
            messages = [text for outcome in outcomes for text in outcome.messages]
            raise EdgeStoreError(
                f"{load.name}: {len(latencies)} answers in {seconds:g} s and {failures} failures, "
                f"the first: {messages[:1]}",
                hint="the servers' logs say why",
            )
        # Of a server that stood still for the window, as when its disk did, that is what is known.
        latencies = latencies or [seconds]
        answers = len(latencies)
        return Slice(
            answers=answers,
            requests_per_s=answers / seconds,
            p50_ms=median(latencies) * 1e3,
            p99_ms=percentile(latencies, 0.99) * 1e3,
            ttft_p50_ms=median(ttfts) * 1e3 if ttfts else None,
            tokens_per_answer=sum(outcome.tokens for outcome in outcomes) / answers,
            cpu_us_tree=tree / took_s * seconds / answers * 1e6,
            cpu_us_parent=parent / took_s * seconds / answers * 1e6,
            client_busy=max(outcome.cpu_s / outcome.wall_s for outcome in outcomes),
            refused=sum(sum(outcome.refused) for outcome in outcomes),
            answers_by_tenant=tuple(
                map(sum, zip(*(outcome.answers for outcome in outcomes), strict=True))
            ),
        ), {value for outcome in outcomes for value in outcome.acknowledged}

    async def until_killed(
        self, port: int, load: Load, seconds: float, kill: Callable[[], None]
    ) -> tuple[set[str], int]:
        """Load a server and ``kill`` it after ``seconds``; the ids acknowledged, and how many
        requests had no answer.
        """
        begins_at = time.monotonic() + (CROWD_RAMP_S if load.tenants else RAMP_S)
        order = self._order(port, load, begins_at, begins_at + 2 * seconds)
        async with asyncio.TaskGroup() as tasks:
            outcomes_task = tasks.create_task(self._carry_out(order))
            await asyncio.sleep(begins_at + seconds - time.monotonic())
            kill()
        outcomes = outcomes_task.result()
        acknowledged = {value for outcome in outcomes for value in outcome.acknowledged}
        return acknowledged, sum(outcome.unanswered for outcome in outcomes)

    def _order(self, port: int, load: Load, begins_at: float, ends_at: float) -> list[Order]:
        number = len(self._processes)
        orders = []
        for index in range(number):
            connections = _share(load.connections, number, index)
            tenants = tuple(_share(callers, number, index) for callers in load.tenants)
            if tenants:
                connections = sum(tenants)
            if connections:
                orders.append(
                    Order(
                        port=port,
                        connections=connections,
                        mode=load.mode,
                        first_number=self._orders * NUMBERS_PER_ORDER,
                        begins_at=begins_at,
                        ends_at=ends_at,
                        every_s=load.connections / load.offered_per_s if load.offered_per_s else 0,
                        tenants=tenants,
                    )
                )
                self._orders += 1
        return orders

    async def _carry_out(self, orders: Sequence[Order]) -> list[Outcome]:
        timeout_s = orders[0].ends_at - time.monotonic() + DRAIN_TIMEOUT_S + SPARE_S
        async with asyncio.timeout(timeout_s):
            asked = zip(self._processes, orders, strict=False)
            return await asyncio.gather(*(self._ask(process, order) for process, order in asked))

    async def _ask(self, process: asyncio.subprocess.Process, order: Order) -> Outcome:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        await process.stdin.drain()
        return msgspec.json.decode(await _line(process), type=Outcome)


def _share(whole: int, number: int, index: int) -> int:
    return whole // number + (index < whole % number)


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise EdgeStoreError("a client process of the load has ended; see its message above")
    return line


@asynccontextmanager
async def running_clients(number: int | None = None) -> AsyncIterator[Clients]:
    """Client processes, half as many as there are cores unless told, 8 at most."""
    count = number or max(1, min(8, (os.cpu_count() or 2) // 2))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_store.bench.client",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        for _ in range(count)
    ]
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await asyncio.gather(*(_line(process) for process in processes))  # each is there
        yield Clients(processes)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
