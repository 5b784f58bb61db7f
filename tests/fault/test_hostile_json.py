"""10 MB of hostile JSON in one answer, through the whole daemon: the others do not wait for it."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess
from support.rawserver import Peer, RawServer, answers

pytestmark = pytest.mark.alone

MIB = 1 << 20
SIZE = 10 * MIB
ROUTE = "/v1/chat/completions"
DEADLINE_OF_REPAIR_S = 4.0
# A repair on the loop, or one that the others wait for, would add most of its deadline to each of
# them; what is allowed beside the factor is a busy machine's.
FACTOR = 5.0
MEDIAN_SLACK_S = 0.5
P99_SLACK_S = 2.0
SMALL = '{"a": 1}'
REPAIRABLE = '{"a": [1, 2,],}'
HOSTILE = {
    "an unclosed string": '{"a": "' + "x" * (SIZE - 7),
    "keys without values": "{" + "key:" * (SIZE // 4),
    "missing commas": "[" + '{"a": 1 "b": "two"},' * (SIZE // 20),
}
LARGE = '{"a": "' + "x" * (SIZE - 9) + '"}'
MUCH_MEMORY = "[" + "0.5," * (SIZE // 4) + "]"  # a valid document but for its last comma


def body(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c", "model": "raw", "choices": [choice]}).encode()


ANSWERS = {
    **{name: body(text) for name, text in HOSTILE.items()},
    "large": body(LARGE),
    "memory": body(MUCH_MEMORY),
    "repairable": body(REPAIRABLE),
    "small": body(SMALL),
}


async def behave(peer: Peer) -> None:
    """Answer with the text that the request's prompt names."""
    if peer.request.target != ROUTE:
        return await answers(b'{"object": "list", "data": []}')(peer)
    prompt = json.loads(peer.request.body)["messages"][0]["content"]
    return await answers(ANSWERS[prompt])(peer)


@asynccontextmanager
async def serving(directory: Path, **settings: str) -> AsyncIterator[tuple[Box, DaemonProcess]]:
    async with RawServer(behave) as server:
        box = Box.init(directory, "--engine", "upstream", "--upstream", server.url)
        daemon = box.serve(
            REPAIR__INPUT_BYTES_MAX=str(2 * SIZE),
            REPAIR__DEADLINE_S=str(DEADLINE_OF_REPAIR_S),
            **settings,
        )
        await asyncio.to_thread(daemon.__enter__)
        try:
            yield box, daemon
        finally:
            await asyncio.to_thread(daemon.__exit__, *sys.exc_info())


def workers(daemon: DaemonProcess) -> set[int]:
    """The processes that repair."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            arguments = path.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == daemon.process_id and b"edge_store.jsonrepair.worker" in arguments:
            found.add(int(path.parent.name))
    return found


async def ask(client: httpx.AsyncClient, prompt: str) -> tuple[float, str]:
    """Seconds until the answer, and its id."""
    request: dict[str, Any] = {
        "model": "raw",
        "messages": [{"role": "user", "content": prompt}],
        "response_format": {"type": "json_object"},
    }
    began = time.monotonic()
    answer = await client.post(ROUTE, json=request)
    seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text[:500]
    return seconds, answer.headers["x-edge-store-id"]


def repaired(box: Box, result_id: str) -> tuple[str, str, str]:
    """State, log, and the text as it came."""
    ((state, note, text),) = box.rows(
        "SELECT json_state, coalesce(repair_log, ''), output_text FROM outputs "
        "JOIN results USING (seq) WHERE id = ?",
        result_id,
    )
    return state, note, text


async def others(client: httpx.AsyncClient, asking: asyncio.Task[Any]) -> list[float]:
    """How long small requests take, one after the other, until ``asking`` is done."""
    seconds = [(await ask(client, "small"))[0]]
    while not asking.done():
        seconds.append((await ask(client, "small"))[0])
    return seconds


async def test_other_requests_do_not_wait_for_a_hostile_answer(tmp_path: Path) -> None:
    """An answer of that size must be read and committed, whatever is in it: so compare with one
    that needs no repair.
    """
    quiet: list[float] = []
    beside_large: list[float] = []
    beside_hostile: list[float] = []
    async with (
        serving(tmp_path / "box") as (box, daemon),
        httpx.AsyncClient(base_url=daemon.url, timeout=DEADLINE_S) as client,
    ):
        for name, text in HOSTILE.items():
            quiet += [(await ask(client, "small"))[0] for _ in range(40)]
            large = asyncio.create_task(ask(client, "large"))
            beside_large += await others(client, large)
            assert repaired(box, (await large)[1])[0] == "valid"

            before = workers(daemon)
            assert len(before) == 1
            hostile = asyncio.create_task(ask(client, name))
            beside_hostile += await others(client, hostile)
            seconds, result_id = await hostile
            assert seconds >= DEADLINE_OF_REPAIR_S, f"{name} was no work"
            state, note, kept = repaired(box, result_id)
            assert (state, kept) == ("invalid", text), "the raw text is kept"
            assert "killed" in note
            assert not workers(daemon) & before, "its worker was killed"
            _, result_id = await ask(client, "repairable")
            assert repaired(box, result_id)[0] == "repaired", "another worker has its place"
    assert len(beside_hostile) > 20, "the repairs were over before the others could be asked"
    figures = [(median(s), p99(s), len(s)) for s in (quiet, beside_large, beside_hostile)]
    assert median(beside_hostile) <= FACTOR * median(quiet) + MEDIAN_SLACK_S, figures
    most = max(p99(quiet), p99(beside_large))
    assert p99(beside_hostile) <= FACTOR * most + P99_SLACK_S, figures
    box.proven()


def p99(seconds: list[float]) -> float:
    return quantiles(seconds, n=100, method="inclusive")[98]


async def test_hostile_answer_that_needs_too_much_memory_costs_its_worker_only(
    tmp_path: Path,
) -> None:
    async with (
        serving(tmp_path / "box", REPAIR__MEMORY_BYTES_MAX=str(128 * MIB)) as (box, daemon),
        httpx.AsyncClient(base_url=daemon.url, timeout=DEADLINE_S) as client,
    ):
        before = workers(daemon)
        _, result_id = await ask(client, "memory")
        state, note, kept = repaired(box, result_id)
        assert (state, kept) == ("invalid", MUCH_MEMORY)
        assert "repair.memory_bytes_max = 134217728" in note
        assert not workers(daemon) & before
        _, result_id = await ask(client, "repairable")
        assert repaired(box, result_id)[0] == "repaired"
