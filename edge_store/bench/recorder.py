"""What recording adds to a request: the daemon against its own engine alone, slice by slice.

The search index is no part of it: it may take a third of a core beside it, until it has caught up.
What it adds is shown by itself.
"""

from pathlib import Path

from edge_store.bench.figures import Figure, cpu_seconds, median
from edge_store.bench.load import Server, closed_loop, running_daemon, running_engine

__all__ = ["bench_recorder"]

CONNECTIONS = 64
CPU_US_MAX = 200.0
P50_RATIO_MAX = 1.04
GENERATION_TOKENS = 20
TOKEN_DELAY_MS = 10.0  # 20 tokens of 10 ms: a generation of 200 ms
SLOW_ROUNDS = 5  # requests per connection and slice

FAST = {"model": "demo", "messages": [{"role": "user", "content": "How are you today?"}]}
SLOW = {**FAST, "max_tokens": GENERATION_TOKENS}


async def bench_recorder(folder: Path, *, pairs: int, slice_requests: int) -> list[Figure]:
    """CPU per request at full speed, then the p50 of a 200 ms generation, each over ``pairs``."""
    added, indexed, share = [], [], []
    async with (
        running_daemon(folder / "fast", 0.0, is_indexed=False) as ours,
        running_daemon(folder / "indexed", 0.0) as indexing,
        running_engine(0.0) as bare,
    ):
        for pair in range(pairs + 1):
            with_us = await _cpu_us(ours, slice_requests)
            without_us = await _cpu_us(bare, slice_requests)
            indexing_us = await _cpu_us(indexing, slice_requests)
            if pair:  # the first pair warms both up
                added.append(with_us - without_us)
                indexed.append(indexing_us - with_us)
                share.append(without_us)
    ratios = []
    async with (
        running_daemon(folder / "slow", TOKEN_DELAY_MS) as ours,
        running_engine(TOKEN_DELAY_MS) as bare,
    ):
        for pair in range(pairs + 1):
            with_s, without_s = await _p50_s(ours), await _p50_s(bare)
            if pair:
                ratios.append(with_s / without_s)
    return [
        Figure(name="engine alone, CPU", value=median(share), unit="µs/request"),
        Figure(
            name="CPU that recording adds",
            value=median(added),
            unit="µs/request",
            bound=f"≤ {CPU_US_MAX:g}",
            holds=median(added) <= CPU_US_MAX,
        ),
        Figure(name="CPU of the search index meanwhile", value=median(indexed), unit="µs/request"),
        Figure(
            name="p50 of a 200 ms generation, recorded ÷ alone",
            value=median(ratios),
            unit="ratio",
            bound=f"≤ {P50_RATIO_MAX}",
            holds=median(ratios) <= P50_RATIO_MAX,
        ),
    ]


async def _cpu_us(server: Server, requests: int) -> float:
    before = cpu_seconds(server.pid)
    await closed_loop(server, FAST, connections=CONNECTIONS, requests=requests)
    return (cpu_seconds(server.pid) - before) / requests * 1e6


async def _p50_s(server: Server) -> float:
    return median(
        await closed_loop(server, SLOW, connections=CONNECTIONS, requests=CONNECTIONS * SLOW_ROUNDS)
    )
