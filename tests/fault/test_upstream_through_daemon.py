"""An upstream server that misbehaves, seen through the whole daemon: each failure is a row, and no
caller mistakes what it got for an answer.
"""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until
from support.rawserver import (
    CHAT_EVENTS,
    Behaviour,
    Peer,
    RawServer,
    answers,
    dies_before_headers,
    dies_midbody,
    dies_midstream,
    hangs_before_headers,
    hangs_midstream,
    refusing_port,
    sends_garbage,
    streams,
)
from support.scripted import chat_body

from edge_store.bench.figures import peak_resident_bytes, resident_bytes

MIB = 1 << 20
CHAT: dict[str, Any] = {"model": "raw", "messages": [{"role": "user", "content": "hello"}]}
ROUTE = "/v1/chat/completions"
EVENTS = CHAT_EVENTS[:3]  # "Hello", without its finish
NO_ANSWER = b"data: this is no JSON\n\n"
ENGINE_ERROR = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(
        tmp_path / "box", "--engine", "upstream", "--upstream", "http://127.0.0.1:1",
        ENGINE__UPSTREAM__READ_TIMEOUT_S="6",
    )  # fmt: skip


def by_route(behaviour: Behaviour) -> Behaviour:
    """Health is good; what generates behaves as told."""
    healthy = answers(b'{"object": "list", "data": []}')

    async def behave(peer: Peer) -> None:
        await (behaviour if peer.request.target == ROUTE else healthy)(peer)

    return behave


async def ask(daemon: DaemonProcess, *, stream: bool) -> tuple[httpx.Response, list[str]]:
    """One chat, and the data of its events; a plain answer has none."""
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
        client.stream("POST", daemon.url + ROUTE, json={**CHAT, "stream": stream}) as answer,
    ):
        await answer.aread()
    lines = answer.text.splitlines() if stream else []
    return answer, [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def outcome(box: Box, answer: httpx.Response) -> tuple[Any, ...]:
    row: tuple[Any, ...]
    (row,) = box.rows(
        "SELECT status, error_type, http_status, coalesce(output_text, '') FROM results "
        "LEFT JOIN outputs USING (seq) WHERE id = ?",
        answer.headers["x-edge-store-id"],
    )
    return row


@asynccontextmanager
async def between(
    box: Box, behaviour: Behaviour, **settings: str
) -> AsyncIterator[tuple[DaemonProcess, RawServer]]:
    """A daemon in front of a server that behaves so. Threads wait for it: the server is here."""
    async with RawServer(by_route(behaviour)) as server:
        daemon = box.serve(ENGINE__UPSTREAM__BASE_URL=server.url, **settings)
        await asyncio.to_thread(daemon.__enter__)
        try:
            yield daemon, server
        finally:
            await asyncio.to_thread(daemon.__exit__, *sys.exc_info())


STREAMS = {
    "dies": (dies_midstream(*EVENTS), "upstream_error", 502),
    "ends early": (streams(*EVENTS), "upstream_error", 502),
    "hangs": (hangs_midstream(*EVENTS), "generation_timeout", 504),
    "sends garbage": (streams(*EVENTS, NO_ANSWER), "upstream_error", 502),
    "sends an error": (streams(*EVENTS, ENGINE_ERROR), "engine_refused", 500),
}


async def test_stream_that_fails_ends_with_an_error_event_and_a_failed_row(box: Box) -> None:
    async with between(box, streams(*CHAT_EVENTS)) as (daemon, server):
        for name, (behaviour, code, http_status) in STREAMS.items():
            server.behaviour = by_route(behaviour)
            answer, events = await ask(daemon, stream=True)
            assert answer.status_code == 200, name
            assert [json.loads(event) for event in events[:3]] == [
                json.loads(event.removeprefix(b"data: ")) for event in EVENTS
            ], name
            (last,) = events[3:]
            assert json.loads(last)["error"]["message"], name
            assert outcome(box, answer) == ("failed", code, http_status, "Hello"), name
        server.behaviour = by_route(streams(*CHAT_EVENTS))
        answer, _ = await ask(daemon, stream=True)
        assert outcome(box, answer) == ("completed", None, 200, "Hello")
    box.proven()


PLAIN = {
    "dies": (dies_before_headers, 502, "upstream_error"),
    "dies in its body": (dies_midbody(b'{"choices": [', 1000), 502, "upstream_error"),
    "hangs": (hangs_before_headers, 504, "generation_timeout"),
    "speaks no HTTP": (sends_garbage(), 502, "upstream_error"),
    "sends HTML": (answers(b"<html>Welcome!</html>"), 502, "upstream_error"),
    "sends other JSON": (answers(b'{"hello": 1}'), 502, "upstream_error"),
    "sends nothing": (answers(b""), 502, "upstream_error"),
    "refuses": (answers(b'{"error": {"message": "later"}}', 429), 429, "engine_refused"),
}


@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_the_answer_is_a_status_and_a_failed_row(
    box: Box, *, stream: bool
) -> None:
    async with between(box, answers()) as (daemon, server):
        for name, (behaviour, http_status, code) in PLAIN.items():
            server.behaviour = by_route(behaviour)
            answer, _ = await ask(daemon, stream=stream)
            assert answer.status_code == http_status, name
            assert answer.json()["error"]["message"], name
            assert answer.headers["x-edge-store-durability"] == "committed", name
            assert outcome(box, answer)[:3] == ("failed", code, http_status), name
    box.proven()


async def test_log_calls_an_upstream_that_answers_ready(box: Box) -> None:
    async with between(box, streams(*CHAT_EVENTS)) as (daemon, _server):
        told = await asyncio.to_thread(daemon.logged, "engine_ready")
        assert told["engine"] == "upstream"


def test_upstream_that_refuses_is_a_502_and_a_box_that_is_not_ready(box: Box) -> None:
    with refusing_port() as port:
        daemon = box.serve(ENGINE__UPSTREAM__BASE_URL=f"http://127.0.0.1:{port}")
        daemon.start()
        try:
            daemon.url = str(daemon.logged("http_listening")["url"])
            told = daemon.logged("engine_not_ready")
            answer = daemon.post(ROUTE, json=CHAT)
            ready, models = daemon.get("/readyz"), daemon.get("/v1/models")
            assert daemon.stop() == 0
        finally:
            daemon.__exit__(None, None, None)
    assert (told["level"], told["engine"]) == ("warning", "upstream")
    assert not any(line.get("event") == "engine_ready" for line in daemon.log)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert outcome(box, answer)[:3] == ("failed", "upstream_error", 502)
    assert (ready.status_code, ready.json()["engine"]["is_ready"]) == (503, False)
    assert models.status_code == 502


async def test_caller_that_leaves_stops_the_upstream_generation(box: Box) -> None:
    hangs = hangs_midstream(*EVENTS)
    async with between(box, hangs, ENGINE__UPSTREAM__READ_TIMEOUT_S="120") as (daemon, server):
        server.peer_left.clear()
        body = {**CHAT, "stream": True}
        async with (
            httpx.AsyncClient(timeout=DEADLINE_S) as client,
            client.stream("POST", daemon.url + ROUTE, json=body) as answer,
        ):
            async for line in answer.aiter_lines():
                if '"lo"' in line:
                    break
        await server.left()  # the connection of the generation has ended, long before its time
        assert await asyncio.to_thread(daemon.stop) == 0
    assert outcome(box, answer) == ("incomplete", "client_disconnected", 499, "Hello")


async def test_generation_over_its_time_is_cut_with_a_504(box: Box) -> None:
    async def trickles(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):  # it is cut
            await peer.stream_head()
            for _ in range(2000):  # for 100 s
                await peer.chunk(CHAT_EVENTS[1])
                await asyncio.sleep(0.05)

    async with between(box, trickles, ENGINE__TIMEOUT_S="6") as (daemon, _):
        answer, events = await ask(daemon, stream=True)
    assert json.loads(events[-1])["error"]["code"] == "generation_timeout"
    status, code, http_status, text = outcome(box, answer)
    assert (status, code, http_status) == ("failed", "generation_timeout", 504)
    assert text.startswith("HelHel")


def held_bytes(daemon: DaemonProcess) -> float:
    return daemon.metrics()["edge_store_held_bytes"]


async def test_large_answers_to_many_callers_have_a_bound_in_memory(box: Box) -> None:
    """Fifty answers of 8 MiB at once, where 64 MiB are allowed: 400 MiB of answers alone."""
    callers, bound = 50, 64 * MIB
    body = chat_body("x" * 8 * MIB)
    all_here = asyncio.Barrier(callers)

    async def large(peer: Peer) -> None:
        await peer.head(200, f"Content-Length: {len(body)}")
        await peer.write(body[: MIB // 2])
        await all_here.wait()
        with contextlib.suppress(ConnectionError):  # it may be cut
            await peer.write(body[MIB // 2 :])

    settings = {"RECORDER__BYTES_MAX": str(bound), "SERVER__BODY_BYTES_MAX": str(MIB)}
    limits = httpx.Limits(max_connections=callers)
    async with between(box, large, ENGINE__UPSTREAM__READ_TIMEOUT_S="60", **settings) as (
        daemon,
        _,
    ):
        before = resident_bytes(daemon.process_id)
        async with httpx.AsyncClient(timeout=3 * DEADLINE_S, limits=limits) as client:
            asked = (client.post(daemon.url + ROUTE, json=CHAT) for _ in range(callers))
            told = await asyncio.gather(*asked)
        grown = peak_resident_bytes(daemon.process_id) - before
        await asyncio.to_thread(until, lambda: not held_bytes(daemon), "all is given back")
    statuses = Counter(answer.status_code for answer in told)
    assert set(statuses) == {200, 503}
    assert statuses[200] >= 3, "who was cut has made room for others"
    assert all(answer.content == body for answer in told if answer.status_code == 200)
    codes = {a.json()["error"]["code"] for a in told if a.status_code == 503}
    assert codes == {"no_room_for_answer"}
    # copies of texts, of a batch, of a digest: 3 to 6 times; without the bound 1.1 GiB
    assert grown < 9 * bound
    assert box.scalar("SELECT count(*) FROM results") == callers
    box.proven()
