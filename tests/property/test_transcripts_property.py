"""However the engine's bytes are cut, the same is read, the same passes, and the end is held."""

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted import Caller, ScriptedEngine, replay

from edge_store.api.routes import GENERATING
from edge_store.errors import EdgeStoreError, UpstreamError
from edge_store.ids import ResultId, new_result_id
from edge_store.recorder.exchange import Exchange
from edge_store.recorder.idempotency import Stored, StoredAnswer
from edge_store.recorder.transcript import Asked, Reading
from edge_store.result import Receipt

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/generate")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
NEWLINES = st.sampled_from([b"\n", b"\r\n"])


class Played(NamedTuple):
    """What came of one exchange."""

    reading: Reading
    forwarded: bytes  # the body that left before the commit
    held: bytes  # what `deliver` then sent, after the commit's comment
    early_messages: int  # how many messages left before the commit, the start included
    cause: EdgeStoreError | None
    caller: Caller


class Wire(NamedTuple):
    """A streamed answer by construction, and what must come of it."""

    endpoint: str
    asked: Asked
    events: list[bytes]
    end: int  # index of the event from which on nothing that has begun is open
    dropped: set[int]  # usage events that the caller did not ask for
    texts: list[str]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


def ask(endpoint: str, **body: Any) -> Asked:
    given = {"text": "hi"} if endpoint == "/generate" else {"prompt": "hi", "messages": []}
    return GENERATING[endpoint].ask({**given, **body})


async def play(
    endpoint: str, asked: Asked, chunks: list[bytes], *, streamed: bool = True
) -> Played:
    """Run one exchange on these chunks; commit; deliver."""
    caller = Caller()
    dialect = GENERATING[endpoint]
    exchange = Exchange(new_result_id(), dialect, asked, caller.send, bytes_max=2**20)
    engine = ScriptedEngine(replay(chunks, streamed=streamed))
    await exchange.run(engine, {"type": "http"}, b"{}", caller.receive, 10)
    forwarded, early = caller.body, len(caller.messages)
    receipt = Receipt(id=exchange.result_id, seq=7, committed_at=0)
    await exchange.deliver(receipt, exchange.cause)
    held = caller.body[len(forwarded) :]
    return Played(exchange.reader.reading(), forwarded, held, early, exchange.cause, caller)


def cut(data: st.DataObject, whole: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=12).map(sorted), "cuts")
    bounds = [0, *places, len(whole)]
    return [whole[a:b] for a, b in pairwise(bounds)]


def sse(data: st.DataObject, value: Any) -> bytes:
    newline = data.draw(NEWLINES)
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"data: " + text + newline + newline


def piece(endpoint: str, index: int, text: str, so_far: str, finish: str | None) -> dict[str, Any]:
    """One event of the protocol."""
    if endpoint == "/generate":
        meta = {
            "id": "x",
            "finish_reason": finish and {"type": finish},
            "prompt_tokens": 3,
            "completion_tokens": len(so_far),
        }
        return {"index": index, "text": so_far, "meta_info": meta}
    if endpoint == "/v1/completions":
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": finish}
    else:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"model": "m", "choices": [choice]}


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    """``n`` interleaved choices, comments anywhere, usage if it fits, [DONE]."""
    data = draw(st.data())
    endpoint = draw(st.sampled_from(ENDPOINTS))
    n = draw(st.integers(1, 3))
    wants_usage = draw(st.booleans())
    body: dict[str, Any] = {"stream": True}
    if endpoint == "/generate":
        body["sampling_params"] = {"n": n}
    else:
        body["n"] = n
        if wants_usage:
            body["stream_options"] = {"include_usage": True}
    asked = ask(endpoint, **body)
    pieces = [draw(st.lists(TEXTS, min_size=1, max_size=3)) for _ in range(n)]
    turns = draw(st.permutations([i for i in range(n) for _ in pieces[i]]))
    left = [len(p) for p in pieces]
    texts = [""] * n
    events: list[bytes] = []
    dropped: set[int] = set()
    end = -1
    for index in turns:
        if draw(st.integers(0, 5)) == 0:
            events.append(b": ping" + draw(NEWLINES) * 2)
        text = pieces[index][len(pieces[index]) - left[index]]
        texts[index] += text
        left[index] -= 1
        finish = "stop" if left[index] == 0 else None
        events.append(sse(data, piece(endpoint, index, text, texts[index], finish)))
        is_any_open = any(text and left[i] for i, text in enumerate(texts))
        end = -1 if is_any_open else len(events) - 1 if end < 0 else end
    assert 0 <= end < len(events)
    if draw(st.booleans()):
        events.append(b": late ping\n\n")
    if endpoint != "/generate":
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        if not wants_usage:
            dropped.add(len(events))
        events.append(sse(data, {"model": "m", "choices": [], "usage": usage}))
    events.append(sse(data, b"[DONE]"))
    return Wire(endpoint, asked, events, end, dropped, texts)


def committed(seq: int, played: Played) -> bytes:
    result_id = played.caller.headers["x-edge-store-id"]
    return f": committed id={result_id} seq={seq}\n\n".encode()


@settings(max_examples=150, deadline=None)
@given(wire=wires(), data=st.data())
def test_nothing_of_a_streams_end_leaves_before_the_commit(
    runner: asyncio.Runner, wire: Wire, data: st.DataObject
) -> None:
    whole = b"".join(wire.events)
    played = runner.run(play(wire.endpoint, wire.asked, cut(data, whole)))

    assert played.cause is None
    assert played.forwarded == b"".join(wire.events[: wire.end])
    kept = [e for i, e in enumerate(wire.events) if i >= wire.end and i not in wire.dropped]
    assert played.held == committed(7, played) + b"".join(kept)
    assert played.caller.headers["x-edge-store-durability"] == "on-end"
    assert played.caller.is_finished
    assert played.reading.is_complete
    assert [o.output_text for o in played.reading.outputs] == wire.texts
    assert {o.finish_reason for o in played.reading.outputs} == {"stop"}
    assert played.reading.input_tokens == 3, "one prompt, however many outputs"
    assert played.reading.output_tokens == (
        sum(map(len, wire.texts)) if wire.endpoint == "/generate" else 5
    )


@settings(max_examples=80, deadline=None)
@given(wire=wires(), data=st.data(), piece_bytes=st.integers(1, 200))
def test_a_stored_stream_is_sent_again_as_it_was(
    runner: asyncio.Runner, wire: Wire, data: st.DataObject, piece_bytes: int
) -> None:
    whole = b"".join(wire.events)
    played = runner.run(play(wire.endpoint, wire.asked, cut(data, whole)))
    receipt = Receipt(id=ResultId(played.caller.headers["x-edge-store-id"]), seq=7, committed_at=0)
    stored = Stored(
        receipt=receipt,
        endpoint=wire.endpoint,
        fingerprint=b"",
        http_status=200,
        is_stream=True,
        body=whole,
    )

    async def send_again() -> Caller:
        caller, dialect = Caller(), GENERATING[wire.endpoint]
        exchange = Exchange(receipt.id, dialect, wire.asked, caller.send, bytes_max=len(whole))
        answer = StoredAnswer(stored, dialect.envelope, piece_bytes=piece_bytes)
        await exchange.run(answer, {}, b"", caller.receive, 10)
        await exchange.deliver(receipt, exchange.cause)
        return caller

    again = runner.run(send_again())
    assert again.body == played.caller.body
    assert {**played.caller.headers, "idempotency-replayed": "true"}.keys() == again.headers.keys()
    assert again.headers["x-edge-store-id"] == receipt.id
    assert again.is_finished


@settings(max_examples=150, deadline=None)
@given(
    wire=wires(),
    data=st.data(),
    fault=st.sampled_from([b"{garbage", b"[1]", b'{"error": {"message": "boom"}}', b'"x"', None]),
)
def test_a_stream_that_goes_wrong_is_read_alike_however_it_is_cut(
    runner: asyncio.Runner, wire: Wire, data: st.DataObject, fault: bytes | None
) -> None:
    place = data.draw(st.integers(0, wire.end), "place")
    events = wire.events[:place]  # without a fault, it simply ends there
    if fault is not None:
        events = [*events, b"data: " + fault + b"\n\n", *wire.events[place:]]
    whole = b"".join(events)
    played = runner.run(play(wire.endpoint, wire.asked, cut(data, whole)))
    reference = runner.run(play(wire.endpoint, wire.asked, [whole]))

    assert played.reading == reference.reading
    assert played.forwarded == reference.forwarded
    assert type(played.cause) is type(reference.cause)
    assert b"".join(wire.events[:place]).startswith(played.forwarded)
    assert b"[DONE]" not in played.forwarded
    if fault is None:
        assert not played.reading.is_complete
    elif fault.startswith(b'{"error"'):
        assert played.reading.error_message == "boom"
        assert b"boom" not in played.forwarded, "an error is an end: it waits for the commit"
        assert b"boom" in played.held
    else:
        assert isinstance(played.cause, UpstreamError)
        assert b"[DONE]" not in played.held, "no terminal event after garbage"
        assert b'"code":"upstream_error"' in played.held


def plain_body(endpoint: str, texts: list[str]) -> bytes:
    if endpoint == "/generate":
        items = [
            {"text": t, "meta_info": {"finish_reason": {"type": "length"}, "prompt_tokens": 1}}
            for t in texts
        ]
        return json.dumps(items if len(items) > 1 else items[0]).encode()
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    choices = [
        {"index": i, "finish_reason": "length"}
        | ({"text": t} if endpoint == "/v1/completions" else {"message": {"content": t}})
        for i, t in enumerate(texts)
    ]
    return json.dumps({"model": "m", "choices": choices, "usage": usage}).encode()


@settings(max_examples=80, deadline=None)
@given(
    endpoint=st.sampled_from(ENDPOINTS),
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    data=st.data(),
)
def test_a_plain_answer_is_held_whole(
    runner: asyncio.Runner, endpoint: str, texts: list[str], data: st.DataObject
) -> None:
    body = plain_body(endpoint, texts)
    asked = ask(endpoint, n=len(texts), sampling_params={"n": len(texts)})
    played = runner.run(play(endpoint, asked, cut(data, body), streamed=False))

    assert played.early_messages == 0, "not even the start may leave before the commit"
    assert played.held == body
    assert played.caller.headers["content-length"] == str(len(body))
    assert played.caller.headers["x-edge-store-durability"] == "committed"
    assert played.caller.headers["x-edge-store-seq"] == "7"
    assert played.reading.is_complete
    assert [o.output_text for o in played.reading.outputs] == texts
    assert {o.finish_reason for o in played.reading.outputs} == {"length"}


@settings(max_examples=60, deadline=None)
@given(
    endpoint=st.sampled_from(ENDPOINTS),
    body=st.binary(max_size=40)
    | st.sampled_from([b"{}", b"[]", b'{"choices": 1}', b"[" * 5000])
    | st.sampled_from([b'{"choices": []}', b'{"usage": {"prompt_tokens": 1}}', b"[1]", b"null"]),
    data=st.data(),
)
def test_a_garbled_plain_answer_fails_without_reaching_the_caller(
    runner: asyncio.Runner, endpoint: str, body: bytes, data: st.DataObject
) -> None:
    played = runner.run(play(endpoint, ask(endpoint), cut(data, body), streamed=False))
    assert isinstance(played.cause, UpstreamError)
    assert played.caller.status == 502
    assert played.early_messages == 0
    assert json.loads(played.held)["error"]["code"] == "upstream_error"


TOOL_PARTS = st.lists(st.text('{}:"ab1 ', max_size=4), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(TOOL_PARTS, min_size=1, max_size=3), data=st.data())
def test_tool_calls_and_reasoning_are_put_together(
    runner: asyncio.Runner, parts: list[list[str]], data: st.DataObject
) -> None:
    deltas: list[dict[str, Any]] = [{"reasoning_content": "hm"}, {"reasoning_content": "m"}]
    for index, arguments in enumerate(parts):
        head = {"index": index, "id": f"call_{index}", "type": "function"}
        deltas.append({"tool_calls": [head | {"function": {"name": "f", "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": a}}]} for a in arguments
        ]
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    whole = b"".join(sse(data, e) for e in [*events, b"[DONE]"])
    endpoint = ENDPOINTS[0]
    played = runner.run(play(endpoint, ask(endpoint, stream=True), cut(data, whole)))

    (output,) = played.reading.outputs
    assert output.reasoning == "hmm"
    assert output.finish_reason == "tool_calls"
    assert output.tool_calls is not None
    calls = json.loads(output.tool_calls)
    assert [call["function"]["arguments"] for call in calls] == ["".join(p) for p in parts]
    assert [call["id"] for call in calls] == [f"call_{i}" for i in range(len(parts))]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_done_alone_is_held_and_is_no_answer(runner: asyncio.Runner, endpoint: str) -> None:
    played = runner.run(play(endpoint, ask(endpoint, stream=True), [b"data: [DONE]\n\n"]))
    assert played.forwarded == b""
    assert played.held.endswith(b"data: [DONE]\n\n")
    assert played.reading == Reading(is_complete=False)


def test_a_server_that_ignores_n_cannot_end_the_stream_early(runner: asyncio.Runner) -> None:
    endpoint = ENDPOINTS[0]
    finish = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    last = b"data: " + json.dumps(finish).encode() + b"\n\n"
    asked = ask(endpoint, stream=True, n=2)
    played = runner.run(play(endpoint, asked, [last, b"data: [DONE]\n\n"]))
    assert played.forwarded == b""
    assert played.held.endswith(last + b"data: [DONE]\n\n")


def test_an_aborted_generate_is_held(runner: asyncio.Runner) -> None:
    reason = {"type": "abort", "message": "too long", "status_code": 400}
    aborted = {"text": "", "meta_info": {"finish_reason": reason}}
    chunk = b"data: " + json.dumps(aborted).encode() + b"\n\n"
    played = runner.run(play("/generate", ask("/generate", stream=True), [chunk]))
    assert played.forwarded == b""
    assert played.reading.error_message == "too long"
    assert played.reading.error_status == 400
