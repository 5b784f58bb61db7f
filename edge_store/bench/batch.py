"""A batch against callers of the same daemon: how fast it is alone, and what they notice of it.

Alone: batches and closed loops of as many callers as lines may be in flight, in turn, of the same
requests. The time of a batch is all of it, from its creation to its output file. Beside callers:
windows of a steady load with a batch under way and without one, in turn. There the demo engine
takes its time for each token, as a GPU does, else the processor would be what they share.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.figures import Figure, at_least, at_most, median
from edge_store.bench.load import Server, closed_loop
from edge_store.bench.order import Mode
from edge_store.bench.served import Served, daemon_of
from edge_store.config import QueueSection
from edge_store.errors import EdgeStoreError
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import open_reader

__all__ = ["BatchPlan", "bench_batch"]

CALLERS = QueueSection().slots_max
QUIET_S = 1.0  # before a batch that has the box for itself
STEADY_CALLERS = 8
TOKEN_DELAY_MS = 10.0
RATE_MIN = 0.9
P99_MAX = 1.1
POLL_S = 0.1
BATCH_TIMEOUT_S = 600.0
BACKGROUND_LINES = 50_000  # more than the windows last
BODY: Mapping[str, Any] = {
    "model": "bench",
    "messages": [{"role": "user", "content": "Ticket: please check the third printer again"}],
    "max_tokens": 16,
}


class BatchPlan(Record, frozen=True, kw_only=True):
    """How much is measured."""

    pairs: int
    lines: int  # of a batch
    seconds: float  # of a window beside callers


async def bench_batch(
    folder: Path, plan: BatchPlan, *, say: Callable[[str], None] = lambda _text: None
) -> list[Figure]:
    """Measure.

    Raises:
        EdgeStoreError: a server did not start, an answer was not whole, or a batch not completed.
    """
    figures = await _alone(folder / "alone", plan, say)
    async with running_clients() as clients:
        return figures + await _beside(clients, folder / "beside", plan, say)


async def _alone(home: Path, plan: BatchPlan, say: Callable[[str], None]) -> list[Figure]:
    ratios, rates = [], []
    async with (
        daemon_of({"log.level": "warning"}, home) as daemon,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.port}", timeout=60) as client,
    ):
        for number in range(plan.pairs + 1):
            seconds: dict[str, float] = {}
            for kind in ("batch", "callers") if number % 2 else ("callers", "batch"):
                if kind == "batch":
                    await asyncio.sleep(QUIET_S)
                    batch_id = await _submit(client, plan.lines)
                    await _until_ended(client, batch_id)
                    seconds[kind] = _seconds_of(daemon, batch_id)
                else:
                    began = time.monotonic()
                    server = Server(daemon.pid, daemon.port)
                    await closed_loop(server, BODY, connections=CALLERS, requests=plan.lines)
                    seconds[kind] = time.monotonic() - began
            ratio = seconds["callers"] / seconds["batch"]
            say(
                f"pair {number}: {plan.lines / seconds['batch']:.0f} lines/s, "
                f"{plan.lines / seconds['callers']:.0f} requests/s, ratio {ratio:.3f}"
            )
            if number:  # the first pair warms up
                ratios.append(ratio)
                rates.append(plan.lines / seconds["batch"])
    return [
        at_least(f"{plan.lines} lines, batch ÷ callers", median(ratios), RATE_MIN),
        Figure(name="a batch alone", value=median(rates), unit="lines/s"),
    ]


async def _beside(
    clients: Clients, home: Path, plan: BatchPlan, say: Callable[[str], None]
) -> list[Figure]:
    settings = {"log.level": "warning", "engine.demo.token_delay_ms": TOKEN_DELAY_MS}
    load = Load(connections=STEADY_CALLERS, mode=Mode.PLAIN)
    ratios, rates, lines = [], [], []
    async with (
        daemon_of(settings, home) as daemon,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.port}", timeout=60) as client,
    ):
        for number in range(plan.pairs + 1):
            slices: dict[bool, Slice] = {}
            for is_beside in (True, False) if number % 2 else (False, True):
                batch_id = await _submit(client, BACKGROUND_LINES) if is_beside else ""
                done = await _until_under_way(client, batch_id) if is_beside else 0
                began = time.monotonic()
                slices[is_beside], _ = await clients.slice(
                    daemon.pid, daemon.port, load, plan.seconds
                )
                if is_beside:
                    done = (await _counts(client, batch_id))["completed"] - done
                    lines.append(done / (time.monotonic() - began))
                    await client.post(f"/v1/batches/{batch_id}/cancel")
                    await _until_ended(client, batch_id)
            beside, alone = slices[True], slices[False]
            say(
                f"pair {number}: p99 {beside.p99_ms:.1f} ms beside a batch of "
                f"{lines[-1]:.0f} lines/s, {alone.p99_ms:.1f} ms without; "
                f"{beside.requests_per_s:.1f} and {alone.requests_per_s:.1f} requests/s"
            )
            if number:
                ratios.append(beside.p99_ms / alone.p99_ms)
                rates.append(beside.requests_per_s / alone.requests_per_s)
    return [
        at_most("callers' p99, with a batch ÷ without", median(ratios), P99_MAX),
        Figure(name="callers' rate, with a batch ÷ without", value=median(rates), unit="ratio"),
        Figure(name="a batch beside callers", value=median(lines), unit="lines/s"),
    ]


async def _submit(client: httpx.AsyncClient, lines: int) -> str:
    """Begin a batch of as many requests as the callers send."""
    text = b"".join(
        msgspec.json.encode(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": BODY,
            }
        )
        + b"\n"
        for number in range(lines)
    )
    uploaded = await client.post(
        "/v1/files", files={"file": ("bench.jsonl", text)}, data={"purpose": "batch"}
    )
    begun = await client.post(
        "/v1/batches",
        json={
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    return str(begun.json()["id"])


async def _counts(client: httpx.AsyncClient, batch_id: str) -> dict[str, int]:
    counts: dict[str, int] = (await client.get(f"/v1/batches/{batch_id}")).json()["request_counts"]
    return counts


async def _until_under_way(client: httpx.AsyncClient, batch_id: str) -> int:
    async with asyncio.timeout(BATCH_TIMEOUT_S):
        while not (done := (await _counts(client, batch_id))["completed"]):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(POLL_S)
    return done


async def _until_ended(client: httpx.AsyncClient, batch_id: str) -> None:
    async with asyncio.timeout(BATCH_TIMEOUT_S):
        while True:
            batch = (await client.get(f"/v1/batches/{batch_id}")).json()
            if batch["status"] in ("completed", "cancelled"):
                break
            if batch["status"] in ("failed", "expired"):
                raise EdgeStoreError(f"a batch is {batch['status']}: {batch['errors']}")
            await asyncio.sleep(POLL_S)
    if batch["status"] == "completed" and batch["request_counts"]["failed"]:
        raise EdgeStoreError(f"{batch['request_counts']['failed']} lines of a batch failed")


def _seconds_of(daemon: Served, batch_id: str) -> float:
    """From its creation to its end."""
    with closing(open_reader(daemon.database)) as connection:
        events = connection.execute(sql("select_batch_events"), {"batch_id": batch_id}).fetchall()
    return float(events[-1][0] - events[0][0]) / 1000
