"""Whatever operation of the writer fails, for once or for good: what was acknowledged is stored."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.faults import Faults, faulty
from support.records import make_result
from support.scripted import (
    DEADLINE_S,
    Recording,
    chat_body,
    read_results,
    recording,
    replay,
)

from edge_store.chain import verify_chain
from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, DiskFull, EdgeStoreError, StoreError, WriterStopped
from edge_store.recorder import transactions
from edge_store.recorder.batch import ChainHead, read_head
from edge_store.recorder.transactions import InPieces
from edge_store.result import Output, Receipt, Result, Status
from edge_store.sqlite import Connection, check_integrity, driver, open_reader

SCRIPT = replay([chat_body("x")])
ROUNDS_MAX = 1000  # one with the fault; a slow machine may pass the short deadline of many more
PIECES = 2
OPERATIONS_MAX = 60  # more than any round takes; a sweep that reaches it does not end


async def until_admission_is(running: Recording, *, is_open: bool) -> None:
    slots = running.recorder.slots
    async with asyncio.timeout(DEADLINE_S):
        while (slots.closed is None) is not is_open:  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.005)


async def is_hit(running: Recording, faults: Faults) -> bool:
    """Whether the round had a fault: on a slow machine its callers may have left before the try."""
    async with asyncio.timeout(DEADLINE_S):
        while not faults.hits and running.writer._queue:  # noqa: ASYNC110  (as above)
            await asyncio.sleep(0.005)
    return faults.hits > 0


async def submitted(running: Recording, results: list[Result]) -> list[Receipt | EdgeStoreError]:
    """All at once, so that they share a COMMIT."""
    found = await asyncio.gather(
        *(running.writer.submit(result) for result in results), return_exceptions=True
    )
    assert all(isinstance(one, Receipt | EdgeStoreError) for one in found), found
    return found  # type: ignore[return-value]  # asserted above


def batch(running: Recording, first: int, *, with_data_error: bool) -> list[Result]:
    boot_id = running.boot.boot_id
    results = [make_result(first + n, boot_id) for n in range(3)]
    if with_data_error:
        results[1] = make_result(first + 1, boot_id, error_message="\ud800")
    return results


async def check_file(path: Path, acknowledged: dict[str, int], running: Recording) -> None:
    """acknowledged ⊆ stored, nothing twice, the chain holds, the writer knows the head: at once, or
    when the mark that is on its way is.
    """
    stored = read_results(path)
    ids = {recorded.result.id: recorded.seq for recorded in stored}
    assert len(ids) == len(stored)
    assert acknowledged.items() <= ids.items()
    reader = open_reader(path)
    try:
        assert check_integrity(reader, full=True) == "ok"
        async with asyncio.timeout(DEADLINE_S):
            while running.writer.head != checked_head(reader):  # noqa: ASYNC110  (as above)
                await asyncio.sleep(0.005)
    finally:
        reader.close()


def checked_head(reader: Connection) -> ChainHead:
    """Of one view of the file, whose chain is whole up to it."""
    reader.execute("BEGIN")
    try:
        check, head = verify_chain(reader), read_head(reader)
    finally:
        reader.execute("ROLLBACK")
    assert check.faults == ()
    assert check.newest_digest == head.digest
    return head


class Said(NamedTuple):
    number: int

    @property
    def is_done(self) -> bool:
        return self.number == PIECES


def say_twice(connection: Connection, id_: str, before: Said | None, _seconds: float) -> Said:
    number = 1 + (before.number if before else 0)
    for place in range(2):
        connection.execute(
            "INSERT INTO annotations (at, id, kind, value) VALUES (?, ?, 'metadata', '1')",
            (number * 2 + place, id_),
        )
    return Said(number)


SAYING = InPieces(say_twice)


async def check_changed(path: Path, changing: "asyncio.Future[Said]", faults: Faults) -> None:
    """Each piece is in whole or not at all; all of them, if that was said."""
    try:
        said: Said | None = await changing
    except StoreError:
        said = None
    assert said or faults.hits
    reader = open_reader(path)
    pieces = reader.execute("SELECT count(*) FROM annotations GROUP BY at / 2").fetchall()
    reader.close()
    assert all(count == 2 for (count,) in pieces)
    assert len(pieces) == PIECES if said else len(pieces) <= PIECES


async def one_round(
    path: Path, faults: Faults, *, with_data_error: bool, with_change: bool = False
) -> None:
    # what lasts is given up; what passes, except a full disk, is tried again and must succeed
    config = RecorderSection(beat_s=0.02, commit_timeout_s=0.1 if faults.lasting else DEADLINE_S)
    passes = not faults.lasting and faults.code != driver.SQLITE_FULL
    acknowledged: dict[str, int] = {}
    async with recording(path, SCRIPT, config=config, connected=faulty(faults)) as running:
        slots = running.recorder.slots
        for number in range(ROUNDS_MAX):
            held = [await slots.reserve() for _ in range(3)]
            results = batch(running, held[0].boot_seq, with_data_error=with_data_error)
            if with_change and number == 0:
                changing = asyncio.ensure_future(running.recorder.change(SAYING, "x"))
                await asyncio.sleep(0)  # it waits for them
            faults.is_armed = number == 0
            outcomes = await submitted(running, results)
            for slot in held:
                slots.release(slot)
            for result, outcome in zip(results, outcomes, strict=True):
                if isinstance(outcome, Receipt):
                    acknowledged[result.id] = outcome.seq
                else:
                    assert isinstance(outcome, StoreError)
                    assert not passes, outcome
            if number == 0 and faults.lasting and await is_hit(running, faults):
                if (
                    not with_change or len(acknowledged) < 3
                ):  # a change's own failure closes nothing
                    await until_admission_is(running, is_open=False)
                faults.mend()
            await until_admission_is(running, is_open=True)  # by the beat, without a request
            faults.mend()
            if number and len(acknowledged) >= 3:
                break
        assert len(acknowledged) >= 3, "after the fault everything is stored"
        if with_change:
            await check_changed(path, changing, faults)
        await check_file(path, acknowledged, running)


@pytest.mark.parametrize("kind", ["clean", "data_error", "change"])
@pytest.mark.parametrize("lasting", [False, True], ids=["passing", "lasting"])
@pytest.mark.parametrize(
    "code",
    [driver.SQLITE_FULL, driver.SQLITE_IOERR, driver.SQLITE_BUSY],
    ids=["full", "io", "busy"],
)
async def test_no_failing_operation_loses_or_doubles_a_result(
    tmp_path: Path,
    code: int,
    lasting: bool,  # noqa: FBT001
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``change``: one in pieces is under way beside them."""
    monkeypatch.setattr(transactions, "PIECE_EVERY_S", 0.001)
    for at in range(1, OPERATIONS_MAX):
        faults = Faults(code, at=at, lasting=lasting)
        await one_round(
            tmp_path / f"{at}.db",
            faults,
            with_data_error=kind == "data_error",
            with_change=kind == "change",
        )
        if not faults.hits:
            assert at > 6, "BEGIN, SAVEPOINT, three INSERTs, the mark and COMMIT at least"
            return
    pytest.fail(f"still a fault at operation {OPERATIONS_MAX}")


def page_limit(connection: Connection, extra: int | None) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {2**31 if extra is None else pages + extra}")


async def test_a_truly_full_database_closes_admission_and_opens_it_when_there_is_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.db"
    connections: list[Connection] = []

    def connected(connection: Connection) -> Connection:
        connections.append(connection)
        page_limit(connection, 2)
        return connection

    config = RecorderSection(beat_s=0.02)
    async with recording(path, SCRIPT, config=config, connected=connected) as running:
        slots = running.recorder.slots
        slot = await slots.reserve()
        text = "x" * 200_000
        outputs = (Output(choice_index=0, output_text=text),)
        result = make_result(slot.boot_seq, running.boot.boot_id, outputs=outputs)
        with pytest.raises(DiskFull) as full:
            await running.writer.submit(result)
        assert full.value.http_status == 507
        slots.release(slot)
        assert isinstance(slots.closed, DiskFull)
        with pytest.raises(DiskFull) as refused:
            await running.ask()
        assert "nothing was generated for it: the database's disk is full" in str(refused.value)
        assert "could not be committed" not in str(refused.value)
        assert running.engine.bodies == [], "refused before any GPU work"

        # only the writer's thread may touch its connection; the beat's own mark fits, so it opens
        await running.writer._connection.run(lambda connection: page_limit(connection, None))
        await until_admission_is(running, is_open=True)
        receipt = await running.writer.submit(result)
        assert isinstance(receipt, Receipt)
        await check_file(path, {result.id: receipt.seq}, running)


@pytest.mark.parametrize("code", [driver.SQLITE_IOERR, driver.SQLITE_BUSY], ids=["io", "busy"])
async def test_a_failure_that_passes_costs_no_caller_its_answer(tmp_path: Path, code: int) -> None:
    faults = Faults(code, at=1, lasting=True)
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, connected=faulty(faults)) as running:
        faults.is_armed = True
        asking = [asyncio.create_task(running.ask()) for _ in range(3)]
        await until_admission_is(running, is_open=False)
        with pytest.raises(StoreError):
            await running.ask()
        faults.mend()
        callers = await asyncio.gather(*asking)
        await until_admission_is(running, is_open=True)
        assert [caller.status for caller in callers] == [200] * 3
        acknowledged = {
            caller.headers["x-edge-store-id"]: int(caller.headers["x-edge-store-seq"])
            for caller in callers
        }
        await check_file(path, acknowledged, running)


async def test_a_failure_that_lasts_is_told_and_what_waited_leaves_the_queue(
    tmp_path: Path,
) -> None:
    faults = Faults(driver.SQLITE_IOERR, at=1, lasting=True)
    config = RecorderSection(commit_timeout_s=0.2, beat_s=0.02)
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, config=config, connected=faulty(faults)) as running:
        faults.is_armed = True
        caller = await running.ask()
        assert caller.status == 500
        assert caller.headers["x-edge-store-durability"] == "none"
        async with asyncio.timeout(DEADLINE_S):
            await running.recorder.slots.drained()
        faults.mend()
        await until_admission_is(running, is_open=True)
        await check_file(path, {}, running)
        assert running.stored() == []


async def test_a_failure_that_lasts_does_not_hold_up_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_store.recorder.writer.STOPPING_PATIENCE_S", 0.1)
    faults = Faults(driver.SQLITE_BUSY, at=1, lasting=True)
    config = RecorderSection(commit_timeout_s=3600, beat_s=0.02)
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, config=config, connected=faulty(faults)) as running:
        faults.is_armed = True
        asking = asyncio.create_task(running.ask())
        await until_admission_is(running, is_open=False)
        assert running.recorder.slots.in_flight == 1
        running.recorder.slots.close(AdmissionClosed("the daemon is stopping"))
        async with asyncio.timeout(DEADLINE_S):
            await running.recorder.slots.drained()  # what a drain waits for
            assert (await asking).status == 500
    assert running.stored() == []


async def test_a_failed_commit_does_not_open_a_recorder_that_drains(tmp_path: Path) -> None:
    faults = Faults(driver.SQLITE_IOERR, at=1, lasting=False)
    config = RecorderSection(beat_s=0.02)
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, config=config, connected=faulty(faults)) as running:
        slots = running.recorder.slots
        slot = await slots.reserve()
        slots.close(AdmissionClosed("the daemon is stopping"))
        faults.is_armed = True
        await running.writer.submit(make_result(slot.boot_seq, running.boot.boot_id), slot)
        assert faults.hits == 1, "the first try failed"
        assert isinstance(slots.closed, AdmissionClosed)


async def test_a_writer_that_has_ended_says_so(tmp_path: Path) -> None:
    async with recording(tmp_path / "results.db", SCRIPT) as running:
        pass
    with pytest.raises(WriterStopped):
        await running.writer.submit(make_result(1, running.boot.boot_id))


async def test_what_waits_is_committed_before_the_writer_ends(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT) as running:
        slot = await running.recorder.slots.reserve()
        future = running.writer.enqueue(make_result(slot.boot_seq, running.boot.boot_id))
        running.recorder.slots.release(slot)
    assert (await future).seq == 1
    assert len(read_results(path)) == 1


def too_deep() -> str:
    return "[" * 1001 + "]" * 1001


OFFENDERS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "surrogate in text": ({"request_model": "a\ud800b"}, "request_model", "a\\ud800b"),
    "surrogate in an output": (
        {"outputs": (Output(choice_index=0, output_text="x\udfffy"),)},
        "outputs",
        (Output(choice_index=0, output_text="x\\udfffy"),),
    ),
    "integer over 64 bits": ({"output_tokens": 2**64}, "output_tokens", None),
    "JSON that SQLite finds too deep": ({"metadata": too_deep()}, "metadata", None),
    "params that SQLite finds too deep": ({"params": too_deep()}, "params", "{}"),
}


@pytest.mark.parametrize("name", OFFENDERS)
async def test_a_data_error_costs_its_own_field_and_nothing_else(tmp_path: Path, name: str) -> None:
    fields, changed, stored_as = OFFENDERS[name]
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT) as running:
        slots = running.recorder.slots
        held = [await slots.reserve() for _ in range(3)]
        results = [make_result(slot.boot_seq, running.boot.boot_id) for slot in held]
        results[1] = make_result(2, running.boot.boot_id, **fields)
        outcomes = await submitted(running, results)
        for slot in held:
            slots.release(slot)
        assert [o.seq for o in outcomes if isinstance(o, Receipt)] == [1, 2, 3]
        stored = [recorded.result for recorded in read_results(path)]
        assert stored[0] == results[0]
        assert stored[2] == results[2]
        offender = stored[1]
        assert getattr(offender, changed) == stored_as
        assert offender.error_type == "field_not_storable"
        assert offender.error_message
        assert offender.status is Status.COMPLETED
        assert slots.closed is None, "one bad value is not the disk's fault"
        acknowledged: dict[str, int] = {o.id: o.seq for o in outcomes if isinstance(o, Receipt)}
        await check_file(path, acknowledged, running)


async def test_a_row_beyond_saving_fails_alone_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT) as running:
        slots = running.recorder.slots
        held = [await slots.reserve() for _ in range(3)]
        results = [make_result(slot.boot_seq, running.boot.boot_id) for slot in held]
        outputs = (Output(choice_index=2**64, output_text="x"),)  # NOT NULL: cannot be dropped
        results[1] = make_result(2, running.boot.boot_id, outputs=outputs)
        first, second, third = await submitted(running, results)
        for slot in held:
            slots.release(slot)
        assert isinstance(second, StoreError)
        assert isinstance(first, Receipt)
        assert isinstance(third, Receipt)
        assert (first.seq, third.seq) == (1, 2)
        assert [r.result.boot_seq for r in read_results(path)] == [1, 3]
        await check_file(path, {results[0].id: 1, results[2].id: 2}, running)


async def test_a_beat_marks_what_is_admitted_while_it_is_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    config = RecorderSection(beat_s=0.02)
    async with recording(path, SCRIPT, config=config) as running:
        slots = [await running.recorder.slots.reserve() for _ in range(3)]
        async with asyncio.timeout(DEADLINE_S):
            while completeness(path) != (3, 3, 0):  # noqa: ASYNC110  (what it waits for has no event)
                await asyncio.sleep(0.01)
        for slot in slots:
            running.recorder.slots.release(slot)


def completeness(path: Path) -> tuple[int, int, int]:
    reader = open_reader(path)
    try:
        (row,) = reader.execute("SELECT admitted, in_flight, completed FROM completeness")
    finally:
        reader.close()
    return (row[0], row[1], row[2])
