"""Responses over a scripted engine: what leaves when, what is kept, and who finds it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Call
from support.daemon import rows
from support.responding import Responding, responding
from support.scripted import DEADLINE_S, DONE, chat_body, chat_chunk, event, replay

import edge_store.api.background
import edge_store.responses.conversations
from edge_store.config import Config, ResponsesSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import IdempotencyConflict, KeyRevoked
from edge_store.ids import new_result_id
from edge_store.recorder.caller import Caller, RecordLevel, Right
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.responses.conversations import add_items, create
from edge_store.responses.store import Kept, accept, mend
from edge_store.sqlite import Connection, driver, open_writer

PATH = "/v1/responses"
STREAM = [event(chat_chunk("Hel")), event(chat_chunk("lo")), event(chat_chunk(finish="stop")), DONE]
ASKED = {"model": "m", "input": "hello"}
OWN = frozenset({Right.GENERATE, Right.READ_OWN})
ALICE, BOB = Caller(tenant="alice", rights=OWN), Caller(tenant="bob", rights=OWN)


class Failing:
    """A connection that has no room for one kind of statement."""

    def __init__(self, connection: Connection, begins: str) -> None:
        self._connection = connection
        self._begins = begins

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *args: Any) -> Any:
        if statement.startswith(self._begins):
            error = driver.OperationalError("database or disk is full")
            error.sqlite_errorcode = driver.SQLITE_FULL
            raise error
        return self._connection.execute(statement, *args)


def events_in(call: Call) -> list[dict[str, Any]]:
    parts = (part.split("data: ", 1) for part in call.body.decode().split("\n\n"))
    return [json.loads(part[1]) for part in parts if len(part) == 2]


def object_in(call: Call) -> dict[str, Any]:
    assert call.status == 200, call.body
    found: dict[str, Any] = json.loads(call.body)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


async def test_the_end_leaves_only_when_result_and_response_are_committed(path: Path) -> None:
    seen: list[tuple[bool, int, int]] = []

    async with responding(path, replay(STREAM, streamed=True)) as here:

        async def looked_at(scope: Scope, receive: Receive, send: Send) -> None:
            async def looking(message: Any) -> None:
                ((results, responses),) = rows(
                    path, "SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM responses)"
                )
                is_end = b"response.completed" in message.get("body", b"")
                seen.append((is_end, results, responses))
                await send(message)

            await here.app(scope, receive, looking)

        body = json.dumps({**ASKED, "stream": True}).encode()
        async with Call(looked_at, PATH, body=body) as call:
            await call.ended()
    assert [entry for entry in seen if entry[0]] == [(True, 1, 1)]
    assert seen[0] == (False, 0, 0)
    assert events_in(call)[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"


@pytest.mark.parametrize("begins", ["INSERT INTO results", "INSERT INTO responses"])
async def test_what_cannot_be_committed_ends_in_an_error_and_without_its_end(
    path: Path, begins: str
) -> None:
    script = replay(STREAM, streamed=True)
    async with responding(path, script, connected=lambda c: Failing(c, begins)) as here:
        call = await here.ask(PATH, {**ASKED, "stream": True})
        last = events_in(call)[-1]
        assert (last["type"], last["code"]) == ("error", "disk_full")
        assert b"response.completed" not in call.body
        assert call.is_complete


async def test_a_plain_answer_whose_response_cannot_be_kept_is_an_error(path: Path) -> None:
    script = replay([chat_body("Hello")])
    connected: Any = lambda c: Failing(c, "INSERT INTO responses")  # noqa: E731
    async with responding(path, script, connected=connected) as here:
        call = await here.ask(PATH, ASKED)
    assert call.status == 507
    assert b"Hello" not in call.body


async def test_a_stream_that_the_engine_answers_in_one_piece_is_a_stream(path: Path) -> None:
    async with responding(path, replay([chat_body("Hello")])) as here:
        call = await here.ask(PATH, {**ASKED, "stream": True})
    events = events_in(call)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert [each["sequence_number"] for each in events] == list(range(len(events)))


async def test_reasoning_is_an_item_before_the_message(path: Path) -> None:
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]}
    script = replay([event(chunk), *STREAM], streamed=True)
    async with responding(path, script) as here:
        streamed = events_in(await here.ask(PATH, {**ASKED, "stream": True}))
    reasoning, message = streamed[-1]["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Hello"
    kinds = [each["type"] for each in streamed]
    assert kinds[2:8] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]


async def test_a_caller_that_leaves_cancels_its_response(path: Path) -> None:
    left = asyncio.Event()

    async def forever(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    script = replay(STREAM[:1], streamed=True, then=forever)
    async with responding(path, script) as here:
        body = json.dumps({**ASKED, "stream": True}).encode()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            waiting = [await receive()]

            async def leaving() -> Any:
                if waiting:
                    return waiting.pop()
                await left.wait()
                return {"type": "http.disconnect"}

            await here.app(scope, leaving, send)

        async with Call(app, PATH, body=body) as call:
            while b"Hel" not in call.body:
                await call.next()
            created = events_in(call)[0]["response"]["id"]
            found = await here.ask(f"{PATH}/{created}", method="GET")
            assert object_in(found)["status"] == "in_progress"
            left.set()
            await call.ended()
        found = await here.ask(f"{PATH}/{created}", method="GET")
    assert b"response.completed" not in call.body
    shown = object_in(found)
    assert shown["status"] == "cancelled"
    assert shown["output"][0]["content"][0]["text"] == "Hel"
    assert rows(path, "SELECT status FROM results") == [("incomplete",)]


async def test_what_is_anothers_is_as_what_never_was(path: Path) -> None:
    async with responding(path, replay([chat_body("Hello")])) as here:
        made = object_in(await here.ask(PATH, ASKED, caller=ALICE))["id"]
        begun = object_in(await here.ask("/v1/conversations", {}, caller=ALICE))["id"]
        never = f"resp_{new_result_id()}", f"conv_{new_result_id()}"
        for given in (
            {"previous_response_id": "RESPONSE"},
            {"conversation": "CONVERSATION"},
        ):
            answers = []
            for response_id, conversation_id in ((made, begun), never):
                text = json.dumps({**ASKED, **given}).replace("RESPONSE", response_id)
                body = json.loads(text.replace("CONVERSATION", conversation_id))
                call = await here.ask(PATH, body, caller=BOB)
                said = call.body.decode().replace(response_id, "ID").replace(conversation_id, "ID")
                answers.append((call.status, said))
            assert answers[0] == answers[1]
            assert answers[0][0] in (400, 404)
        mine = {**ASKED, "previous_response_id": made, "conversation": None}
        assert (await here.ask(PATH, mine, caller=ALICE)).status == 200


async def test_what_is_not_recorded_in_full_is_not_kept(path: Path) -> None:
    meta = Caller(tenant="alice", rights=OWN, record_max=RecordLevel.META)
    async with responding(path, replay([chat_body("Hello")])) as here:
        made = object_in(await here.ask(PATH, ASKED, caller=meta))
        assert made["store"] is False
        found = await here.ask(f"{PATH}/{made['id']}", method="GET", caller=meta)
        assert found.status == 404
        call = await here.ask(PATH, {**ASKED, "background": True}, caller=meta)
        assert call.status == 400
    assert rows(path, "SELECT count(*) FROM responses") == [(0,)]


async def test_only_so_many_wait_in_the_background(path: Path) -> None:
    async def forever(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    config = Config(responses=ResponsesSection(background_tasks=1, background_max=2))
    async with responding(path, forever, settings=config) as here:
        calls = [await here.ask(PATH, {**ASKED, "background": True}) for _ in range(3)]
        assert [call.status for call in calls] == [200, 200, 503]
        assert b"recorder_full" in calls[2].body
        waiting = object_in(calls[1])["id"]
        cancelled = object_in(await here.ask(f"{PATH}/{waiting}/cancel"))
        assert cancelled["status"] == "cancelled"
        replayed = events_in(await here.ask(f"{PATH}/{waiting}?stream=true", method="GET"))
        kinds = [each["type"] for each in replayed]
        assert kinds == ["response.created", "response.queued", "response.incomplete"]
        assert (await here.ask(PATH, {**ASKED, "background": True})).status == 200
        for call in (calls[0], await here.ask(PATH, {**ASKED, "background": True})):
            if call.status == 200:
                await here.ask(f"{PATH}/{object_in(call)['id']}/cancel")


class FailingOnce(Failing):
    """As ``Failing``, the first time after ``is_armed``."""

    is_armed = True

    def execute(self, statement: str, *args: Any) -> Any:
        if self.is_armed and statement.startswith(self._begins):
            type(self).is_armed = False
            return super().execute(statement, *args)
        return self._connection.execute(statement, *args)


@pytest.fixture
def failing_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FailingOnce]]:
    monkeypatch.setattr(edge_store.api.background, "STORE_PAUSE_S", 0.001)
    FailingOnce.is_armed = True
    yield FailingOnce
    assert not FailingOnce.is_armed, "else nothing has failed"


async def ended(here: Responding, response_id: str) -> str:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            status = object_in(await here.ask(f"{PATH}/{response_id}", method="GET"))["status"]
            if status not in ("queued", "in_progress"):
                return str(status)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "begins", ["INSERT INTO response_events", "INSERT INTO conversation_entries"]
)
async def test_a_response_in_the_background_ends_though_the_disk_fails_once(
    path: Path, failing_once: type[FailingOnce], begins: str
) -> None:
    failing_once.is_armed = False
    script = replay([chat_body("Hello")])
    async with responding(path, script, connected=lambda c: failing_once(c, begins)) as here:
        conversation = object_in(await here.ask("/v1/conversations", {}))["id"]
        failing_once.is_armed = True
        asked = {**ASKED, "background": True, "conversation": conversation}
        made = object_in(await here.ask(PATH, asked))["id"]
        assert await ended(here, made) == "completed"
        items = await here.ask(f"/v1/conversations/{conversation}/items", method="GET")
        assert len(object_in(items)["data"]) == 2


async def test_a_response_is_cancelled_though_the_disk_fails_once(
    path: Path, failing_once: type[FailingOnce]
) -> None:
    async def forever(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    config = Config(responses=ResponsesSection(background_tasks=1))
    failing_once.is_armed = False
    connected: Any = lambda c: failing_once(c, "INSERT INTO response_events")  # noqa: E731
    async with responding(path, forever, settings=config, connected=connected) as here:
        asked = {**ASKED, "background": True}
        runs, waits = [object_in(await here.ask(PATH, asked))["id"] for _ in range(2)]
        async with asyncio.timeout(DEADLINE_S):
            while rows(path, "SELECT count(*) FROM response_events") == [(0,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        failing_once.is_armed = True
        assert (await here.ask(f"{PATH}/{waits}/cancel")).status == 507
        assert object_in(await here.ask(f"{PATH}/{runs}/cancel"))["status"] == "cancelled"
        assert await ended(here, waits) == "cancelled"


class Held:
    """An engine that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self.go.acquire()
        await replay([chat_body("Hello")])(scope, receive, send)

    async def has(self, number: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.asked < number:  # noqa: ASYNC110  (what it waits for has no event)
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("background", [False, True])
async def test_a_conversation_has_one_response_at_a_time(path: Path, *, background: bool) -> None:
    engine = Held()
    async with responding(path, engine) as here:
        name = object_in(await here.ask("/v1/conversations", {}, caller=ALICE))["id"]
        asked = {**ASKED, "conversation": name}
        first = here.call(PATH, {**asked, "background": background}, caller=ALICE)
        async with first:
            await engine.has(1)
            for also_background in (False, True):
                again = {**asked, "background": also_background}
                locked = await here.ask(PATH, again, caller=ALICE)
                error = json.loads(locked.body)["error"]
                told = (locked.status, error["code"], error["param"])
                assert told == (400, "conversation_locked", "conversation")
                assert locked.headers[b"x-should-retry"] == b"true"
                assert (await here.ask(PATH, again, caller=BOB)).status == 404
            engine.go.release()
            await first.ended()
            assert await ended(here, object_in(first)["id"]) == "completed"
        engine.go.release()
        async with asyncio.timeout(DEADLINE_S):
            while (await here.ask(PATH, asked, caller=ALICE)).status == 400:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        items = await here.ask(f"/v1/conversations/{name}/items", method="GET", caller=ALICE)
        assert len(object_in(items)["data"]) == 4


async def test_a_conversation_is_free_after_a_response_that_was_refused(path: Path) -> None:
    async with responding(path, replay([chat_body("Hello")])) as here:
        name = object_in(await here.ask("/v1/conversations", {}))["id"]
        for _ in range(2):
            refused = await here.ask(PATH, {"model": "m", "conversation": name})
            assert b"is needed" in refused.body
        assert (await here.ask(PATH, {**ASKED, "conversation": name})).status == 200


async def test_tenants_take_turns_in_the_background_and_what_waits_holds_no_events(
    path: Path,
) -> None:
    engine = Held()
    config = Config(responses=ResponsesSection(background_tasks=1, background_max=4))
    async with responding(path, engine, settings=config) as here:

        def asked(text: str) -> dict[str, Any]:
            return {"model": "m", "input": text, "background": True, "stream": True}

        calls = [here.call(PATH, asked(f"a{n}"), caller=ALICE) for n in range(3)]
        for call in calls:
            await call.__aenter__()
            await call.next()
        await engine.has(1)
        calls.append(here.call(PATH, asked("b"), caller=BOB))
        await calls[-1].__aenter__()
        await calls[-1].next()
        assert (await here.ask(PATH, asked("b"), caller=BOB)).status == 503
        for _ in calls:
            engine.go.release()
        for call in calls:
            await call.ended()
            kinds = [each["type"] for each in events_in(call)]
            assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
            numbers = [each["sequence_number"] for each in events_in(call)]
            assert numbers == list(range(len(kinds)))
            await call.__aexit__(None, None, None)
    bodies = [json.loads(body) for body in here.running.engine.bodies]
    assert [body["messages"][-1]["content"] for body in bodies] == ["a0", "a1", "b", "a2"]


async def everything_ended(path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while rows(path, "SELECT count(*) FROM open_responses") != [(0,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_comes_again_is_answered_with_the_same_bytes(
    path: Path, *, background: bool, stream: bool
) -> None:
    script = replay(STREAM, streamed=True) if stream else replay([chat_body("Hello")])
    asked = {**ASKED, "background": background, "stream": stream}
    async with responding(path, script) as here:
        first = await here.ask(PATH, asked, key=b"k", caller=ALICE)
        assert first.status == 200
        assert b"idempotency-replayed" not in first.headers
        if background:
            await everything_ended(path)
        again = await here.ask(PATH, asked, key=b"k", caller=ALICE)
        assert (again.status, again.body) == (200, first.body)
        assert again.headers[b"idempotency-replayed"] == b"true"
        for name in (b"x-edge-store-id", b"content-type"):
            assert again.headers[name].split(b";")[0] == first.headers[name].split(b";")[0]
        other = await here.ask(PATH, {**asked, "input": "another"}, key=b"k", caller=ALICE)
        assert other.status == 422
        assert len(here.running.engine.bodies) == 1
        assert (await here.ask(PATH, asked, key=b"k", caller=BOB)).status == 200
        assert (await here.ask(PATH, asked, key=b"n")).status == 200
        if background:
            await everything_ended(path)
        with pytest.raises(IdempotencyConflict, match="was used for /v1/responses"):
            await here.running.ask(headers=[(b"idempotency-key", b"n")])


@pytest.mark.parametrize("stream", [False, True])
async def test_who_brings_a_key_meanwhile_waits_for_the_answer(path: Path, *, stream: bool) -> None:
    engine = Held()
    asked = {**ASKED, "stream": stream}
    async with responding(path, engine) as here:
        conversation = object_in(await here.ask("/v1/conversations", {}))["id"]
        asked["conversation"] = conversation
        calls = [here.call(PATH, asked, key=b"k") for _ in range(3)]
        await calls[0].__aenter__()
        await engine.has(1)
        for call in calls[1:]:
            await call.__aenter__()
        assert (await here.ask(PATH, {**asked, "input": "other"}, key=b"k")).status == 422
        engine.go.release()
        for call in calls:
            await call.ended()
            assert (call.status, call.body) == (200, calls[0].body)
            await call.__aexit__(None, None, None)
    assert engine.asked == 1


async def test_a_key_without_a_whole_answer_is_free(path: Path) -> None:
    failing = replay([b'{"error": {"message": "no"}}'], status=500)
    async with responding(path, failing) as here:
        for _ in range(2):
            assert (await here.ask(PATH, ASKED, key=b"k")).status == 500
        refused = await here.ask(PATH, {**ASKED, "store": False}, key=b"k")
        assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "store")
        assert (await here.ask(PATH, ASKED, key=b"k" * 256)).status == 400
    assert len(here.running.engine.bodies) == 2


@pytest.mark.parametrize("what", [What.RESULT, What.CONTENT])
async def test_what_was_asked_goes_with_the_result_or_its_content(path: Path, what: What) -> None:
    async with responding(path, replay([chat_body("Hello")])) as here:
        made = object_in(await here.ask(PATH, ASKED))["id"]
    connection = open_writer(path)
    delete_results(connection, [1], Reason.RETENTION, what)
    connection.close()
    assert rows(path, "SELECT count(*) FROM responses WHERE id = ?", made[5:]) == [(0,)]


async def test_a_crash_before_a_response_has_its_place_in_the_conversation_is_mended(
    path: Path,
) -> None:
    async with responding(path, replay([chat_body("Hello")])) as here:
        change = here.running.recorder.change
        conversation = await change(create, ALICE, {}, [])
        made = object_in(await here.ask(PATH, ASKED, caller=ALICE))["id"]

        def cut_short(connection: Connection) -> None:
            connection.execute("DELETE FROM responses")
            kept = Kept(
                id=made[5:],
                created_at=1,
                caller=ALICE,
                background=True,
                conversation_id=conversation.id,
                previous_id=None,
                request=json.dumps(ASKED).encode(),
            )
            accept(connection, kept)

        await change(cut_short)
        target = f"/v1/conversations/{conversation.id}/items"
        assert object_in(await here.ask(target, method="GET", caller=ALICE))["data"] == []
        await change(mend)
        await change(mend)
        found = object_in(await here.ask(target, method="GET", caller=ALICE))["data"]
        assert [item["role"] for item in found] == ["assistant", "user"]
        with pytest.raises(Exception, match="no conversation"):
            await change(add_items, conversation.id, BOB, [])


async def test_a_response_of_a_conversation_that_is_deleted_meanwhile_is_kept(path: Path) -> None:
    here: Responding
    script_here: list[Any] = []

    async def deleting(scope: Scope, receive: Receive, send: Send) -> None:
        target = f"/v1/conversations/{script_here[0]}"
        assert (await here.ask(target, method="DELETE")).status == 200
        await replay([chat_body("Hello")])(scope, receive, send)

    async with responding(path, deleting) as here:
        script_here.append(object_in(await here.ask("/v1/conversations", {}))["id"])
        answer = object_in(await here.ask(PATH, {**ASKED, "conversation": script_here[0]}))
        assert answer["status"] == "completed"
        assert object_in(await here.ask(f"{PATH}/{answer['id']}", method="GET")) == answer


async def test_a_response_that_waits_fails_where_its_key_is_over(path: Path) -> None:
    keyed = Caller(tenant="alice", rights=OWN, key_id="key_1")

    def shut_out(_caller: Caller) -> KeyRevoked:
        return KeyRevoked("revoked")

    async with responding(path, replay([chat_body("Hello")]), shut_out=shut_out) as here:
        made = object_in(await here.ask(PATH, {**ASKED, "background": True}, caller=keyed))
        one = f"{PATH}/{made['id']}"
        async with here.call(f"{one}?stream=true", method="GET", caller=keyed) as following:
            await following.ended()
        shown = object_in(await here.ask(one, method="GET", caller=keyed))
        assert (shown["status"], shown["error"]["message"]) == ("failed", "revoked")
    assert rows(path, "SELECT count(*) FROM results") == [(0,)], "the engine was not asked"


async def test_a_context_that_takes_too_long_to_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with responding(path, replay([chat_body("Hello")])) as here:
        made = object_in(await here.ask(PATH, ASKED))
        monkeypatch.setattr(edge_store.responses.conversations, "CONTEXT_SECONDS_MAX", -1.0)
        call = await here.ask(PATH, {**ASKED, "previous_response_id": made["id"]})
        error = json.loads(call.body)["error"]
        assert (call.status, error["param"]) == (400, "previous_response_id")
        assert "begin a new one" in error["message"]
