"""The daemon's resident memory while it answers many requests."""

from pathlib import Path

from edge_store.bench.figures import Figure, resident_bytes
from edge_store.bench.load import closed_loop, running_daemon
from edge_store.bench.recorder import CONNECTIONS, FAST

__all__ = ["bench_memory"]

MIB = 1024 * 1024
RSS_MIB_MAX = 120.0
GROWTH_MAX = 1.05
SAMPLES = 10


async def bench_memory(folder: Path, *, requests: int) -> list[Figure]:
    """RSS after all requests, and its growth over their second half."""
    sizes = []
    async with running_daemon(folder / "memory", 0.0) as server:
        for _ in range(SAMPLES):
            await closed_loop(server, FAST, connections=CONNECTIONS, requests=requests // SAMPLES)
            sizes.append(resident_bytes(server.pid) / MIB)
    growth = sizes[-1] / sizes[SAMPLES // 2 - 1]
    return [
        Figure(
            name=f"RSS after {requests} requests",
            value=sizes[-1],
            unit="MiB",
            bound=f"≤ {RSS_MIB_MAX:g}",
            holds=sizes[-1] <= RSS_MIB_MAX,
        ),
        Figure(
            name="RSS, end ÷ half-way",
            value=growth,
            unit="ratio",
            bound=f"≤ {GROWTH_MAX}",
            holds=growth <= GROWTH_MAX,
        ),
    ]
