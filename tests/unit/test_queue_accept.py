"""A request that is answered later is, though its caller leaves before it is told so."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.daemon import rows
from support.scripted import (
    CHAT,
    DEADLINE_S,
    Caller,
    Recording,
    chat_body,
    recording,
    replay,
)

import edge_store.queue.room
from edge_store.api.inside import Inside
from edge_store.config import Config, StoreSection
from edge_store.errors import StoreError
from edge_store.queue.room import Queue, queue_of, running
from edge_store.recorder.caller import EVERYBODY
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver

BODY = json.dumps({"messages": [{"role": "user", "content": "later"}]}).encode()


class Watched:
    """A connection whose statements are seen, by what may wait or raise."""

    def __init__(
        self,
        connection: Connection,
        before: Callable[[str], None] = lambda _statement: None,
        after: Callable[[str], None] = lambda _statement: None,
    ) -> None:
        self._connection = connection
        self._before, self._after = before, after

    def execute(self, statement: str, *args: Any) -> Any:
        self._before(statement)
        cursor = self._connection.execute(statement, *args)
        self._after(statement)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def is_ready() -> bool:
    return True


@asynccontextmanager
async def queueing(path: Path, connected: Any) -> AsyncIterator[tuple[Recording, Queue]]:
    script = replay([chat_body("Hello")])
    async with (
        recording(path, script, connected=connected) as here,
        queue_of(
            Config(store=StoreSection(path=str(path))),
            ask=Inside(here.recorder).ask,
            change=here.recorder.change,
            redacting=here.recorder.redacting,
            slots=here.recorder.slots,
            is_engine_ready=is_ready,
            refusal_of=lambda _bytes: None,
            metrics=here.metrics,
        ) as queue,
        running(queue),
    ):
        yield here, queue


async def completed(path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while rows(path, "SELECT status FROM results") != [("completed",)]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_caller_that_leaves_is_answered_later_once(tmp_path: Path) -> None:
    path, reached, go = tmp_path / "results.db", threading.Event(), threading.Event()

    def before(statement: str) -> None:
        if statement == sql("insert_queued_request"):
            reached.set()
            go.wait(DEADLINE_S)

    async with queueing(path, lambda c: Watched(c, before=before)) as (here, queue):
        scope = {"type": "http", "path": CHAT, "headers": [(b"idempotency-key", b"k")]}

        def asked(caller: Caller) -> Any:
            take = partial(queue.accept, CHAT, BODY, EVERYBODY)
            accept = here.recorder.accept(scope, BODY, caller.receive, caller.send, take)
            return asyncio.create_task(accept)

        first = asked(Caller())
        await asyncio.to_thread(reached.wait, DEADLINE_S)
        first.cancel()
        await asyncio.wait([first])
        again = asked(Caller())
        await asyncio.sleep(0)
        go.set()
        assert await again is False, "the key has a request"
        await completed(path)
    assert rows(path, "SELECT count(*) FROM results") == [(1,)]


async def test_one_that_is_not_known_to_be_committed_runs_if_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_store.queue.room, "LOOK_AGAIN_S", 0.02)
    path, armed = tmp_path / "results.db", threading.Event()

    def after(statement: str) -> None:
        if statement == sql("insert_queued_request"):
            armed.set()
        if statement == sql("commit") and armed.is_set():
            armed.clear()
            error = driver.OperationalError("disk I/O error")
            error.sqlite_errorcode = driver.SQLITE_IOERR
            raise error

    async with queueing(path, lambda c: Watched(c, after=after)) as (_here, queue):
        with pytest.raises(StoreError):
            await queue.accept(CHAT, BODY, EVERYBODY)
        await completed(path)
