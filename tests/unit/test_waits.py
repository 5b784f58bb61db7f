"""``x-edge-store-wait``: the end is held for the replica, its slot is not, and it always leaves."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.daemon import rows
from support.responding import responding
from support.scripted import (
    DEADLINE_S,
    DONE,
    Caller,
    Recording,
    chat_body,
    chat_chunk,
    event,
    recording,
    replay,
)

import edge_store.recorder.waits
from edge_store.config import RecorderSection
from edge_store.errors import InvalidRequest, ReplicationError
from edge_store.result import NotReplicated

PATH = "/v1/responses"
STREAM = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
STREAMED = [event(chat_chunk("Hel")), event(chat_chunk("lo")), event(chat_chunk(finish="stop"))]


def wait(value: str = "replicated; timeout=20") -> list[tuple[bytes, bytes]]:
    return [(b"x-edge-store-wait", value.encode())]


class Replica:
    """A replica that gets further when it is told to."""

    def __init__(self) -> None:
        self.replicated_seq = 0
        self.hindered: NotReplicated | None = None
        self.syncs = 0
        self.asked = asyncio.Event()
        self._go = asyncio.Semaphore(0)
        self._failing = False

    async def sync(self, timeout_s: float) -> None:
        self.syncs += 1
        self.asked.set()
        await self._go.acquire()
        if self._failing:
            raise ReplicationError("the store does not answer")

    def let_sync(self, times: int = 1, *, failing: bool = False) -> None:
        """Let as many syncs end."""
        self._failing = failing
        for _ in range(times):
            self._go.release()

    async def until_asked(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.asked.wait()
        self.asked.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.recorder.waits, "PAUSE_S", 0.0)


def outcome(running: Recording, name: str) -> float:
    found = running.metrics.registry.get_sample_value(
        "edge_store_replica_waits_total", {"outcome": name}
    )
    return found or 0.0


async def test_a_plain_answer_is_held_until_it_is_replicated_and_holds_no_slot(path: Path) -> None:
    replica = Replica()
    config = RecorderSection(slots=1, beat_s=0.05)
    async with recording(path, replay([chat_body("hi")]), config=config, replica=replica) as here:
        caller = Caller()
        held = asyncio.create_task(here.ask(caller=caller, headers=wait()))
        await replica.until_asked()
        assert len(here.stored()) == 1, "it is committed before the wait"
        assert here.recorder.slots.in_flight == 0
        assert (await here.ask()).headers["x-edge-store-durability"] == "committed"
        assert caller.messages == []
        replica.let_sync()
        await held
        assert caller.headers["x-edge-store-durability"] == "replicated"
        assert "x-edge-store-not-replicated" not in caller.headers
        assert outcome(here, "replicated") == 1


async def test_a_streams_end_is_held_and_its_comment_says_which(path: Path) -> None:
    replica = Replica()
    async with recording(path, replay([*STREAMED, DONE], streamed=True), replica=replica) as here:
        caller = Caller()
        held = asyncio.create_task(here.ask(STREAM, caller=caller, headers=wait()))
        await replica.until_asked()
        assert b"lo" in caller.body
        assert b'"finish_reason": "stop"' not in caller.body
        replica.let_sync()
        await held
        (found,) = here.stored()
        mark = f": replicated id={found.result.id} seq={found.seq}\n\n".encode()
        assert caller.body.endswith(mark + STREAMED[-1] + DONE)


async def test_who_comes_while_a_sync_is_under_way_shares_the_next_one(path: Path) -> None:
    replica = Replica()
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(here.ask(headers=wait()))
            await replica.until_asked()
            others = [tasks.create_task(here.ask(headers=wait())) for _ in range(20)]
            async with asyncio.timeout(DEADLINE_S):
                await here.recorder.commits.past(20)
            replica.let_sync()
            await first
            await replica.until_asked()
            assert not any(other.done() for other in others), "their commits came after it began"
            replica.let_sync(2)
        assert replica.syncs in (2, 3), "one for all, or two where one was not yet there"


async def test_what_is_replicated_by_then_waits_for_nothing(path: Path) -> None:
    replica = Replica()
    replica.replicated_seq = 1
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        caller = await here.ask(headers=wait())
        assert caller.headers["x-edge-store-durability"] == "replicated"
        assert replica.syncs == 0


async def test_a_sync_that_fails_is_asked_for_again_until_the_timeout(path: Path) -> None:
    replica = Replica()
    replica.let_sync(3, failing=True)
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        caller = await here.ask(headers=wait("replicated; timeout=1"))
        assert replica.syncs == 4
        assert caller.status == 200
        assert caller.headers["x-edge-store-durability"] == "committed"
        assert caller.headers["x-edge-store-not-replicated"] == "timeout"
        assert json.loads(caller.body)["choices"][0]["message"]["content"] == "hi"
        stream = await here.ask(headers=wait("replicated;timeout=0"))
        assert stream.headers["x-edge-store-not-replicated"] == "timeout"


async def test_what_another_look_has_confirmed_goes_although_the_sync_fails(path: Path) -> None:
    replica = Replica()
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        held = asyncio.create_task(here.ask(headers=wait()))
        await replica.until_asked()
        replica.replicated_seq = 1
        replica.let_sync(failing=True)
        assert (await held).headers["x-edge-store-durability"] == "replicated"


@pytest.mark.parametrize("why", ["off", "taken", "paused", "unread", "busy"])
async def test_where_nothing_can_be_waited_for_the_answer_leaves_and_says_why(
    path: Path, why: str
) -> None:
    replica = None if why == "off" else Replica()
    config = RecorderSection(slots=1, beat_s=0.05)
    script = replay([*STREAMED, DONE], streamed=True)
    async with recording(path, script, config=config, replica=replica) as here:
        other = None
        if replica is not None:
            replica.hindered = None if why == "busy" else NotReplicated(why)
            if why == "busy":
                other = asyncio.create_task(here.ask(STREAM, headers=wait()))
                await replica.until_asked()
        caller = await here.ask(STREAM, headers=wait())
        (*_, found) = here.stored()
        mark = f": committed id={found.result.id} seq={found.seq} not-replicated={why}\n\n"
        assert mark.encode() in caller.body
        assert outcome(here, why) == 1
        if replica is not None and other is not None:
            replica.let_sync()
            await other


async def test_one_that_is_taken_while_it_waits_is_told(path: Path) -> None:
    replica = Replica()
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        held = asyncio.create_task(here.ask(headers=wait()))
        await replica.until_asked()
        replica.hindered = NotReplicated.TAKEN
        replica.let_sync(failing=True)
        assert (await held).headers["x-edge-store-not-replicated"] == "taken"


async def test_a_caller_that_leaves_gives_its_place_back(path: Path) -> None:
    replica = Replica()
    config = RecorderSection(slots=1, beat_s=0.05)
    async with recording(path, replay([chat_body("hi")]), config=config, replica=replica) as here:
        caller = Caller()
        held = asyncio.create_task(here.ask(caller=caller, headers=wait()))
        await replica.until_asked()
        caller.leave()
        await held
        assert outcome(here, "left") == 1
        assert [one.result.status.value for one in here.stored()] == ["completed"]
        replica.let_sync(2)
        again = await here.ask(headers=wait())
        assert again.headers["x-edge-store-durability"] == "replicated"


async def test_a_stop_waits_for_those_who_wait_and_a_cut_lets_them_go(path: Path) -> None:
    replica = Replica()
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        held = [asyncio.create_task(here.ask(headers=wait())) for _ in range(2)]
        await replica.until_asked()
        drained = asyncio.create_task(here.recorder.drained())
        replica.let_sync(2)
        answers = [await each for each in held]
        assert {each.headers["x-edge-store-durability"] for each in answers} == {"replicated"}
        async with asyncio.timeout(DEADLINE_S):
            await drained
        late = await here.ask(headers=wait())
        assert late.headers["x-edge-store-not-replicated"] == "stopping"


async def test_a_cut_lets_those_go_who_wait(path: Path) -> None:
    replica = Replica()
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        held = asyncio.create_task(here.ask(headers=wait()))
        await replica.until_asked()
        here.recorder.abort_all(ReplicationError("the stop cannot wait"))
        assert (await held).headers["x-edge-store-not-replicated"] == "stopping"


async def test_a_replayed_answer_is_held_too(path: Path) -> None:
    replica = Replica()
    key = (b"idempotency-key", b"one")
    async with recording(path, replay([chat_body("hi")]), replica=replica) as here:
        first = await here.ask(headers=[key])
        again = asyncio.create_task(here.ask(headers=[key, *wait()]))
        await replica.until_asked()
        assert not again.done()
        replica.let_sync()
        assert (await again).headers["x-edge-store-durability"] == "replicated"
        assert (await again).body == first.body
        assert len(here.engine.bodies) == 1


async def test_an_error_is_not_held(path: Path) -> None:
    replica = Replica()
    script = replay([b'{"error": "no"}'], status=400)
    async with recording(path, script, replica=replica) as here:
        caller = await here.ask(headers=wait())
        assert (caller.status, replica.syncs) == (400, 0)


@pytest.mark.parametrize(
    "value",
    [
        *("", "proven", "committed", "replicated; timeout", "replicated; timeout=", "replicated;"),
        *("replicated; timeout=-1", "replicated; timeout=1e3", "replicated; timeout=nan"),
        *("replicated; timeout=60.1", "replicated; within=3", "replicated, replicated"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused_before_anything_is_spent(
    path: Path, value: str
) -> None:
    async with recording(path, replay([chat_body("hi")]), replica=Replica()) as here:
        with pytest.raises(InvalidRequest, match="x-edge-store-wait"):
            await here.ask(headers=wait(value))
        assert here.engine.bodies == []
        assert here.stored() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_held_after_its_own_row_and_locks_nothing_meanwhile(
    path: Path,
    stream: bool,  # noqa: FBT001  (a case)
) -> None:
    replica = Replica()
    script: Any = replay([chat_body("hi")])
    if stream:
        script = replay([*STREAMED, DONE], streamed=True)
    async with responding(path, script, replica=replica) as here:
        replica.replicated_seq = 2**40  # of results: its own row may not be there yet
        made = json.loads((await here.ask("/v1/conversations", {})).body)["id"]
        body = {"model": "m", "input": "hello", "stream": stream, "conversation": made}
        async with here.call(PATH, body, headers=wait(), key=b"one") as call:
            await replica.until_asked()
            assert rows(path, "SELECT count(*) FROM responses") == [(1,)]
            assert b"response.completed" not in call.body
            other = await here.ask(PATH, body)
            assert other.status == 200, "the conversation is free"
            replica.let_sync()
            await call.ended()
        if stream:
            assert b"\n\n: replicated id=" in call.body
        else:
            assert dict(call.headers)[b"x-edge-store-durability"] == b"replicated"
        async with here.call(PATH, body, headers=wait(), key=b"one") as again:
            await replica.until_asked()
            replica.let_sync()
            await again.ended()
        assert dict(again.headers)[b"x-edge-store-durability"] == b"replicated"


async def test_a_response_in_the_background_has_no_answer_to_hold(path: Path) -> None:
    async with responding(path, replay([chat_body("hi")]), replica=Replica()) as here:
        body = {"model": "m", "input": "hello", "background": True}
        call = await here.ask(PATH, body, headers=wait())
        assert call.status == 400
        assert json.loads(call.body)["error"]["param"] == "background"
        call = await here.ask(PATH, {"model": "m", "input": "hello"}, headers=wait("soon"))
        assert call.status == 400
        assert here.running.engine.bodies == []


async def test_a_response_that_cannot_wait_says_why(path: Path) -> None:
    script = replay([*STREAMED, DONE], streamed=True)
    async with responding(path, script) as here:
        call = await here.ask(PATH, {"model": "m", "input": "hi", "stream": True}, headers=wait())
        *_, comment, last, _ = call.body.split(b"\n\n")
        assert comment.startswith(b": committed id=")
        assert comment.endswith(b" not-replicated=off")
        assert b"response.completed" in last
    async with responding(path.with_name("other.db"), replay([chat_body("hi")])) as here:
        plain = await here.ask(PATH, {"model": "m", "input": "hi"}, headers=wait())
        assert dict(plain.headers)[b"x-edge-store-not-replicated"] == b"off"
