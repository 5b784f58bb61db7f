"""Every way a request can go becomes a row, and the end waits for its COMMIT."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.scripted import (
    CHAT,
    DEADLINE_S,
    DONE,
    Caller,
    chat_body,
    chat_chunk,
    event,
    recording,
    replay,
)

from edge_store.api.routes import GENERATING
from edge_store.config import RecorderSection
from edge_store.engine import ASGIMessage, Receive, Scope, Send
from edge_store.errors import EngineCrashed, InvalidRequest, RecorderFull, ShutDown
from edge_store.recorder.transcript.openai import ChatDialect
from edge_store.result import Recorded, Status
from edge_store.sqlite import Connection, open_writer

STREAM = {"messages": [{"role": "user", "content": "secret prompt"}], "stream": True}
STREAMED = [event(chat_chunk("Hel")), event(chat_chunk("lo")), event(chat_chunk(finish="stop"))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


async def forever(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


def hanging_stream(text: str = "Hel") -> Any:
    return replay([event(chat_chunk(text))], streamed=True, then=forever)


def only(recorded: list[Recorded]) -> Recorded:
    (one,) = recorded
    return one


@contextmanager
def write_locked(path: Path) -> Iterator[Connection]:
    """No COMMIT can happen meanwhile: another connection holds SQLite's write lock."""
    connection = open_writer(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.close()


async def test_a_plain_answer_is_committed_before_it_leaves(path: Path) -> None:
    body = chat_body("hello")
    async with recording(path, replay([body])) as running:
        with write_locked(path) as locked:
            caller = Caller()
            asking = asyncio.create_task(running.ask(caller=caller))
            async with asyncio.timeout(DEADLINE_S):
                await running.engine.called.wait()
            for _ in range(50):  # the loop is free: whatever could leave would leave now
                await asyncio.sleep(0.002)
            assert caller.messages == []
            assert running.stored() == []
            locked.execute("ROLLBACK")
            await asking
        found = only(running.stored())
    assert caller.status == 200
    assert caller.body == body
    assert caller.headers["x-edge-store-id"] == found.result.id == caller.headers["x-request-id"]
    assert caller.headers["x-edge-store-durability"] == "committed"
    assert caller.headers["x-edge-store-seq"] == str(found.seq)
    assert found.result.status is Status.COMPLETED
    assert found.result.outputs[0].output_text == "hello"
    assert found.result.content.response_body == body
    assert (found.result.input_tokens, found.result.output_tokens) == (3, 2)
    assert found.result.http_status == 200
    assert found.result.first_token_at is None


async def test_a_streams_end_waits_for_its_commit(path: Path) -> None:
    async with recording(path, replay([*STREAMED, DONE], streamed=True)) as running:
        with write_locked(path) as locked:
            caller = Caller()
            asking = asyncio.create_task(running.ask(STREAM, caller=caller))
            await caller.wait_for(b"lo")
            for _ in range(50):
                await asyncio.sleep(0.002)
            assert caller.body == b"".join(STREAMED[:2])
            locked.execute("ROLLBACK")
            await asking
        found = only(running.stored())
    mark = f": committed id={found.result.id} seq={found.seq}\n\n".encode()
    assert caller.body == b"".join(STREAMED[:2]) + mark + STREAMED[2] + DONE
    assert caller.headers["x-edge-store-durability"] == "on-end"
    assert caller.is_finished
    assert found.result.status is Status.COMPLETED
    assert found.result.outputs[0].output_text == "Hello"
    assert found.result.ttft_ms is not None
    assert 0 <= found.result.ttft_ms <= found.result.latency_ms


async def test_a_caller_that_leaves_has_its_partial_text_recorded(path: Path) -> None:
    async with recording(path, hanging_stream()) as running:
        caller = Caller()
        asking = asyncio.create_task(running.ask(STREAM, caller=caller))
        await caller.wait_for(b"Hel")
        caller.leave()
        await asking
        found = only(running.stored()).result
        assert found.id in running.engine.aborted
    assert found.status is Status.INCOMPLETE
    assert (found.error_type, found.http_status) == ("client_disconnected", 499)
    assert found.outputs[0].output_text == "Hel"
    assert caller.body == event(chat_chunk("Hel")), "one that has left is sent nothing"


async def test_an_engine_that_raises_is_recorded_as_failed(path: Path) -> None:
    async def crash(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise EngineCrashed("the scheduler died")

    async with recording(path, crash) as running:
        caller = await running.ask()
        found = only(running.stored()).result
    assert caller.status == 502
    assert json.loads(caller.body)["error"]["code"] == "engine_crashed"
    assert caller.headers["x-edge-store-durability"] == "committed"
    assert found.status is Status.FAILED
    assert (found.error_type, found.error_message) == ("engine_crashed", "the scheduler died")
    assert found.outputs == ()


async def test_what_a_foreign_engine_raises_is_its_fault(path: Path) -> None:
    async def crash(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("oops")

    async with recording(path, crash) as running:
        caller = await running.ask()
        found = only(running.stored()).result
    assert caller.status == 502
    assert found.error_type == "engine_error"
    assert "KeyError" in (found.error_message or "")


async def test_an_engines_own_error_passes_through_unchanged(path: Path) -> None:
    body = b'{"error": {"message": "too long", "code": 400}}'
    async with recording(path, replay([body], status=400)) as running:
        caller = await running.ask()
        found = only(running.stored()).result
    assert (caller.status, caller.body) == (400, body)
    assert found.status is Status.FAILED
    assert (found.http_status, found.error_type) == (400, "engine_refused")
    assert "too long" in (found.error_message or "")


async def test_a_stream_that_stops_early_ends_with_an_error_and_no_terminal(path: Path) -> None:
    async with recording(path, replay(STREAMED[:2], streamed=True)) as running:
        caller = await running.ask(STREAM)
        found = only(running.stored()).result
    assert found.status is Status.FAILED
    assert found.error_type == "upstream_error"
    assert found.outputs[0].output_text == "Hello"
    end = caller.body.removeprefix(b"".join(STREAMED[:2]))
    assert end.startswith(b": committed ")
    assert b'"code":"upstream_error"' in end
    assert b"[DONE]" not in end
    assert b"finish_reason" not in end


async def test_an_engine_that_dies_mid_stream_is_recorded_with_what_it_said(path: Path) -> None:
    async def die(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ConnectionResetError("gone")

    async with recording(path, replay(STREAMED[:1], streamed=True, then=die)) as running:
        caller = await running.ask(STREAM)
        found = only(running.stored()).result
    assert found.status is Status.FAILED
    assert found.outputs[0].output_text == "Hel"
    assert b'"code":"engine_error"' in caller.body


async def test_a_generation_that_takes_too_long_is_cut(path: Path) -> None:
    async with recording(path, hanging_stream(), engine_timeout_s=0.1) as running:
        caller = await running.ask(STREAM)
        found = only(running.stored()).result
        assert running.engine.aborted == [found.id]
    assert found.status is Status.FAILED
    assert found.error_type == "generation_timeout"
    assert b'"code":"generation_timeout"' in caller.body
    assert b"[DONE]" not in caller.body


async def test_a_plain_generation_that_takes_too_long_is_answered_504(path: Path) -> None:
    async with recording(path, forever, engine_timeout_s=0.1) as running:
        caller = await running.ask()
        found = only(running.stored()).result
    assert caller.status == 504 == found.http_status


async def test_a_stop_of_the_daemon_is_recorded_as_cancelled(path: Path) -> None:
    async with recording(path, hanging_stream()) as running:
        caller = Caller()
        asking = asyncio.create_task(running.ask(STREAM, caller=caller))
        await caller.wait_for(b"Hel")
        running.recorder.abort_all(ShutDown("the daemon stopped"))
        await asking
        found = only(running.stored()).result
        assert found.id in running.engine.aborted
    assert found.status is Status.CANCELLED
    assert found.error_type == "shut_down"
    assert b'"code":"shut_down"' in caller.body


async def test_a_stream_cut_before_its_head_has_left_is_answered_as_an_error(path: Path) -> None:
    """A caller that reads nothing yet takes no head: the first message must be one all the same."""

    class Slow(Caller):
        takes = asyncio.Event()

        async def send(self, message: ASGIMessage) -> None:
            await self.takes.wait()
            await super().send(message)

    async with recording(path, hanging_stream()) as running:
        caller = Slow()
        asking = asyncio.create_task(running.ask(STREAM, caller=caller))
        async with asyncio.timeout(DEADLINE_S):
            await running.engine.called.wait()
        running.recorder.abort_all(ShutDown("the daemon stopped"))
        await asyncio.sleep(0)
        caller.takes.set()
        await asking
        found = only(running.stored()).result
    assert found.status is Status.CANCELLED
    assert caller.messages[0]["type"] == "http.response.start"
    assert (caller.status, caller.is_finished) == (503, True)


async def test_a_cancelled_request_is_recorded_and_aborted(path: Path) -> None:
    async with recording(path, hanging_stream()) as running:
        caller = Caller()
        asking = asyncio.create_task(running.ask(STREAM, caller=caller))
        await caller.wait_for(b"Hel")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(DEADLINE_S):
            await running.recorder.slots.drained()
    found = only(running.stored()).result
    assert found.id in running.engine.aborted
    assert found.status is Status.CANCELLED
    assert found.outputs[0].output_text == "Hel"


async def test_a_request_cancelled_during_its_commit_is_stored_all_the_same(path: Path) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:
        with write_locked(path) as locked:
            asking = asyncio.create_task(running.ask())
            async with asyncio.timeout(DEADLINE_S):
                await running.engine.called.wait()
            for _ in range(10):
                await asyncio.sleep(0.002)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            locked.execute("ROLLBACK")
    found = only(running.stored()).result
    assert found.status is Status.COMPLETED
    assert found.outputs[0].output_text == "hello"


def cannot_commit(connection: Connection) -> Connection:
    """A file that may not grow: a true SQLITE_FULL at the first large row."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return connection


LONG = "x" * 100_000


async def test_a_stream_whose_commit_fails_has_no_terminal_event(path: Path) -> None:
    script = replay([event(chat_chunk(LONG)), STREAMED[2], DONE], streamed=True)
    async with recording(path, script, connected=cannot_commit) as running:
        caller = await running.ask(STREAM)
        assert running.stored() == []
    assert b'"code":"disk_full"' in caller.body
    assert b"[DONE]" not in caller.body
    assert b'"stop"' not in caller.body
    assert b": committed" not in caller.body
    assert caller.is_finished


async def test_a_plain_answer_whose_commit_fails_is_answered_507(path: Path) -> None:
    script = replay([chat_body(LONG)])
    async with recording(path, script, connected=cannot_commit) as running:
        caller = await running.ask()
    assert caller.status == 507
    assert caller.headers["x-edge-store-durability"] == "none"
    assert "x-edge-store-seq" not in caller.headers
    assert "retry-after" in caller.headers
    assert LONG.encode() not in caller.body


async def test_an_answer_that_is_too_large_is_cut(path: Path) -> None:
    config = RecorderSection(response_bytes_max=2048, beat_s=0.05)
    chunks = [event(chat_chunk("y" * 500)) for _ in range(10)]
    script = replay(chunks, streamed=True)
    async with recording(path, script, config=config) as running:
        caller = await running.ask(STREAM)
        found = only(running.stored()).result
        assert found.id in running.engine.aborted
    assert found.status is Status.FAILED
    assert found.error_type == "response_too_large"
    assert 0 < len(found.outputs[0].output_text) <= 2048
    assert len(found.content.response_body) <= 2048
    assert b'"code":"response_too_large"' in caller.body


async def test_a_full_recorder_refuses_before_the_engine_is_asked(path: Path) -> None:
    config = RecorderSection(slots=1, admission_timeout_s=0.05, beat_s=0.05)
    async with recording(path, hanging_stream(), config=config) as running:
        first = Caller()
        asking = asyncio.create_task(running.ask(STREAM, caller=first))
        await first.wait_for(b"Hel")
        with pytest.raises(RecorderFull) as refused:
            await running.ask()
        assert (refused.value.http_status, refused.value.retryable) == (503, True)
        assert len(running.engine.bodies) == 1
        first.leave()
        await asking
        assert [r.result.boot_seq for r in running.stored()] == [1]


async def test_our_id_takes_the_place_of_the_callers_rid(path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "hi"}], "rid": "mine", "user": "ann"}
    async with recording(path, replay([chat_body("x")])) as running:
        await running.ask(request)
        found = only(running.stored()).result
        (sent,) = running.engine.bodies
    assert json.loads(sent) == {**request, "rid": found.id}
    assert found.caller_rid == "mine"
    assert found.user_id == "ann"
    assert found.content.request_body == json.dumps(request).encode()


async def test_the_callers_bytes_are_kept_where_a_key_is_added(path: Path) -> None:
    body = b' { "messages" : [ {"role":"user","content":"\\u00e9"} ] , "temperature":0.10 }'
    async with recording(path, replay([chat_body("x")])) as running:
        await running.ask(body)
        found = only(running.stored()).result
        (sent,) = running.engine.bodies
        headers = dict(running.engine.scopes[0]["headers"])
    assert sent.endswith(body.lstrip()[1:].lstrip())
    assert json.loads(sent) == {**json.loads(body), "rid": found.id}
    assert headers[b"content-length"] == str(len(sent)).encode()
    assert found.content.request_body == body


async def test_an_engine_is_told_that_it_need_not_watch_the_caller(path: Path) -> None:
    async with recording(path, replay([chat_body("x")])) as running:
        await running.ask(b'{"messages": []}')
        assert running.engine.scopes[0]["asgi"]["spec_version"] == "2.4"


async def test_an_engine_without_rid_gets_the_callers_bytes(path: Path) -> None:
    body = b'{"messages": []}'
    async with recording(path, replay([chat_body("x")]), takes_rid=False) as running:
        await running.ask(body, headers=[(b"Accept-Encoding", b"gzip"), (b"x-mine", b"1")])
        assert running.engine.bodies == [body]
        names = {name.lower() for name, _ in running.engine.scopes[0]["headers"]}
    assert b"accept-encoding" not in names
    assert b"x-mine" in names


USAGE = {"model": "m", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 8}}


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_always_counted_and_shown_if_asked_for(path: Path, asked: bool) -> None:  # noqa: FBT001
    request = {**STREAM, **({"stream_options": {"include_usage": True}} if asked else {})}
    script = replay([*STREAMED, event(USAGE), DONE], streamed=True)
    async with recording(path, script) as running:
        caller = await running.ask(request)
        found = only(running.stored()).result
        assert json.loads(running.engine.bodies[0])["stream_options"] == {"include_usage": True}
    assert (b"prompt_tokens" in caller.body) is asked
    assert (found.input_tokens, found.output_tokens) == (9, 8)
    assert b"prompt_tokens" in found.content.response_body


async def test_a_streams_own_framing_is_dropped(path: Path) -> None:
    chunks = [*STREAMED, DONE]
    length = (b"Content-Length", str(sum(map(len, chunks))).encode())
    script = replay(chunks, streamed=True, headers=[length, (b"x-engine", b"1")])
    async with recording(path, script) as running:
        caller = await running.ask(STREAM)
    assert "Content-Length" not in caller.headers, "our comment makes it longer"
    assert caller.headers["x-engine"] == "1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b'{"messages": NaN}',
        b'{"messages": "\xff"}',
        b'{"messages": []',
        b'{"messages": {}}',
        b'{"messages": [], "n": 0}',
        b'{"messages": [], "stream": "yes"}',
        b'{"messages": [], "metadata": []}',
        b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
async def test_a_body_that_is_no_request_is_refused_before_admission(
    path: Path, body: bytes
) -> None:
    async with recording(path, replay([chat_body("x")])) as running:
        with pytest.raises(InvalidRequest) as refused:
            await running.ask(body)
        assert refused.value.http_status == 400
        assert running.recorder.slots.admitted_upto == 0
        assert running.engine.bodies == []


@pytest.mark.parametrize("size", [100, 300 * 1024])
async def test_a_large_body_is_read_beside_the_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    threads: list[int] = []
    ask = ChatDialect.ask

    def noting(dialect: ChatDialect, request: dict[str, Any]) -> Any:
        threads.append(threading.get_ident())
        return ask(dialect, request)

    monkeypatch.setattr(ChatDialect, "ask", noting)
    request = {"messages": [{"role": "user", "content": "x" * size}]}
    async with recording(path, replay([chat_body("x")])) as running:
        await running.ask(request)
        found = only(running.stored()).result
    (thread,) = threads
    assert (thread == threading.get_ident()) is (size < 256 * 1024)
    assert found.request_fingerprint == hashlib.sha256(json.dumps(request).encode()).digest()


async def test_a_large_body_that_is_no_request_is_refused(path: Path) -> None:
    async with recording(path, replay([chat_body("x")])) as running:
        with pytest.raises(InvalidRequest):
            await running.ask(b"[" * (1 << 20))
        assert running.recorder.slots.admitted_upto == 0


async def test_however_deep_a_body_is_it_is_refused_or_recorded(path: Path) -> None:
    async with recording(path, replay([chat_body("x")])) as running:
        refused = 0
        for depth in range(700, 1100, 25):
            nested = b"[" * depth + b"]" * depth
            try:
                await running.ask(b'{"messages": [], "stream_options": null, "x": ' + nested + b"}")
            except InvalidRequest:
                refused += 1
        admitted = running.recorder.slots.admitted_upto
        assert admitted + refused == 16
        assert refused > 0
        assert [r.result.boot_seq for r in running.stored()] == list(range(1, admitted + 1))


async def test_a_defect_after_admission_is_a_row_and_an_error_with_its_id(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recording(path, replay([chat_body("hello")])) as running:

        async def broken(_entry: object) -> None:
            raise ExceptionGroup("unhandled errors", [ZeroDivisionError("the part that broke")])

        monkeypatch.setattr(running.recorder, "_outcome", broken)
        caller = await running.ask()
        assert running.recorder.slots.in_flight == 0
    found = only(running.stored()).result
    assert (found.status, found.error_type) == (Status.FAILED, "internal_error")
    assert found.error_message == "the recorder failed: ZeroDivisionError: the part that broke"
    assert found.outputs[0].output_text == "hello"
    assert (caller.status, found.http_status) == (500, 500)
    assert json.loads(caller.body)["error"]["code"] == "internal_error"
    assert caller.headers["x-edge-store-id"] == found.id
    assert caller.headers["x-edge-store-durability"] == "committed"


async def test_a_defect_in_the_reader_still_leaves_a_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_reader: object) -> None:
        raise ZeroDivisionError

    dialect = GENERATING[CHAT]
    monkeypatch.setattr(dialect.reader(dialect.ask({"messages": []})).__class__, "reading", broken)
    async with recording(path, replay([*STREAMED, DONE], streamed=True)) as running:
        caller = await running.ask(STREAM)
        monkeypatch.undo()
        found = only(running.stored()).result
        assert running.recorder.slots.in_flight == 0
    assert (found.status, found.error_type) == (Status.FAILED, "internal_error")
    assert found.content.response_body == b"".join([*STREAMED, DONE])
    assert b'"code":"internal_error"' in caller.body
    assert b"[DONE]" not in caller.body


@pytest.mark.parametrize("part", ["Exchange", "Entry"])
async def test_a_defect_before_admission_takes_no_slot(
    path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def broken(*_args: object, **_fields: object) -> None:
        raise ZeroDivisionError

    async with recording(path, replay([chat_body("hello")])) as running:
        monkeypatch.setattr(f"edge_store.recorder.app.{part}", broken)
        with pytest.raises(ZeroDivisionError):
            await running.ask()
        slots = running.recorder.slots
        assert (slots.in_flight, slots.admitted_upto) == (0, 0)


async def test_the_canonical_event_names_the_row_and_carries_no_text(path: Path) -> None:
    with capture_logs() as logs:
        async with recording(path, replay([chat_body("secret answer")])) as running:
            await running.ask({"messages": [{"role": "user", "content": "secret prompt"}]})
            found = only(running.stored())
    (committed,) = [entry for entry in logs if entry["event"] == "result_committed"]
    assert (committed["id"], committed["seq"]) == (found.result.id, found.seq)
    assert committed["status"] == "completed"
    assert "secret" not in repr(logs)


async def test_what_the_headers_say_is_recorded(path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = [
        (b"traceparent", f"00-{trace}-b7ad6b7169203331-01".encode()),
        (b"Idempotency-Key", b"once"),
    ]
    async with recording(path, replay([chat_body("x")])) as running:
        await running.ask(headers=headers)
        found = only(running.stored()).result
    assert found.trace_id == trace
    assert found.idempotency_key_hash is not None


async def test_many_at_once_are_all_stored_in_few_commits(path: Path) -> None:
    async with recording(path, replay([chat_body("x")])) as running:
        callers = await asyncio.gather(*(running.ask() for _ in range(200)))
        stored = running.stored()
    assert {c.headers["x-edge-store-id"] for c in callers} == {r.result.id for r in stored}
    assert sorted(r.result.boot_seq for r in stored) == list(range(1, 201))
    assert [r.seq for r in stored] == list(range(1, 201))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("takes_rid", [False, True])
async def test_an_id_of_the_engines_own_is_kept_where_it_is_another(
    path: Path, *, takes_rid: bool, stream: bool
) -> None:
    async def script(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["result_id"] if takes_rid else "chatcmpl-7"
        body = chat_body("hi").replace(b'"engine"', json.dumps(name).encode())
        chunks = [b"data: " + body.replace(b'"message"', b'"delta"') + b"\n\n", DONE]
        await replay(chunks if stream else [body], streamed=stream)(scope, receive, send)

    async with recording(path, script, takes_rid=takes_rid) as running:
        await running.ask({**STREAM, "stream": stream})
        found = only(running.stored()).result
    assert found.outputs[0].output_text == "hi"
    assert found.response_id == (None if takes_rid else "chatcmpl-7")
