"""Ten times the sustainable load on the real daemon, and what becomes of it.

Sustainable is a closed loop of as many callers as there are slots. In the same run, in turn, ten
times as many callers of four tenants ask, of which one has seven tenths. A caller that is refused
waits as long as ``Retry-After`` says, and a little more by chance. The demo engine takes its time
for each token, as a GPU does, so that the slots are the limit and not the processor; a second
daemon whose engine takes none shows how late the event loop is when the processor is the limit.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.figures import (
    Figure,
    at_least,
    at_most,
    median,
    percentile,
    resident_bytes,
)
from edge_store.bench.lookup import look_into
from edge_store.bench.order import Mode
from edge_store.bench.served import Served, daemon_of
from edge_store.errors import EdgeStoreError
from edge_store.observability.looplag import measured_lag
from edge_store.result import Record

__all__ = ["OverloadPlan", "bench_overload", "bucket_percentile", "jain"]

SLOTS = 32
TIMES = 10
SHARES = (7, 1, 1, 1)  # of the callers of an overload, by tenant
TOKEN_DELAY_MS = 10.0  # 16 to 32 tokens: 160 to 320 ms, so 32 slots are some 130 requests/s
FULL_LOAD_CALLERS = 64  # on the daemon whose engine takes no time
KILL_SECONDS = 2.0
SCRAPE_TIMEOUT_S = 10.0
MIB = 1024 * 1024

RATE_MIN = 0.9
GROWTH_MAX = 1.05
P99_MAX = 3.0  # a full waiting room is worth one more generation, and a second for chance
JAIN_MIN = 0.95
LAG_MS_MAX = 20.0


class OverloadPlan(Record, frozen=True, kw_only=True):
    """For how long each is measured."""

    pairs: int
    seconds: float  # of a window


class Pair(Record, frozen=True, kw_only=True):
    """Two neighbouring windows, and the resident bytes after the second."""

    sustainable: Slice
    overload: Slice
    resident: int


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    assert any(values)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


async def bench_overload(
    folder: Path, plan: OverloadPlan, *, say: Callable[[str], None] = lambda _text: None
) -> list[Figure]:
    """Measure.

    Raises:
        EdgeStoreError: a server did not start, or an answer was neither whole nor a refusal.
    """
    async with running_clients() as clients:
        figures = await _overloaded(clients, folder / "paced", plan, say)
        return figures + await _full(clients, folder / "full", plan, say)


async def _overloaded(
    clients: Clients, home: Path, plan: OverloadPlan, say: Callable[[str], None]
) -> list[Figure]:
    callers = SLOTS * TIMES
    crowd = tuple(callers * share // sum(SHARES) for share in SHARES)
    loads = (
        Load(connections=SLOTS, mode=Mode.MIXED, tenants=(SLOTS // 4,) * 4),
        Load(connections=callers, mode=Mode.MIXED, tenants=crowd),
    )
    settings = {
        "recorder.slots": SLOTS,
        "engine.demo.token_delay_ms": TOKEN_DELAY_MS,
        "log.level": "warning",
    }
    pairs: list[Pair] = []
    acknowledged: set[str] = set()
    async with daemon_of(settings, home) as daemon:
        for number in range(plan.pairs + 1):
            slices: dict[Load, Slice] = {}
            for load in loads if number % 2 else reversed(loads):
                slices[load], ids = await clients.slice(daemon.pid, daemon.port, load, plan.seconds)
                acknowledged |= ids
            sustainable, overload = (slices[load] for load in loads)
            pair = Pair(
                sustainable=sustainable, overload=overload, resident=resident_bytes(daemon.pid)
            )
            say(_line(number, pair))
            if number:  # the first pair warms up
                pairs.append(pair)
        lag_s = await _lag_p99_s(daemon, {})
        ids, _ = await clients.until_killed(daemon.port, loads[1], KILL_SECONDS, daemon.kill)
        acknowledged |= ids
        await daemon.end()
        found = look_into(daemon.database, acknowledged)
    return [
        *_figures(pairs),
        at_most(f"event loop's lag, {TIMES} times the load, p99", lag_s * 1e3, LAG_MS_MAX, "ms"),
        at_most(
            f"acknowledged (of {len(acknowledged)}) and lost by SIGKILL",
            len(acknowledged) - found.present,
            0,
            "answers",
        ),
        at_least("database after SIGKILL", float(found.is_whole), 1, "whole"),
    ]


def _figures(pairs: Sequence[Pair]) -> list[Figure]:
    times = f"{TIMES} times the load"
    by_tenant = [sum(numbers) for numbers in zip(*(_by_tenant(p) for p in pairs), strict=True)]
    rates = [p.overload.requests_per_s / p.sustainable.requests_per_s for p in pairs]
    p99s = [p.overload.p99_ms / p.sustainable.p99_ms for p in pairs]
    half = (len(pairs) + 1) // 2
    sizes = [p.resident for p in pairs]
    refused = median([p.overload.refused / p.overload.answers for p in pairs])
    shares = " : ".join(f"{n / sum(by_tenant):.2f}" for n in by_tenant)
    return [
        Figure(
            name=f"sustainable load, {SLOTS} callers",
            value=median([p.sustainable.requests_per_s for p in pairs]),
            unit="answers/s",
        ),
        at_least(f"{times}, answers/s ÷ sustainable", median(rates), RATE_MIN),
        at_most(f"{times}, p99 of the admitted ÷ sustainable", median(p99s), P99_MAX),
        Figure(
            name="p99 of the admitted", value=median([p.overload.p99_ms for p in pairs]), unit="ms"
        ),
        Figure(name="refusals per answer", value=refused, unit="ratio"),
        at_least(
            f"Jain's index of four tenants, callers {SHARES}, answers {shares}",
            jain(by_tenant),
            JAIN_MIN,
            "index",
        ),
        at_most(
            f"RSS ({sizes[-1] / MIB:.0f} MiB at the end), second half ÷ first",
            median(sizes[half:] or sizes) / median(sizes[:half]),
            GROWTH_MAX,
        ),
    ]


def _by_tenant(pair: Pair) -> tuple[int, ...]:
    return pair.overload.answers_by_tenant


async def _full(
    clients: Clients, home: Path, plan: OverloadPlan, say: Callable[[str], None]
) -> list[Figure]:
    """The event loop when the processor is the limit."""
    load = Load(connections=FULL_LOAD_CALLERS, mode=Mode.MIXED)
    beside: list[float] = []  # the lag of this process, which has nothing to do: the machine's
    async with daemon_of({"log.level": "warning"}, home) as daemon:
        before: dict[float, float] = {}
        for number in range(max(2, plan.pairs // 2)):
            async with measured_lag(beside.append):
                measured, _ = await clients.slice(daemon.pid, daemon.port, load, plan.seconds)
            if not number:
                before = await _lag_buckets(daemon)
            say(f"full load {number}: {measured.requests_per_s:.0f} answers/s")
        lag_s = await _lag_p99_s(daemon, before)
    return [
        Figure(
            name=f"full load, {FULL_LOAD_CALLERS} callers, an engine that takes no time",
            value=measured.requests_per_s,
            unit="answers/s",
        ),
        at_most("event loop's lag, full load, p99", lag_s * 1e3, LAG_MS_MAX, "ms"),
        Figure(
            name="lag of an idle loop beside it, p99",
            value=percentile(beside, 0.99) * 1e3,
            unit="ms",
        ),
    ]


def _line(number: int, pair: Pair) -> str:
    one, ten = pair.sustainable, pair.overload
    return (
        f"{f'pair {number}' if number else 'warm-up':>8}  {one.requests_per_s:6.1f} → "
        f"{ten.requests_per_s:6.1f} answers/s, p99 {one.p99_ms:.0f} → {ten.p99_ms:.0f} ms, "
        f"CPU {one.cpu_us_parent:.0f} → {ten.cpu_us_parent:.0f} µs/answer, "
        f"{ten.refused} refused, by tenant {ten.answers_by_tenant}, "
        f"RSS {pair.resident / MIB:.1f} MiB, clients {ten.client_busy:.0%} busy"
    )


async def _lag_p99_s(daemon: Served, before: dict[float, float]) -> float:
    now = await _lag_buckets(daemon)
    counts = {bound: count - before.get(bound, 0) for bound, count in now.items()}
    if not counts[float("inf")]:
        raise EdgeStoreError("the event loop's lag was never measured: the windows are too short")
    return bucket_percentile(counts, 0.99)


def bucket_percentile(counts: Mapping[float, float], share: float) -> float:
    """Of a histogram's cumulative counts by upper bound: within the bucket in proportion, as
    Prometheus does; infinite in the last one.
    """
    wanted = share * counts[float("inf")]
    low, below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            break
        low, below = bound, count
    return low + (bound - low) * (wanted - below) / (count - below)


async def _lag_buckets(daemon: Served) -> dict[float, float]:
    """Cumulative counts by upper bound in seconds."""
    async with asyncio.timeout(SCRAPE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
    found = re.findall(
        r'^edge_store_loop_lag_seconds_bucket\{le="(.+)"\} (\S+)$', text, re.MULTILINE
    )
    return {float(bound): float(count) for bound, count in found}
