"""After an I/O error nothing is believed that was not read back from a database opened again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.records import make_result
from support.scripted import DEADLINE_S, Recording, chat_body, recording, replay

from edge_store.chain import verify_chain
from edge_store.config import RecorderSection
from edge_store.errors import Corrupt, StoreError
from edge_store.result import Receipt, Result
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, open_writer

SCRIPT = replay([chat_body("x")])
CONFIG = RecorderSection(beat_s=0.02)


def io_error() -> driver.Error:
    error = driver.OperationalError("disk I/O error")
    error.sqlite_errorcode = driver.SQLITE_IOERR
    return error


class Disk:
    """Its next COMMIT fails as told; each connection that is opened is counted."""

    def __init__(self) -> None:
        self.opened = 0
        self.fail: Callable[[Connection], None] | None = None

    def connected(self, connection: Connection) -> Any:
        self.opened += 1
        return FailingConnection(connection, self)


class FailingConnection:
    """A real connection on ``Disk``."""

    def __init__(self, connection: Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def execute(self, statement: str, *args: Any) -> Any:
        if statement == sql("commit") and self._disk.fail is not None:
            fail, self._disk.fail = self._disk.fail, None
            fail(self._connection)
            raise io_error()
        return self._connection.execute(statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def batch(running: Recording, count: int = 3) -> list[tuple[Result, Any]]:
    """Queued in one step of the loop, so that no mark of what is admitted is committed first."""
    slots = running.recorder.slots
    held = [await slots.reserve() for _ in range(count)]
    results = [make_result(slot.boot_seq, running.boot.boot_id) for slot in held]
    async with asyncio.timeout(DEADLINE_S):
        outcomes = await asyncio.gather(
            *(running.writer.enqueue(r, s) for r, s in zip(results, held, strict=True)),
            return_exceptions=True,
        )
    return list(zip(results, outcomes, strict=True))


def check(path: Path, acknowledged: list[tuple[Result, Any]]) -> None:
    reader = open_reader(path)
    try:
        assert verify_chain(reader).faults == ()
        stored = reader.execute("SELECT id, seq FROM results ORDER BY seq").fetchall()
        assert reader.execute("SELECT count(*) FROM losses").fetchone() == (0,)
    finally:
        reader.close()
    assert stored == [(receipt.id, receipt.seq) for _, receipt in acknowledged]


@pytest.mark.parametrize("got_in", [True, False], ids=["got_in", "did_not"])
async def test_a_batch_whose_commit_is_uncertain_is_stored_and_acknowledged_once(
    tmp_path: Path,
    got_in: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "results.db"
    disk = Disk()
    async with recording(path, SCRIPT, config=CONFIG, connected=disk.connected) as running:
        before = await batch(running)
        first = sql("commit") if got_in else sql("rollback")
        disk.fail = lambda connection: connection.execute(first).close()
        outcomes = await batch(running)
        assert all(isinstance(outcome, Receipt) for _, outcome in outcomes)
        assert [outcome.seq for _, outcome in outcomes] == [4, 5, 6]
        assert disk.opened == 2
        assert running.writer.is_sound
        after = await batch(running)
        assert disk.opened == 2, "once is enough"
    check(path, before + outcomes + after)


async def test_a_file_that_is_not_what_was_acknowledged_is_refused_for_good(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.db"
    disk = Disk()

    def tamper(connection: Connection) -> None:
        """What a flush that was lost leaves: a page of the acknowledged commit as it was before."""
        connection.execute(sql("rollback"))
        other = open_writer(path)
        other.execute("UPDATE outputs SET output_text = 'other' WHERE seq = 2")
        other.close()

    async with recording(path, SCRIPT, config=CONFIG, connected=disk.connected) as running:
        before = await batch(running)
        assert all(isinstance(outcome, Receipt) for _, outcome in before)
        disk.fail = tamper
        outcomes = await batch(running)
        assert {type(outcome) for _, outcome in outcomes} == {Corrupt}
        assert "replica restore" in outcomes[0][1].hint
        assert isinstance(running.recorder.slots.closed, Corrupt)
        assert not running.writer.is_sound
        with pytest.raises(Corrupt):
            await running.ask()
    assert [r.result.id for r in running.stored()] == [result.id for result, _ in before]


async def test_what_was_given_up_while_uncertain_and_did_get_in_is_no_loss(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.db"
    disk = Disk()
    is_down = False

    def connected(connection: Connection) -> Any:
        if is_down:
            connection.close()
            raise StoreError("the disk is down")
        return disk.connected(connection)

    config = RecorderSection(beat_s=0.02, commit_timeout_s=0.1)
    async with recording(path, SCRIPT, config=config, connected=connected) as running:

        def commit_and_go_down(connection: Connection) -> None:
            nonlocal is_down
            connection.execute(sql("commit"))
            is_down = True

        disk.fail = commit_and_go_down
        ((result, outcome),) = await batch(running, 1)
        assert isinstance(outcome, StoreError)
        async with asyncio.timeout(DEADLINE_S):
            await running.recorder.slots.drained()
        is_down = False
        ((after, _),) = await until_stored(running)  # whose COMMIT may take longer than 0.1 s
    stored = enumerate((result, after), 1)
    check(path, [(each, Receipt(id=each.id, seq=n, committed_at=0)) for n, each in stored])


async def until_stored(running: Recording) -> list[tuple[Result, Any]]:
    async with asyncio.timeout(DEADLINE_S):
        while running.recorder.slots.closed is not None:  # noqa: ASYNC110  (no event)
            await asyncio.sleep(0.005)
    return await batch(running, 1)


@pytest.mark.parametrize("got_in", [True, False], ids=["got_in", "did_not"])
async def test_a_change_whose_commit_is_uncertain_is_said_to_be_and_costs_no_result(
    tmp_path: Path,
    got_in: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "results.db"
    disk = Disk()
    async with recording(path, SCRIPT, config=CONFIG, connected=disk.connected) as running:
        before = await batch(running)
        first = sql("commit") if got_in else sql("rollback")
        disk.fail = lambda connection: connection.execute(first).close()
        with pytest.raises(StoreError, match="whether it is stored is known when"):
            await running.recorder.change(pin)
        assert await running.recorder.change(count_pins) == int(got_in)
        assert disk.opened == 2
        async with asyncio.timeout(DEADLINE_S):
            while running.recorder.slots.closed is not None:  # noqa: ASYNC110  (a mark opens it)
                await asyncio.sleep(CONFIG.beat_s)
        after = await batch(running)
    check(path, before + after)


def pin(connection: Connection) -> None:
    connection.execute("INSERT INTO annotations (at, id, kind, value) VALUES (1, 'x', 'pin', '1')")


def count_pins(connection: Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM annotations").fetchone()
    return int(count)
