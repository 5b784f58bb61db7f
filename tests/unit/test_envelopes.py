"""What fails is said in the form of the protocol that was spoken: its SDK understands it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from support.asgi import answered
from support.golden import golden
from support.scripted import Caller, recording, replay

from edge_store.api.gate import Gate
from edge_store.api.routes import GENERATING, STORED
from edge_store.config import RecorderSection, ServerSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import EngineCrashed, InvalidRequest
from edge_store.observability.metrics import Metrics
from edge_store.recorder.slots import Slots
from edge_store.result import Status
from edge_store.sqlite import Connection

STREAMS = ["anthropic_stream", "ollama_chat_stream", "ollama_generate_stream"]


def in_its_form(endpoint: str, body: bytes) -> tuple[str, str | None]:
    """Our code, and the protocol's own word for what it is; fails if the form is another."""
    said = msgspec.json.decode(body)
    if endpoint.startswith("/api/"):
        assert isinstance(said["error"], str)
        return said["code"], None
    if endpoint == "/v1/messages":
        assert said["type"] == "error"
    assert isinstance(said["error"]["message"], str)
    return said["error"]["code"], said["error"]["type"]


@pytest.fixture
def gate() -> Gate:
    absent = cast("Any", None)  # nothing here gets as far as these
    recorder = cast("Any", SimpleNamespace(slots=Slots(RecorderSection(bytes_max=2048))))
    return Gate(
        recorder=recorder, engine=absent, ours=absent, config=ServerSection(), metrics=Metrics()
    )


@pytest.mark.parametrize("endpoint", sorted(GENERATING))
async def test_a_refusal_at_the_gate_is_in_the_routes_form(gate: Gate, endpoint: str) -> None:
    call = await answered(gate, endpoint, method="DELETE")
    kinds = {"/v1/messages": "invalid_request_error", "/api/chat": None, "/api/generate": None}
    kind = kinds.get(endpoint, "invalid_request_error")
    allowed = b"GET, HEAD, POST" if endpoint in STORED else b"POST"
    assert (call.status, call.headers[b"allow"]) == (405, allowed)
    assert in_its_form(endpoint, call.body) == ("method_not_allowed", kind)

    call = await answered(gate, endpoint, body=b"x" * 2048)
    kinds["/v1/messages"] = "overloaded_error"
    assert call.status == 503
    assert in_its_form(endpoint, call.body) == (
        "recorder_full",
        kinds.get(endpoint, "server_error"),
    )
    assert int(call.headers[b"retry-after"]) > 0


@pytest.mark.parametrize("endpoint", sorted(GENERATING))
def test_every_form_has_room_for_the_path_of_the_fault(endpoint: str) -> None:
    error = InvalidRequest("`messages[1]` must be an object", param="messages[1]")
    said = msgspec.json.decode(GENERATING[endpoint].envelope.body(error))
    found = said if endpoint.startswith("/api/") else said["error"]
    assert found["param"] == "messages[1]"


async def crash(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise EngineCrashed("the scheduler died")


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_breaks_off_ends_with_the_protocols_error(
    tmp_path: Path, name: str
) -> None:
    found = golden(name)
    begun = found.answer[: found.end]
    script = replay([begun], kind=found.kind, then=crash)
    async with recording(tmp_path / "results.db", script) as running:
        caller = await running.ask(found.request, path=found.endpoint)
        (stored,) = running.stored()
    assert (stored.result.status, stored.result.error_type) == (Status.FAILED, "engine_crashed")
    assert stored.result.outputs[0].output_text
    assert caller.body.startswith(begun)
    last = caller.body.removesuffix(b"\n").rstrip(b"\n").rpartition(b"\n")[2]
    if found.endpoint == "/v1/messages":
        assert b"\n\nevent: error\ndata: " + last.removeprefix(b"data: ") in caller.body
    code, kind = in_its_form(found.endpoint, last.removeprefix(b"data: "))
    assert (code, kind) in (("engine_crashed", "api_error"), ("engine_crashed", None))


@pytest.mark.parametrize("endpoint", ["/v1/messages", "/api/chat", "/api/generate"])
async def test_a_plain_answer_that_never_comes_is_the_protocols_error(
    tmp_path: Path, endpoint: str
) -> None:
    async def hang(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    async with recording(tmp_path / "results.db", hang, engine_timeout_s=0.05) as running:
        caller = await running.ask({"messages": [], "prompt": "hi"}, path=endpoint)
    assert caller.status == 504
    code, kind = in_its_form(endpoint, caller.body)
    assert (code, kind) in (("generation_timeout", "timeout_error"), ("generation_timeout", None))


def cannot_commit(connection: Connection) -> Connection:
    """A file that may not grow: a true SQLITE_FULL at the first large row."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return connection


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_whose_commit_fails_has_no_terminal_event(tmp_path: Path, name: str) -> None:
    found = golden(name)
    request = msgspec.json.decode(found.request) | {"padding": "x" * 100_000}
    script = replay([found.answer], kind=found.kind)
    path = tmp_path / "results.db"
    async with recording(path, script, connected=cannot_commit) as running:
        caller = await running.ask(request, path=found.endpoint)
        assert running.stored() == []
    assert caller.body.startswith(found.answer[: found.end])
    held = caller.body[found.end :]
    assert found.answer[found.end :] not in held
    last = held.rstrip(b"\n").rpartition(b"\n")[2].removeprefix(b"data: ")
    assert in_its_form(found.endpoint, last)[0] == "disk_full"


@pytest.mark.parametrize("name", STREAMS)
async def test_the_end_waits_while_the_rest_has_left(tmp_path: Path, name: str) -> None:
    """The bytes pass while the engine still answers, not when it has ended."""
    found = golden(name)
    more = asyncio.Event()

    async def rest(_scope: Scope, _receive: Receive, send: Send) -> None:
        await more.wait()
        body = found.answer[found.end :]
        await send({"type": "http.response.body", "body": body, "more_body": True})

    script = replay([found.answer[: found.end]], kind=found.kind, then=rest)
    async with recording(tmp_path / "results.db", script) as running:
        caller = Caller()
        asking = asyncio.create_task(running.ask(found.request, path=found.endpoint, caller=caller))
        await caller.wait_for(found.answer[: found.end])
        assert running.stored() == []
        assert caller.headers["x-edge-store-durability"] == "on-end"
        assert caller.headers["content-type"] == found.kind.decode()
        more.set()
        await asking
        assert len(running.stored()) == 1
    assert caller.body.endswith(found.answer[found.end :])
