"""The bytes of answers have a bound in sum: until they are committed, and until they are read."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.scripted import (
    DEADLINE_S,
    DONE,
    Caller,
    Recording,
    Told,
    chat_body,
    chat_chunk,
    event,
    recording,
    replay,
)

from edge_store.config import RecorderSection
from edge_store.engine import ASGIMessage, Receive, Scope, Send
from edge_store.errors import Overloaded, RecorderFull
from edge_store.recorder import exchange
from edge_store.recorder.transcript.openai import OpenAIReader
from edge_store.result import Recorded, Status

PLAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
STREAM: dict[str, Any] = {**PLAIN, "stream": True}
BOUND = 200_000
ROOMY = RecorderSection(beat_s=0.05)
NARROW = RecorderSection(beat_s=0.05, bytes_max=BOUND)
LARGE = chat_body("x" * 100_000)


def key(name: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + name.encode())]


def pieces(body: bytes, size: int = 5000) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


class Stream:
    """One streamed answer that grows when it is told to."""

    def __init__(self, running: Recording, told: Told, tenant: str) -> None:
        self._told = told
        self.caller = Caller()
        headers = key(tenant)
        self.task = asyncio.create_task(running.ask(STREAM, caller=self.caller, headers=headers))

    @classmethod
    async def begin(cls, running: Recording, told: Told, tenant: str = "a") -> "Stream":
        stream = cls(running, told, tenant)
        (await told.begun(len(told.runs) + 1)).set_result(stream.script)
        stream.orders = asyncio.Queue()
        return stream

    orders: "asyncio.Queue[tuple[bytes, asyncio.Event]]"

    async def script(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        while True:
            data, taken = await self.orders.get()
            try:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            finally:
                taken.set()
            if data == DONE:
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def grow(self, text: str = "", *, is_end: bool = False) -> None:
        chunks = [event(chat_chunk(text))] if text else []
        chunks += [event(chat_chunk(finish="stop")), DONE] if is_end else []
        async with asyncio.timeout(DEADLINE_S):
            for chunk in chunks:
                taken = asyncio.Event()
                self.orders.put_nowait((chunk, taken))
                await taken.wait()


def by_status(stored: list[Recorded], status: Status) -> list[Recorded]:
    return [each for each in stored if each.result.status is status]


async def test_an_answer_that_finds_no_room_is_cut_and_recorded(tmp_path: Path) -> None:
    body = chat_body("x" * 2 * BOUND)
    async with recording(tmp_path / "r.db", replay(pieces(body)), config=NARROW) as running:
        caller = await running.ask()
        (found,) = running.stored()
        assert running.recorder.slots.held_bytes == 0
        assert running.engine.aborted == [found.result.id]
    assert (caller.status, caller.headers["retry-after"]) == (503, "1")
    assert b"no_room_for_answer" in caller.body
    assert (found.result.status, found.result.error_type) == (Status.FAILED, "no_room_for_answer")
    assert found.result.content.response_body == b""


async def test_the_largest_answer_makes_room_for_the_others(tmp_path: Path) -> None:
    told = Told()
    async with recording(tmp_path / "r.db", told, config=NARROW) as running:
        small = [await Stream.begin(running, told) for _ in range(3)]
        large = await Stream.begin(running, told)
        await large.grow("x" * 90_000)
        for _ in range(4):
            for stream in small:
                await stream.grow("y" * 9_000)
        for stream in small:
            await stream.grow(is_end=True)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(stream.task for stream in (large, *small)))
        stored = running.stored()
    (cut,) = by_status(stored, Status.FAILED)
    assert cut.result.error_type == "no_room_for_answer"
    assert cut.result.outputs[0].output_text == "x" * 90_000, "the text that had come stays"
    assert cut.result.content.response_body == b""
    assert b"no_room_for_answer" in large.caller.body
    whole = by_status(stored, Status.COMPLETED)
    assert [each.result.outputs[0].output_text for each in whole] == ["y" * 36_000] * 3


async def test_another_tenants_answer_is_not_cut(tmp_path: Path) -> None:
    told = Told()
    async with recording(tmp_path / "r.db", told, config=NARROW) as running:
        modest = await Stream.begin(running, told, "modest")
        greedy = await Stream.begin(running, told, "greedy")
        await modest.grow("m" * 60_000)
        await greedy.grow("g" * 50_000)
        await greedy.grow("g" * 100_000)
        await greedy.task
        await modest.grow(is_end=True)
        await modest.task
        stored = running.stored()
    assert [each.result.status for each in stored] == [Status.FAILED, Status.COMPLETED]
    assert [each.result.outputs[0].output_text for each in stored] == ["g" * 50_000, "m" * 60_000]


async def test_answers_under_way_keep_new_requests_out(tmp_path: Path) -> None:
    told = Told()
    async with recording(tmp_path / "r.db", told, config=NARROW) as running:
        stream = await Stream.begin(running, told)
        await stream.grow("x" * 150_000)
        slots = running.recorder.slots
        with pytest.raises(RecorderFull, match=r"recorder\.bytes_max"), slots.hold() as hold:
            slots.grow(hold, 60_000)
        await stream.grow(is_end=True)
        await stream.task
        with slots.hold() as hold:
            slots.grow(hold, 60_000)


async def test_a_stored_answer_is_given_again_only_where_it_finds_room(tmp_path: Path) -> None:
    headers = [(b"idempotency-key", b"once")]
    async with recording(tmp_path / "r.db", replay(pieces(LARGE)), config=NARROW) as running:
        first = await running.ask(headers=headers)
        slots = running.recorder.slots
        with slots.hold("somebody") as hold:
            slots.grow(hold, BOUND // 2)
            caller = Caller()
            with pytest.raises(Overloaded):
                await running.ask(headers=headers, caller=caller)
            assert caller.messages == []
        again = await running.ask(headers=headers)
        assert slots.held_bytes == 0
    assert again.body == first.body == LARGE


class Slow(Caller):
    """A caller whose connection takes nothing more once it has so many bytes."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self.bytes_max = bytes_max
        self.is_reading = asyncio.Event()

    async def send(self, message: ASGIMessage) -> None:
        if len(self.body) > self.bytes_max:
            await self.is_reading.wait()
        await super().send(message)


async def slow_reading(
    running: Recording, caller: Slow, is_stuck: Callable[[], bool]
) -> "asyncio.Task[Caller]":
    task = asyncio.create_task(running.ask(caller=caller))
    async with asyncio.timeout(DEADLINE_S):
        while not is_stuck():
            caller.got.clear()
            await caller.got.wait()
    return task


async def test_an_answer_is_counted_until_its_caller_has_read_it(tmp_path: Path) -> None:
    body = chat_body("x" * 1_000_000)
    async with recording(tmp_path / "r.db", replay(pieces(body)), config=ROOMY) as running:
        caller = Slow(bytes_max=0)
        task = await slow_reading(running, caller, lambda: bool(caller.body))
        assert len(caller.body) < len(body), "it is sent in pieces"
        assert len(running.stored()) == 1
        assert running.recorder.slots.in_flight == 0
        assert running.recorder.slots.held_bytes >= len(body)
        caller.is_reading.set()
        await task
        assert running.recorder.slots.held_bytes == 0
    assert caller.body == body
    assert caller.is_finished


async def test_a_caller_that_reads_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "TAKING_S", 0.05)
    body = chat_body("x" * 1_000_000)
    with capture_logs() as logged:
        async with recording(tmp_path / "r.db", replay(pieces(body)), config=ROOMY) as running:
            await running.ask(caller=Slow(bytes_max=0))
            assert running.recorder.slots.held_bytes == 0
            (found,) = running.stored()
    assert found.result.status is Status.COMPLETED
    assert [e["id"] for e in logged if e["event"] == "answer_not_taken"] == [found.result.id]


async def test_a_large_answer_is_read_on_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    read = OpenAIReader.body

    def noted(reader: OpenAIReader, body: bytes) -> None:
        threads.append(threading.get_ident())
        read(reader, body)

    monkeypatch.setattr(OpenAIReader, "body", noted)
    for size, is_here in ((1000, True), (1_000_000, False)):
        script = replay(pieces(chat_body("x" * size)))
        async with recording(tmp_path / f"{size}.db", script, config=ROOMY) as running:
            await running.ask()
            (found,) = running.stored()
        assert (threads.pop() == threading.get_ident()) == is_here
        assert found.result.outputs[0].output_text == "x" * size
