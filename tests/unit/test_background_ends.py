"""A response in the background comes to its end, whatever fails on its way."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.daemon import rows
from support.responding import Responding, responding
from support.scripted import DEADLINE_S, chat_body, replay

import edge_store.api.background
import edge_store.readers
from edge_store.responses.conversations import read_context
from edge_store.responses.store import find_outline
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver

PATH = "/v1/responses"
ASKED = {"model": "m", "input": "hello", "background": True}
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
SCRIPT = replay([chat_body("Hello")])


class Disk:
    """A real connection behind it: ``before`` and ``after`` see each statement and may raise."""

    def __init__(self) -> None:
        self.before: Any = lambda _statement: None
        self.after: Any = lambda _statement: None

    def connected(self, connection: Connection) -> Any:
        return OnDisk(connection, self)


class OnDisk:
    """A connection on ``Disk``."""

    def __init__(self, connection: Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def execute(self, statement: str, *args: Any) -> Any:
        self._disk.before(statement)
        cursor = self._connection.execute(statement, *args)
        self._disk.after(statement)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.api.background, "STORE_PAUSE_S", 0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


async def until(path: Path, query: str, found: list[tuple[Any, ...]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while rows(path, query) != found:  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.005)


async def nothing_open(path: Path) -> None:
    await until(path, "SELECT count(*) FROM open_responses", [(0,)])


async def shown(here: Responding, response_id: str) -> dict[str, Any]:
    """It, once it has ended."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found: dict[str, Any] = (await here.ask(f"{PATH}/{response_id}", method="GET")).json()
            if found["status"] not in ("queued", "in_progress"):
                return found
            await asyncio.sleep(0.005)


async def test_a_read_that_takes_too_long_only_delays_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_slow = True

    def reading(connection: Connection, *args: Any) -> Any:
        if is_slow:
            connection.execute(ENDLESS).fetchall()
        return find_outline(connection, *args)

    monkeypatch.setattr(edge_store.readers, "READ_SECONDS_MAX", 0.5)
    monkeypatch.setattr(edge_store.api.background, "find_outline", reading)
    with structlog.testing.capture_logs() as logs:
        async with responding(path, SCRIPT) as here:
            made = (await here.ask(PATH, ASKED)).json()["id"]
            async with asyncio.timeout(DEADLINE_S):
                while not logs:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            is_slow = False
            await nothing_open(path)
            assert (await shown(here, made))["status"] == "completed"
    assert (logs[0]["event"], logs[0]["code"]) == ("response_delayed", "overloaded")


async def test_reads_that_always_take_too_long_end_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(connection: Connection, *_args: Any) -> Any:
        connection.execute(ENDLESS).fetchall()

    monkeypatch.setattr(edge_store.readers, "READ_SECONDS_MAX", 0.1)
    monkeypatch.setattr(edge_store.api.background, "find_outline", reading)
    async with responding(path, SCRIPT) as here:
        made = (await here.ask(PATH, ASKED)).json()["id"]
        await nothing_open(path)
        monkeypatch.setattr(edge_store.readers, "READ_SECONDS_MAX", 10.0)
        found = await shown(here, made)
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert "was not read within" in found["error"]["message"]


async def test_a_defect_ends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with responding(path, SCRIPT) as here:
        conversation = (await here.ask("/v1/conversations", {})).json()["id"]
        reads = 0

        def reading(*args: Any) -> Any:
            nonlocal reads
            reads += 1
            if reads > 1:  # the first is the route's own
                raise ZeroDivisionError
            return read_context(*args)

        monkeypatch.setattr("edge_store.api.means.read_context", reading)
        asked = {**ASKED, "conversation": conversation}
        made = (await here.ask(PATH, asked)).json()["id"]
        await nothing_open(path)
        found = await shown(here, made)
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
        assert found["error"]["message"] == "the daemon failed: ZeroDivisionError"
        monkeypatch.undo()
        assert (await here.ask(PATH, asked)).status == 200  # its conversation is free
        await nothing_open(path)


async def test_one_whose_caller_leaves_while_it_is_committed_runs_and_keeps_its_key(
    path: Path,
) -> None:
    disk, reached, go = Disk(), threading.Event(), threading.Event()

    def before(statement: str) -> None:
        if statement == sql("insert_response"):
            reached.set()
            go.wait(DEADLINE_S)

    disk.before = before
    async with responding(path, SCRIPT, connected=disk.connected) as here:
        async with here.call(PATH, ASKED, key=b"k"):
            await asyncio.to_thread(reached.wait, DEADLINE_S)
        async with here.call(PATH, ASKED, key=b"k") as again:  # at once
            go.set()
            await again.ended()
        assert again.headers[b"idempotency-replayed"] == b"true"
        await until(path, "SELECT status FROM results", [("completed",)])
        await nothing_open(path)
        assert rows(path, "SELECT 'resp_' || id FROM responses") == [(again.json()["id"],)]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_one_that_is_not_known_to_be_committed_runs_if_it_is(
    path: Path, *, is_committed: bool
) -> None:
    disk, armed = Disk(), threading.Event()

    def failing(statement: str) -> None:
        if statement == sql("commit") and armed.is_set():
            armed.clear()
            error = driver.OperationalError("disk I/O error")
            error.sqlite_errorcode = driver.SQLITE_IOERR
            raise error

    setattr(disk, "after" if is_committed else "before", failing)
    async with responding(path, SCRIPT, connected=disk.connected) as here:
        conversation = (await here.ask("/v1/conversations", {})).json()["id"]
        asked = {**ASKED, "conversation": conversation}
        armed.set()
        call = await here.ask(PATH, asked)
        assert (call.status, call.json()["error"]["code"]) == (500, "store_error")
        if is_committed:
            await until(path, "SELECT status FROM results", [("completed",)])
        await nothing_open(path)
        async with asyncio.timeout(DEADLINE_S):
            while (await here.ask(PATH, asked)).status != 200:  # noqa: ASYNC110  (it is locked)
                await asyncio.sleep(0.005)
        await until(path, "SELECT count(*) FROM results", [(1 + is_committed,)])
        await nothing_open(path)
