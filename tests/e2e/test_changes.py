"""Following a daemon: nothing is left out, under load, over its stops, and within a second."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess

CALLERS = 16
EACH = 25


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box", "--engine", "demo")


async def followed(url: str, last: int | None = None) -> AsyncIterator[dict[str, Any]]:
    """Each result of a tail, until it ends."""
    headers = {"accept": "text/event-stream"}
    if last is not None:
        headers["last-event-id"] = str(last)
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
        client.stream("GET", f"{url}/v1/changes?after_seq=0", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def load(daemon: DaemonProcess, done: list[str]) -> None:
    """So many chats at once, again and again; the ids that were answered."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:

        async def call(caller: int) -> None:
            for number in range(EACH):
                body = {"messages": [{"role": "user", "content": f"{caller}.{number}"}]}
                path = f"{daemon.url}/v1/chat/completions"
                answer = await client.post(path, json={**body, "stream": number % 2 == 1})
                assert answer.status_code == 200
                done.append(answer.headers["x-edge-store-id"])

        await asyncio.gather(*(call(n) for n in range(CALLERS)))


async def test_a_tail_has_each_result_once_in_order_under_load_and_over_a_stop(box: Box) -> None:
    """Who follows does not delay the stop: the drain would outlast its deadline."""
    answered: list[str] = []
    seen: list[dict[str, Any]] = []
    whole = asyncio.Event()

    async def follow(url: str) -> None:
        async for result in followed(url, seen[-1]["seq"] if seen else None):
            seen.append(result)
            if len(seen) == 2 * CALLERS * EACH:
                whole.set()

    for _ in range(2):
        with box.serve(SERVER__DRAIN_TIMEOUT_S="3600") as daemon:
            following = asyncio.create_task(follow(daemon.url))
            await load(daemon, answered)
            assert await asyncio.to_thread(daemon.stop) == 0
            async with asyncio.timeout(DEADLINE_S):
                await following
    with box.serve() as daemon:  # what was committed while the first tails ended
        following = asyncio.create_task(follow(daemon.url))
        async with asyncio.timeout(DEADLINE_S):
            await whole.wait()
        following.cancel()
    assert [result["seq"] for result in seen] == list(range(1, 2 * CALLERS * EACH + 1))
    assert {result["id"] for result in seen} == set(answered)
    assert len({result["timeline"] for result in seen}) == 1


@pytest.mark.alone
async def test_a_commit_is_told_within_a_second(box: Box) -> None:
    delays = []
    with box.serve() as daemon:
        tail = followed(daemon.url)
        waiting = asyncio.ensure_future(anext(tail))
        for number in range(10):
            await asyncio.to_thread(daemon.chat, f"now {number}")
            committed = time.monotonic()
            async with asyncio.timeout(DEADLINE_S):
                await waiting
            delays.append(time.monotonic() - committed)
            waiting = asyncio.ensure_future(anext(tail))
        waiting.cancel()
    assert sorted(delays)[5] < 1, delays


async def test_a_poll_is_answered_at_the_next_commit(box: Box) -> None:
    """One that runs to its end is answered with nothing."""
    with box.serve() as daemon:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            path = f"{daemon.url}/v1/changes?after_seq=0&wait_s=50"
            asking = asyncio.create_task(client.get(path))
            stored = await asyncio.to_thread(daemon.chat, "now")
            lines = (await asking).text.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [stored.headers["x-edge-store-id"]]
        raw = daemon.get(f"/v1/results/{stored.headers['x-edge-store-id']}/raw")
        assert raw.content == stored.content


def test_only_the_admin_key_may_query(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo", ADMIN_KEY="sesame")
    with box.serve() as daemon:
        daemon.chat("one")
        body = {"sql": "SELECT count(*) AS n FROM generations"}
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "sesame"}):
            answer = daemon.post("/v1/query", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        answer = daemon.post("/v1/query", json=body, headers={"authorization": "Bearer sesame"})
        assert (answer.status_code, answer.json()["rows"]) == (200, [[1]])
    with Box(tmp_path / "box").serve() as daemon:  # without one, nobody has it
        answer = daemon.post("/v1/query", json=body, headers={"authorization": "Bearer"})
        assert answer.status_code == 403
