"""One key, one run, one row: whoever asks again, meanwhile or later, gets the same bytes."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from support.golden import every_golden, golden
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

from edge_store.api.routes import GENERATING
from edge_store.config import RecorderSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import (
    AdmissionClosed,
    ClientDisconnected,
    DiskFull,
    EdgeStoreError,
    GenerationTimeout,
    IdempotencyConflict,
    InvalidRequest,
    RecorderFull,
    ShutDown,
    TenantOverShare,
)
from edge_store.recorder import idempotency
from edge_store.recorder.disk import Disk, DiskLevel
from edge_store.result import Status
from edge_store.sqlite import Connection, open_writer

KEY = (b"Idempotency-Key", b"once")
PLAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
STREAM: dict[str, Any] = {**PLAIN, "stream": True}
USAGE = {"model": "m", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 8}}
STREAMED = [
    event(chat_chunk("Hel")),
    event(chat_chunk("lo")),
    event(chat_chunk(finish="stop")),
    event(USAGE),
    DONE,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


async def ask(running: Recording, request: Any = PLAIN, **options: Any) -> Caller:
    return await running.ask(request, **{"headers": [KEY], **options})


def begin(running: Recording, **options: Any) -> tuple[Caller, asyncio.Task[Caller]]:
    caller = Caller()
    return caller, asyncio.create_task(ask(running, caller=caller, **options))


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110  (a counter tells nobody that it counted)
            await asyncio.sleep(0)


async def attached(running: Recording, number: int) -> None:
    """Wait until so many have waited for another."""
    await until(lambda: running.counted("attached") == number)


def assert_replayed(again: Caller, first: Caller) -> None:
    """The same answer under the same id and seq, and a header that says so."""
    assert again.body == first.body
    assert again.status == first.status
    assert again.headers.pop("idempotency-replayed") == "true"
    assert "idempotency-replayed" not in first.headers
    ours = [name for name in first.headers if name.startswith(("x-", "content-length"))]
    assert {"x-edge-store-id", "x-request-id", "x-edge-store-durability"} <= set(ours)
    assert {name: again.headers[name] for name in ours} == {n: first.headers[n] for n in ours}
    kind, kind_again = first.headers["content-type"], again.headers["content-type"]
    assert kind_again == kind.partition(";")[0]
    assert again.is_finished


@pytest.mark.parametrize("request_", [PLAIN, STREAM])
async def test_a_key_that_comes_again_gets_the_stored_answer(
    path: Path, request_: dict[str, Any]
) -> None:
    streamed = request_ is STREAM
    chunks = STREAMED if streamed else [chat_body("hello")]
    async with recording(path, replay(chunks, streamed=streamed)) as running:
        first = await ask(running, request_)
        again = await ask(running, request_)
        assert len(running.engine.bodies) == 1
        (found,) = running.stored()
        assert running.recorder.slots.admitted_upto == 1
        assert (running.counted("replayed"), running.counted("attached")) == (1, 0)
    assert_replayed(again, first)
    assert again.headers["x-edge-store-id"] == found.result.id
    if streamed:
        assert f": committed id={found.result.id} seq={found.seq}\n\n".encode() in again.body
        assert b"prompt_tokens" not in again.body, "usage was not asked for"
    else:
        assert again.headers["x-edge-store-seq"] == str(found.seq)


@pytest.mark.parametrize("name", every_golden())
async def test_a_real_answer_is_the_same_in_every_protocol(name: str, path: Path) -> None:
    given = golden(name)
    is_refused = "refused" in name or "too_long" in name
    status = 400 if "refused" in name else 200
    script = replay([given.answer], kind=given.kind, status=status)
    async with recording(path, script) as running:
        first = await ask(running, given.request, path=given.endpoint)
        again = await ask(running, given.request, path=given.endpoint)
        assert len(running.stored()) == len(running.engine.bodies) == (2 if is_refused else 1)
    if not is_refused:
        assert_replayed(again, first)


async def test_a_stored_answer_outlives_the_daemon(path: Path) -> None:
    async with recording(path, replay(STREAMED, streamed=True)) as running:
        first = await ask(running, STREAM)
    async with recording(path, replay([chat_body("never")])) as running:
        again = await ask(running, STREAM)
        assert running.engine.bodies == []
    assert_replayed(again, first)


async def test_a_long_stream_is_sent_in_pieces(path: Path) -> None:
    chunks = [event(chat_chunk("x" * 1000)) for _ in range(200)]
    script = replay([*chunks, STREAMED[2], DONE], streamed=True)
    async with recording(path, script) as running:
        first = await ask(running, STREAM)
        again = await ask(running, STREAM)
    assert_replayed(again, first)
    assert max(len(message.get("body", b"")) for message in again.messages) <= 128 * 1024


async def test_a_plain_answer_to_a_stream_is_plain_again(path: Path) -> None:
    async with recording(path, replay([chat_body("whole")])) as running:
        first = await ask(running, STREAM)
        again = await ask(running, STREAM)
    assert first.headers["content-type"] == "application/json"
    assert_replayed(again, first)


async def test_fifty_callers_with_one_key_are_one_run_and_one_row(path: Path) -> None:
    told = Told()
    async with recording(path, told) as running:
        begun = [begin(running, request=STREAM) for _ in range(50)]
        await attached(running, 49)
        (await told.begun(1)).set_result(replay(STREAMED, streamed=True))
        await asyncio.gather(*(task for _, task in begun))
        assert len(running.stored()) == len(told.runs) == 1
        assert running.recorder.slots.in_flight == 0
        assert (running.counted("replayed"), running.counted("attached")) == (49, 49)
    (first, _), *others = begun
    assert len(first.body) > 0
    for other, _ in others:
        assert_replayed(other, first)


async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ConnectionResetError("the engine died")


async def leave(_running: Recording, caller: Caller, _run: asyncio.Future[Any]) -> None:
    caller.leave()


async def die(_running: Recording, _caller: Caller, run: asyncio.Future[Any]) -> None:
    run.set_result(fail)


async def cut(running: Recording, _caller: Caller, _run: asyncio.Future[Any]) -> None:
    running.recorder.abort_all(ShutDown("the daemon stopped"))


@pytest.mark.parametrize(
    ("end", "status"),
    [(leave, Status.INCOMPLETE), (die, Status.FAILED), (cut, Status.CANCELLED)],
)
async def test_after_a_run_that_did_not_complete_the_next_in_line_runs(
    path: Path, end: Callable[..., Any], status: Status
) -> None:
    told = Told()
    async with recording(path, told) as running:
        first, leading = begin(running)
        run = await told.begun(1)
        others = [begin(running) for _ in range(3)]
        await attached(running, 3)
        await end(running, first, run)
        await leading
        (await told.begun(2)).set_result(replay([chat_body("hello")]))
        await asyncio.gather(*(task for _, task in others))
        stored = running.stored()
    assert [r.result.status for r in stored] == [status, Status.COMPLETED]
    second, *rest = [caller for caller, _ in others]
    assert second.body == chat_body("hello")
    for caller in rest:
        assert_replayed(caller, second)


async def test_a_failed_answer_is_not_given_again(path: Path) -> None:
    told = Told()
    async with recording(path, told) as running:
        _, failing = begin(running)
        (await told.begun(1)).set_result(fail)
        assert (await failing).status == 502
        other, task = begin(running, request=STREAM)  # nor does it bind its key to a body
        (await told.begun(2)).set_result(replay(STREAMED, streamed=True))
        await task
    assert other.status == 200


async def test_one_that_waits_may_leave_without_harm(path: Path) -> None:
    told = Told()
    async with recording(path, told) as running:
        first, leading = begin(running)
        run = await told.begun(1)
        (leaver, leaving), (stayer, staying), (_, cancelled) = (begin(running) for _ in range(3))
        await attached(running, 3)
        leaver.leave()
        cancelled.cancel()
        with pytest.raises(ClientDisconnected):
            await leaving
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not leading.done()
        run.set_result(replay([chat_body("hello")]))
        await asyncio.gather(leading, staying)
        assert len(running.stored()) == len(told.runs) == 1
    assert leaver.messages == []
    assert_replayed(stayer, first)


async def test_a_caller_that_has_left_does_not_run_in_the_others_place(path: Path) -> None:
    told = Told()
    async with recording(path, told) as running:
        first, leading = begin(running)
        await told.begun(1)
        waiter, waiting = begin(running)
        await attached(running, 1)
        first.leave()
        waiter.leave()
        await leading
        with pytest.raises(ClientDisconnected):
            await waiting
        assert len(told.runs) == 1
        third, task = begin(running)
        (await told.begun(2)).set_result(replay([chat_body("hello")]))
        await task
    assert third.status == 200


async def test_a_wait_is_no_longer_than_a_run_may_be(path: Path) -> None:
    told = Told()
    async with recording(path, told, engine_timeout_s=3) as running:
        _, leading = begin(running)
        run = await told.begun(1)
        locked = open_writer(path)  # no COMMIT can happen, so the run does not end
        locked.execute("BEGIN IMMEDIATE")
        try:
            run.set_result(replay([chat_body("hello")]))
            with pytest.raises(GenerationTimeout):
                await ask(running)
        finally:
            locked.close()
        assert (await leading).status == 200


async def test_no_more_wait_than_there_are_slots(path: Path) -> None:
    told = Told()
    async with recording(path, told, config=RecorderSection(slots=1, beat_s=0.05)) as running:
        _, leading = begin(running)
        run = await told.begun(1)
        _, waiting = begin(running)
        await attached(running, 1)
        with pytest.raises(RecorderFull) as refused:
            await ask(running)
        assert refused.value.retryable
        with pytest.raises(IdempotencyConflict):  # it would not wait
            await ask(running, {**PLAIN, "seed": 1})
        run.set_result(replay([chat_body("hello")]))
        await asyncio.gather(leading, waiting)


async def test_a_tenant_that_waits_much_leaves_places_for_others(path: Path) -> None:
    def headers(tenant: str) -> list[tuple[bytes, bytes]]:
        return [KEY, (b"authorization", tenant.encode())]

    told = Told()
    async with recording(path, told, config=RecorderSection(slots=10, beat_s=0.05)) as running:
        tasks = [begin(running, headers=headers("greedy"))[1]]
        runs = [await told.begun(1)]
        tasks += [begin(running, headers=headers("greedy"))[1] for _ in range(9)]
        await attached(running, 9)
        with pytest.raises(RecorderFull):  # alone it is over nobody's share
            await ask(running, headers=headers("greedy"))
        tasks.append(begin(running, headers=headers("small"))[1])
        runs.append(await told.begun(2))
        tasks.append(begin(running, headers=headers("small"))[1])
        await attached(running, 10)
        with pytest.raises(TenantOverShare):
            await ask(running, headers=headers("greedy"))
        for run in runs:
            run.set_result(replay([chat_body("hello")]))
        assert {caller.status for caller in await asyncio.gather(*tasks)} == {200}


async def test_an_answer_whose_caller_is_cancelled_during_its_commit_is_not_run_again(
    path: Path,
) -> None:
    told = Told()
    async with recording(path, told) as running:
        _, leading = begin(running)
        run = await told.begun(1)
        waiter, waiting = begin(running)
        await attached(running, 1)
        locked = open_writer(path)
        locked.execute("BEGIN IMMEDIATE")
        try:
            run.set_result(replay([chat_body("hello")]))
            await until(lambda: running.metrics.registry.get_sample_value("edge_store_queue_depth"))
            leading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leading
            assert not waiting.done()
        finally:
            locked.close()
        await waiting
        assert len(running.stored()) == len(told.runs) == 1
    assert waiter.body == chat_body("hello")
    assert waiter.headers["idempotency-replayed"] == "true"


def full(connection: Connection) -> Connection:
    """A file that may not grow: a true SQLITE_FULL at the first large row."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return connection


async def test_an_answer_that_was_not_committed_is_given_to_nobody(path: Path) -> None:
    told = Told()
    async with recording(path, told, connected=full) as running:
        first, leading = begin(running)
        run = await told.begun(1)
        waiter, waiting = begin(running)
        await attached(running, 1)
        run.set_result(replay([chat_body("x" * 100_000)]))
        await leading
        with pytest.raises(DiskFull):  # admission is closed: it cannot run instead
            await waiting
        assert running.stored() == []
    assert first.status == 507
    assert waiter.messages == []


@pytest.mark.parametrize(
    ("request_", "endpoint"),
    [(STREAM, "/v1/chat/completions"), ({**PLAIN, "prompt": "hello"}, "/v1/completions")],
)
@pytest.mark.parametrize("in_flight", [True, False])
async def test_a_key_of_another_request_is_refused(
    path: Path, request_: dict[str, Any], endpoint: str, *, in_flight: bool
) -> None:
    told = Told()
    async with recording(path, told) as running:
        _, leading = begin(running, request={**PLAIN, "prompt": "hello"})
        run = await told.begun(1)
        if not in_flight:
            run.set_result(replay([chat_body("hello")]))
            await leading
        with pytest.raises(IdempotencyConflict) as refused:
            await ask(running, request_, path=endpoint)
        assert (refused.value.http_status, refused.value.code) == (422, "idempotency_conflict")
        if in_flight:
            run.set_result(replay([chat_body("hello")]))
        await leading
        assert len(running.stored()) == len(told.runs) == 1


async def test_a_refused_request_does_not_refuse_the_right_one_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_look = threading.Event()
    find = idempotency.find_stored

    def find_late(*given: Any) -> Any:
        assert may_look.wait(DEADLINE_S)
        return find(*given)

    async with recording(path, replay([chat_body("hello")])) as running:
        first = await ask(running)
        monkeypatch.setattr(idempotency, "find_stored", find_late)
        _, wrong = begin(running, request=STREAM)
        await asyncio.sleep(0)
        right, asking = begin(running)
        await attached(running, 1)
        may_look.set()
        with pytest.raises(IdempotencyConflict):
            await wrong
        await asking
        assert len(running.engine.bodies) == 1
    assert_replayed(right, first)


def bearer(name: str) -> Iterable[tuple[bytes, bytes]]:
    return [KEY, (b"authorization", b"Bearer " + name.encode())]


async def test_each_tenant_has_keys_of_its_own(path: Path) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:
        asked = [await ask(running, headers=bearer("ann")), await ask(running)]
        asked += [await ask(running, headers=bearer("ben"))]
        assert len(running.stored()) == 3
        again = await ask(running, headers=bearer("ann"))
        assert_replayed(again, asked[0])
        assert_replayed(await ask(running), asked[1])
        assert len(running.stored()) == 3


@pytest.mark.parametrize("ttl_s", [3600.0, 0.0])
async def test_a_key_is_forgotten_in_time(
    path: Path, monkeypatch: pytest.MonkeyPatch, ttl_s: float
) -> None:
    config = RecorderSection(beat_s=0.05, idempotency_ttl_s=ttl_s)
    async with recording(path, replay([chat_body("hello")]), config=config) as running:
        first = await ask(running)
        (found,) = running.stored()
        now = found.result.created_at + round(ttl_s * 1000)
        monkeypatch.setattr("edge_store.recorder.idempotency.now_ms", lambda: now - 1)
        if ttl_s:
            assert_replayed(await ask(running), first)
        monkeypatch.setattr("edge_store.recorder.idempotency.now_ms", lambda: now)
        anew = await ask(running, STREAM)
        assert "idempotency-replayed" not in anew.headers
        assert len(running.stored()) == 2
        assert found.result.idempotency_key_hash is not None


async def test_an_answer_that_was_deleted_is_not_generated_again(path: Path) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:
        first = await ask(running)
        writer = open_writer(path)
        writer.execute("DELETE FROM requests")
        writer.close()
        with pytest.raises(IdempotencyConflict) as refused:
            await ask(running)
        assert first.headers["x-edge-store-id"] in str(refused.value)
        assert len(running.engine.bodies) == 1


async def test_an_answer_that_was_recorded_without_its_body_is_given_only_to_those_who_waited(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with recording(path, told) as running:
        first, leading = begin(running)
        run = await told.begun(1)
        waiter, waiting = begin(running)
        await attached(running, 1)
        monkeypatch.setattr(Disk, "level", DiskLevel.NO_BODIES)
        run.set_result(replay([chat_body("hello")]))
        await asyncio.gather(leading, waiting)
        with pytest.raises(IdempotencyConflict) as refused:
            await ask(running)
        assert first.headers["x-edge-store-id"] in str(refused.value)
        assert len(told.runs) == 1
    assert_replayed(waiter, first)


@pytest.mark.parametrize("key", [b"", b"k" * 256])
async def test_a_key_that_is_no_key_is_refused(path: Path, key: bytes) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:
        with pytest.raises(InvalidRequest, match="Idempotency-Key"):
            await ask(running, headers=[(b"idempotency-key", key)])
        assert running.recorder.slots.admitted_upto == 0
        longest = [(b"idempotency-key", b"k" * 255)]
        await ask(running, headers=longest)
        assert "idempotency-replayed" in (await ask(running, headers=longest)).headers


async def test_a_stored_answer_needs_no_admission(path: Path) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:
        first = await ask(running)
        running.recorder.slots.close(AdmissionClosed("the daemon is stopping"))
        assert_replayed(await ask(running), first)
        with pytest.raises(AdmissionClosed):
            await ask(running, headers=[(b"idempotency-key", b"new")])
        running.recorder.slots.open()
        assert (await ask(running, headers=[(b"idempotency-key", b"new")])).status == 200


async def test_a_key_whose_request_was_refused_is_free(path: Path) -> None:
    config = RecorderSection(slots=1, admission_timeout_s=0, beat_s=0.05)
    told = Told()
    async with recording(path, told, config=config) as running:
        _, leading = begin(running, headers=[])
        run = await told.begun(1)
        with pytest.raises(RecorderFull):
            await ask(running)
        run.set_result(replay([chat_body("hello")]))
        await leading
        _, task = begin(running)
        (await told.begun(2)).set_result(replay([chat_body("hello")]))
        assert (await task).status == 200


async def test_a_database_that_cannot_be_read_is_an_error_and_no_second_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:
        await ask(running)
        monkeypatch.setattr(
            "edge_store.recorder.idempotency.sql", lambda _name: "SELECT gone FROM nowhere"
        )
        with pytest.raises(EdgeStoreError, match="cannot be looked up"):
            await ask(running)
        assert len(running.engine.bodies) == 1
        monkeypatch.undo()
        assert "idempotency-replayed" in (await ask(running)).headers


@pytest.mark.parametrize("endpoint", sorted(GENERATING))
async def test_every_route_that_generates_knows_keys(path: Path, endpoint: str) -> None:
    """With an engine that does not have the route: its 404 is recorded, and not given again."""
    body = json.dumps({**PLAIN, "prompt": "hi", "text": "hi", "input": "hi"}).encode()
    async with recording(path, replay([b"{}"], status=404)) as running:
        await ask(running, body, path=endpoint)
        await ask(running, body, path=endpoint)
        hashes = {r.result.idempotency_key_hash for r in running.stored()}
        assert len(running.stored()) == 2
    assert len(hashes) == 1
    assert None not in hashes
