"""The daemon with its engine against the engine's own server: same model, arguments and load.

Both are up at once on the one device, and one at a time is loaded. A pair is two neighbouring
windows, whose order changes from pair to pair, and gives one ratio; rounds go through all loads, so
that a run that is cut short still has pairs of each. At the end the daemon is killed under load,
and what callers saw the end of is looked for in its database.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.commits import commit_figures
from edge_store.bench.figures import Figure, at_least, at_most, lower_bound, median
from edge_store.bench.lookup import look_into
from edge_store.bench.order import Mode
from edge_store.bench.served import Served, daemon_served, own_server
from edge_store.config import EngineKind
from edge_store.errors import EdgeStoreError
from edge_store.result import Record

__all__ = [
    "SHARED_ARGUMENTS",
    "EnginePlan",
    "EngineRun",
    "Kill",
    "Pair",
    "bench_engine",
    "ratios_of",
]

RATE_MIN = 0.97
RATE_BOUND_MIN = 0.93
LATENCY_MAX = 1.05
CLIENT_BUSY_MAX = 0.8
TOKENS_MIN, TOKENS_MAX = 0.97, 1.03  # the same work; windows cut it at chance
PAIRS_MIN = 10  # fewer prove nothing
KILL_SECONDS = 4.0
OFFERED_SHARE = 0.8  # of what the own server answers to callers that ask again at once

# Said to both, so that what one of them would choose by itself does not differ.
SHARED_ARGUMENTS: dict[str, Any] = {
    "served_model_name": "bench",
    "grammar_backend": "xgrammar",
    "constrained_json_disable_any_whitespace": True,
    "enable_metrics": False,
    "log_level": "warning",
}


class EnginePlan(Record, frozen=True, kw_only=True):
    """What is measured, and for how long."""

    kind: EngineKind
    arguments: dict[str, Any]  # SGLang's ServerArgs, over those that both are given
    connections: tuple[int, ...]
    modes: tuple[Mode, ...] = (Mode.PLAIN, Mode.STREAMED)
    pairs: int
    seconds: float  # of a window
    clients: int | None = None
    has_equal_rates: bool = False  # also ask both servers as often
    time_limit_s: float | None = None  # after the start: no round is begun that would pass it


class Pair(Record, frozen=True, kw_only=True):
    """Two neighbouring windows of one load."""

    load: Load
    daemon: Slice
    own: Slice


class Kill(Record, frozen=True, kw_only=True):
    """What SIGKILL under load left behind."""

    connections: int
    acknowledged: int  # answers seen to their end in that load
    acknowledged_in_run: int  # in all loads of the run
    in_database: int  # of acknowledged_in_run
    unanswered: int  # requests that the kill cut
    rows: int
    is_whole: bool  # every page and every digest of the file


class EngineRun(Record, frozen=True, kw_only=True):
    """Everything that a run measured."""

    plan: EnginePlan
    pairs: list[Pair]
    kill: Kill | None
    figures: list[Figure]


async def bench_engine(
    folder: Path,
    plan: EnginePlan,
    *,
    say: Callable[[str], None] = lambda _text: None,
    keep: Callable[[EngineRun], None] = lambda _run: None,
) -> EngineRun:
    """Measure. ``keep`` gets what there is after each round.

    Raises:
        EdgeStoreError: a server did not start, or an answer failed.
    """
    arguments = {**SHARED_ARGUMENTS, **plan.arguments}
    plan = msgspec.structs.replace(plan, arguments=arguments)
    pairs: list[Pair] = []
    acknowledged: set[str] = set()
    began_at = time.monotonic()
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(own_server(plan.kind, arguments, folder))
        say(f"the engine's own server answers after {time.monotonic() - began_at:.0f} s")
        daemon = await stack.enter_async_context(daemon_served(plan.kind, arguments, own, folder))
        say(f"the daemon answers after {time.monotonic() - began_at:.0f} s")
        clients = await stack.enter_async_context(running_clients(plan.clients))
        loads = loads_of(plan)
        for number in rounds(plan, began_at):
            for load in tuple(loads):
                pair, ids = await _pair(clients, daemon, own, load, plan, number)
                acknowledged |= ids
                if number:  # the first round warms both up
                    pairs.append(pair)
                elif plan.has_equal_rates and load.mode is Mode.STREAMED:
                    loads.append(_offered(load, pair.own))
                say(_line(number, pair))
            keep(_run(plan, loads, pairs, None))
        commits = await asyncio.to_thread(commit_figures, daemon.port)
        kill = await _killed(clients, daemon, max(plan.connections), acknowledged)
    run = _run(plan, loads, pairs, kill)
    run.figures.extend(commits)
    keep(run)
    return run


def rounds(plan: EnginePlan, began_at: float) -> Iterator[int]:
    """Numbers of rounds, from 0, as many as planned and as the time limit allows."""
    longest = 0.0
    for number in range(plan.pairs + 1):
        round_began = time.monotonic()
        if (
            plan.time_limit_s
            and number > 1
            and (round_began + longest - began_at > plan.time_limit_s)
        ):
            return
        yield number
        longest = max(longest, time.monotonic() - round_began)


def loads_of(plan: EnginePlan) -> list[Load]:
    """Every load of the plan in which callers ask again at once."""
    return [
        Load(connections=connections, mode=mode)
        for mode in plan.modes
        for connections in plan.connections
    ]


def _offered(load: Load, own: Slice) -> Load:
    """The same callers, who offer both servers the same requests per second. What asks again at
    once offers more to the faster one, whose first tokens then wait behind more.
    """
    return msgspec.structs.replace(load, offered_per_s=OFFERED_SHARE * own.requests_per_s)


async def _pair(
    clients: Clients, daemon: Served, own: Served, load: Load, plan: EnginePlan, number: int
) -> tuple[Pair, set[str]]:
    slices: dict[int, Slice] = {}
    acknowledged: set[str] = set()
    for server in (daemon, own) if number % 2 else (own, daemon):
        measured, ids = await clients.slice(server.pid, server.port, load, plan.seconds)
        slices[server.pid] = measured
        acknowledged |= ids if server is daemon else set()
    return Pair(load=load, daemon=slices[daemon.pid], own=slices[own.pid]), acknowledged


def _line(number: int, pair: Pair) -> str:
    daemon, own = pair.daemon, pair.own
    return (
        f"{f'pair {number}' if number else 'warm-up':>8}  {pair.load.name:<13} "
        f"{daemon.requests_per_s:8.1f} ÷ {own.requests_per_s:8.1f} requests/s = "
        f"{daemon.requests_per_s / own.requests_per_s:.3f}   "
        f"p99 {daemon.p99_ms:.0f} ÷ {own.p99_ms:.0f} ms"
    )


async def _killed(clients: Clients, daemon: Served, connections: int, seen: set[str]) -> Kill:
    """Load the daemon with plain and streamed chats in turn, SIGKILL it, and count."""
    load = Load(connections=connections, mode=Mode.MIXED)
    acknowledged, unanswered = await clients.until_killed(
        daemon.port, load, KILL_SECONDS, daemon.kill
    )
    await daemon.end()  # and what it started: the file is nobody's now
    if not acknowledged:
        raise EdgeStoreError(f"no answer in {KILL_SECONDS:g} s: this kill proves nothing")
    everything = seen | acknowledged
    found = look_into(daemon.database, everything)
    return Kill(
        connections=connections,
        acknowledged=len(acknowledged),
        acknowledged_in_run=len(everything),
        in_database=found.present,
        unanswered=unanswered,
        rows=found.rows,
        is_whole=found.is_whole,
    )


def ratios_of(pairs: Sequence[Pair], field: str) -> list[float]:
    """The daemon's value ÷ the own server's, of each pair that has it."""
    values = [(getattr(pair.daemon, field), getattr(pair.own, field)) for pair in pairs]
    return [daemon / own for daemon, own in values if daemon is not None and own]


def _run(
    plan: EnginePlan, loads: Sequence[Load], pairs: list[Pair], kill: Kill | None
) -> EngineRun:
    figures: list[Figure] = []
    for load in loads:
        of_load = [pair for pair in pairs if pair.load == load]
        if of_load:
            figures += _figures(load, of_load)
    if pairs:
        busiest = max(max(pair.daemon.client_busy, pair.own.client_busy) for pair in pairs)
        figures.append(at_most("busiest client process", busiest, CLIENT_BUSY_MAX, "cores"))
        fewest = min(sum(pair.load == load for pair in pairs) for load in loads)
        figures.append(at_least("pairs of each load", fewest, PAIRS_MIN, "pairs"))
    if kill is not None:
        missing = kill.acknowledged_in_run - kill.in_database
        figures += [
            Figure(name="acknowledged in the run", value=kill.acknowledged_in_run, unit="answers"),
            Figure(name="of these in the database", value=kill.in_database, unit="answers"),
            at_most("acknowledged and lost by SIGKILL", missing, 0, "answers"),
            Figure(
                name="database after SIGKILL",
                value=float(kill.is_whole),
                unit="whole",
                bound="= 1",
                holds=kill.is_whole,
            ),
        ]
    return EngineRun(plan=plan, pairs=list(pairs), kill=kill, figures=figures)


def _figures(load: Load, pairs: Sequence[Pair]) -> list[Figure]:
    rates = ratios_of(pairs, "requests_per_s")
    tokens = median(ratios_of(pairs, "tokens_per_answer") or [0.0])
    figures = [at_most(f"{load.name}: p99", median(ratios_of(pairs, "p99_ms")), LATENCY_MAX)]
    if load.offered_per_s is None:  # else the callers set the rate
        figures += [
            at_least(f"{load.name}: requests/s, daemon ÷ own server", median(rates), RATE_MIN),
            at_least(f"{load.name}: its 95 % lower bound", lower_bound(rates), RATE_BOUND_MIN),
        ]
    if load.mode is Mode.STREAMED:
        ttft = median(ratios_of(pairs, "ttft_p50_ms"))
        figures.append(at_most(f"{load.name}: ttft p50", ttft, LATENCY_MAX))
    for field, what in (("cpu_us_parent", "its main process"), ("cpu_us_tree", "all processes")):
        figures += [
            Figure(
                name=f"{load.name}: CPU of {what}, {side}",
                value=median([getattr(getattr(pair, side), field) for pair in pairs]),
                unit="µs/request",
            )
            for side in ("daemon", "own")
        ]
    figures.append(
        Figure(
            name=f"{load.name}: tokens per answer",
            value=tokens,
            unit="ratio",
            bound=f"{TOKENS_MIN} to {TOKENS_MAX}",
            holds=TOKENS_MIN <= tokens <= TOKENS_MAX,
        )
    )
    return figures
