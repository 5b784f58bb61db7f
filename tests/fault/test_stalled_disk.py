"""A disk that hangs: what waits stays bounded, and no caller is told more than is known."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted import DEADLINE_S, Recording, chat_body, read_results, recording, replay

from edge_store.api.inside import Inside
from edge_store.config import RecorderSection
from edge_store.errors import StoreError
from edge_store.recorder.caller import Caller, Origin
from edge_store.sql import sql
from edge_store.sqlite import Connection

CONFIG = RecorderSection(slots=2, commit_timeout_s=0.1, admission_timeout_s=0, beat_s=0.02)
SCRIPT = replay([chat_body("hello")])


class Stall:
    """While it is on, a COMMIT does not return."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.over.set()
        self.met = threading.Event()

    def connected(self, connection: Connection) -> Any:
        return StallingConnection(connection, self)


class StallingConnection:
    """A real connection behind ``Stall``."""

    def __init__(self, connection: Connection, stall: Stall) -> None:
        self._connection = connection
        self._stall = stall

    def execute(self, statement: str, *args: Any) -> Any:
        if statement == sql("commit") and not self._stall.over.is_set():
            self._stall.met.set()
            assert self._stall.over.wait(2 * DEADLINE_S)
        return self._connection.execute(statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def stall() -> Iterator[Stall]:
    found = Stall()
    yield found
    found.over.set()


async def over(stall: Stall, running: Recording) -> None:
    """The disk goes on: everything that waited is written, and admission opens."""
    stall.over.set()
    slots = running.recorder.slots
    async with asyncio.timeout(DEADLINE_S):
        await slots.drained()
        while slots.closed is not None:  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.005)


async def test_what_waits_keeps_its_slots_and_admission_closes(
    tmp_path: Path, stall: Stall
) -> None:
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, config=CONFIG, connected=stall.connected) as running:
        slots = running.recorder.slots
        stall.over.clear()
        callers = await asyncio.gather(running.ask(), running.ask())
        for caller in callers:
            error = json.loads(caller.body)["error"]
            assert (caller.status, error["code"]) == (500, "store_error")
            assert "may still be stored" in error["message"]
            assert "not committed" not in error["message"]
            assert caller.headers["x-edge-store-durability"] == "none"
        assert slots.in_flight == 2, "both results still wait"
        assert type(slots.closed) is StoreError
        for _ in range(5):
            with pytest.raises(StoreError):
                await running.ask()
        assert len(running.engine.bodies) == 2, "nothing is generated that would only wait"

        await over(stall, running)
        await running.ask()
    ids = [recorded.result.id for recorded in read_results(path)]  # its COMMIT may have taken long
    assert len(ids) == 3
    assert {caller.headers["x-edge-store-id"] for caller in callers} < set(ids)


async def test_a_caller_that_leaves_does_not_free_the_slot_of_what_waits(
    tmp_path: Path, stall: Stall
) -> None:
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, config=CONFIG, connected=stall.connected) as running:
        slots = running.recorder.slots
        stall.over.clear()
        asking = asyncio.create_task(running.ask())
        await asyncio.to_thread(stall.met.wait, DEADLINE_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert slots.in_flight == 1
        async with asyncio.timeout(DEADLINE_S):
            while slots.closed is None:  # noqa: ASYNC110  (what it waits for has no event)
                await asyncio.sleep(0.005)
        await over(stall, running)
    assert len(running.stored()) == 1


async def test_a_line_of_the_queue_waits_for_what_becomes_of_it(
    tmp_path: Path, stall: Stall
) -> None:
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, config=CONFIG, connected=stall.connected) as running:
        stall.over.clear()
        body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
        origin = Origin(batch_id="b1", custom_id="line")
        inside = Inside(running.recorder)
        asked = asyncio.ensure_future(inside.ask("/v1/chat/completions", body, Caller(), origin))
        async with asyncio.timeout(DEADLINE_S):
            while running.recorder.slots.closed is None:  # noqa: ASYNC110  (as above)
                await asyncio.sleep(0.005)
        assert not asked.done(), "else it would be asked once more, and be stored twice"
        await over(stall, running)
        answer = await asked
    assert (answer.status, answer.headers["x-edge-store-durability"]) == (200, "committed")
