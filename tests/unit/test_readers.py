"""Threads that read for several tenants: each has its turn, none waits without a bound."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.asgi import DEADLINE_S
from support.records import new_database

import edge_store.readers
from edge_store.errors import EdgeStoreError, Overloaded, TenantOverShare
from edge_store.readers import Asker, Readers, asker
from edge_store.recording import sharing_readers
from edge_store.sqlite import Connection, translated

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncIterator[Readers]:
    connection, _boot = new_database(tmp_path / "results.db")
    connection.close()
    async with sharing_readers(tmp_path / "results.db") as found:
        yield found


class Door:
    """Keeps every thread that reads until it is opened."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._open = threading.Event()
        self.begun: list[str] = []

    def open(self) -> None:
        self._open.set()

    def read(self, tenant: str | None) -> asyncio.Task[None]:
        """A read of this tenant's; None: the daemon's own."""

        def wait(_connection: Connection, name: str) -> None:
            self.begun.append(name)
            assert self._open.wait(DEADLINE_S)

        async def run() -> None:
            asker.set(None if tenant is None else Asker(tenant))
            await self._readers.run(wait, str(tenant))

        return asyncio.create_task(run())


async def settled(tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_read_at_once_and_tenants_take_turns(readers: Readers) -> None:
    door = Door(readers)
    tasks = [door.read("a") for _ in range(8)]
    await asyncio.sleep(0)
    tasks += [door.read("b"), door.read(None), door.read("b")]
    await asyncio.sleep(0)
    door.open()
    assert await settled(tasks) == [None] * 11
    assert door.begun[:2] == ["a", "a"]
    for other in ("b", "None"):  # two threads note what they begin, not always in its order
        assert door.begun[: door.begun.index(other)].count("a") < 8, "not after all eight"
    assert len(door.begun) == 11


async def test_one_tenant_too_many_times_is_refused_and_others_are_not(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_store.readers, "WAITING_MAX", 8)
    monkeypatch.setattr(edge_store.readers, "WAITING_OF_TENANT_MAX", 4)
    door = Door(readers)
    tasks = [door.read("a") for _ in range(7)]  # two run, four wait
    await asyncio.sleep(0)
    tasks += [door.read(tenant) for tenant in ("b", "c", "d", "e", "f")]
    tasks += [door.read(None) for _ in range(3)]
    await asyncio.sleep(0)
    door.open()
    outcomes = await settled(tasks)
    assert [type(each) for each in outcomes[6:7]] == [TenantOverShare]
    assert [type(each) for each in outcomes[7:12]] == [type(None)] * 4 + [Overloaded]
    assert outcomes[12:] == [None] * 3, "the daemon's own are never refused"
    assert all(each.retry_after_s for each in outcomes if isinstance(each, Overloaded))


async def test_who_leaves_while_it_waits_gives_its_place_to_the_next(readers: Readers) -> None:
    door = Door(readers)
    tasks = [door.read("a") for _ in range(5)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.sleep(0)
    door.open()
    outcomes = await settled(tasks)
    assert [isinstance(each, asyncio.CancelledError) for each in outcomes] == [
        False, False, False, True, False,
    ]  # fmt: skip
    assert len(door.begun) == 4
    assert await readers.run(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)


@pytest.mark.parametrize("is_translated", [True, False])
async def test_a_read_that_takes_too_long_is_ended(
    readers: Readers, monkeypatch: pytest.MonkeyPatch, *, is_translated: bool
) -> None:
    def endless(connection: Connection) -> None:
        if is_translated:
            with translated("it cannot be read"):
                connection.execute(ENDLESS).fetchone()
        connection.execute(ENDLESS).fetchone()

    monkeypatch.setattr(edge_store.readers, "READ_SECONDS_MAX", 0.05)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Overloaded, match=r"within 0\.05 s"):
            await readers.run(endless)
    monkeypatch.setattr(edge_store.readers, "READ_SECONDS_MAX", 10.0)
    assert await readers.run(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)


async def test_another_failure_is_what_it_was(readers: Readers) -> None:
    def fails(_connection: Connection) -> None:
        raise EdgeStoreError("as it was")

    with pytest.raises(EdgeStoreError, match="as it was"):
        await readers.run(fails)
