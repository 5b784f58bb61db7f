"""Anthropic's and Ollama's streams, and real answers: however they are cut, the same is read."""

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import KINDS, every_golden, golden
from support.scripted import Caller, ScriptedEngine, replay

from edge_store.api.routes import GENERATING
from edge_store.errors import EdgeStoreError, UpstreamError
from edge_store.ids import new_result_id
from edge_store.recorder.exchange import Exchange
from edge_store.recorder.transcript import Asked, Reading
from edge_store.recorder.transcript.ndjson import LineSplitter
from edge_store.result import Receipt

MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"
EVENTS, LINES = KINDS[".sse"], KINDS[".ndjson"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
PIECES = st.lists(TEXTS, min_size=1, max_size=3)


class Played(NamedTuple):
    """What came of one exchange."""

    reading: Reading
    forwarded: bytes  # the body that left before the commit
    held: bytes  # what `deliver` then sent
    cause: EdgeStoreError | None
    has_begun: bool
    result_id: str


class Wire(NamedTuple):
    """A streamed answer by construction, and what must come of it."""

    endpoint: str
    events: list[bytes]
    end: int  # index of the event that says that the answer is over
    text: str
    reasoning: str
    arguments: list[Any]  # of the calls of tools

    @property
    def kind(self) -> bytes:
        return EVENTS if self.endpoint == MESSAGES else LINES


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


def ask(endpoint: str) -> Asked:
    return GENERATING[endpoint].ask({"messages": [], "prompt": "hi", "stream": True})


async def play(endpoint: str, asked: Asked, chunks: list[bytes], kind: bytes) -> Played:
    """Run one exchange on these chunks; commit; deliver."""
    caller = Caller()
    exchange = Exchange(new_result_id(), GENERATING[endpoint], asked, caller.send, bytes_max=2**20)
    engine = ScriptedEngine(replay(chunks, kind=kind))
    await exchange.run(engine, {"type": "http"}, b"{}", caller.receive, 10)
    forwarded = caller.body
    receipt = Receipt(id=exchange.result_id, seq=7, committed_at=0)
    await exchange.deliver(receipt, exchange.cause)
    assert caller.is_finished
    held = caller.body[len(forwarded) :]
    has_begun = exchange.first_token_at is not None
    reading = exchange.reader.reading()
    return Played(reading, forwarded, held, exchange.cause, has_begun, exchange.result_id)


def cut(data: st.DataObject, whole: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=12).map(sorted), "cuts")
    bounds = [0, *places, len(whole)]
    return [whole[a:b] for a, b in pairwise(bounds)]


def mark(kind: bytes, played: Played) -> bytes:
    return f": committed id={played.result_id} seq=7\n\n".encode() if kind == EVENTS else b""


def sse(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode()


def block(index: int, kind: str, pieces: list[str]) -> list[dict[str, Any]]:
    """The events of one block of Anthropic's."""
    key, field = {
        "text": ("text", "text"),
        "thinking": ("thinking", "thinking"),
        "tool_use": ("input_json", "partial_json"),
    }[kind]
    opened: dict[str, Any] = {"type": kind}
    opened |= {"id": f"t{index}", "name": "f", "input": {}} if kind == "tool_use" else {key: ""}
    if kind == "tool_use":
        pieces = ['{"a": ', json.dumps("".join(pieces)), "}"]
    return [
        {"type": "content_block_start", "index": index, "content_block": opened},
        *({"type": "content_block_delta", "index": index, "delta": {field: p}} for p in pieces),
        {"type": "content_block_stop", "index": index},
    ]


@st.composite
def anthropic_wires(draw: st.DrawFn) -> Wire:
    """Blocks of every kind in any order, pings anywhere."""
    usage = {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 0}
    start = {"type": "message_start", "message": {"model": "m", "content": [], "usage": usage}}
    values: list[dict[str, Any]] = [start]
    texts: dict[str, list[str]] = {"text": [], "thinking": [], "tool_use": []}
    kinds = draw(st.lists(st.sampled_from(sorted(texts)), min_size=1, max_size=4))
    for index, kind in enumerate(kinds):
        pieces = draw(PIECES)
        texts[kind].append("".join(pieces))
        values += block(index, kind, pieces)
        if draw(st.booleans()):
            values.append({"type": "ping"})
    end = len(values)
    delta = {"stop_reason": draw(st.sampled_from(["end_turn", "stop_sequence"]))}
    values += [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    arguments = [{"a": text} for text in texts["tool_use"]]
    events = [sse(value) for value in values]
    return Wire(
        MESSAGES, events, end, "".join(texts["text"]), "".join(texts["thinking"]), arguments
    )


@st.composite
def ollama_wires(draw: st.DrawFn) -> Wire:
    """Lines of text and thinking, calls of tools in a chat, blank lines anywhere, perhaps no
    newline at the end.
    """
    endpoint = draw(st.sampled_from([OLLAMA_CHAT, OLLAMA_GENERATE]))
    is_chat = endpoint == OLLAMA_CHAT
    values: list[dict[str, Any]] = []
    text, reasoning, arguments = "", "", []
    for _ in range(draw(st.integers(1, 4))):
        piece, thought = draw(TEXTS), draw(st.one_of(st.just(""), TEXTS))
        text, reasoning = text + piece, reasoning + thought
        said: dict[str, Any] = {"content" if is_chat else "response": piece, "thinking": thought}
        if is_chat and draw(st.booleans()):
            arguments.append({"a": piece})
            said["tool_calls"] = [{"function": {"name": "f", "arguments": {"a": piece}}}]
        values.append({"model": "m", "done": False} | ({"message": said} if is_chat else said))
    empty = {"message": {"content": ""}} if is_chat else {"response": ""}
    counts = {"prompt_eval_count": 3, "eval_count": 5}
    last = {"model": "m", "done": True, "done_reason": "stop", **counts, **empty}
    newline = draw(st.sampled_from([b"\n", b"\r\n"]))
    lines = [json.dumps(value).encode() + newline for value in values]
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), b"\n")
    ending = draw(st.sampled_from([newline, b""]))
    events = [*lines, json.dumps(last).encode() + ending]
    return Wire(endpoint, events, len(lines), text, reasoning, arguments)


WIRES = anthropic_wires() | ollama_wires()


@settings(max_examples=150, deadline=None)
@given(wire=WIRES, data=st.data())
def test_nothing_of_the_end_leaves_before_the_commit(
    runner: asyncio.Runner, wire: Wire, data: st.DataObject
) -> None:
    chunks = cut(data, b"".join(wire.events))
    played = runner.run(play(wire.endpoint, ask(wire.endpoint), chunks, wire.kind))

    assert played.cause is None
    assert played.forwarded == b"".join(wire.events[: wire.end])
    assert played.held == mark(wire.kind, played) + b"".join(wire.events[wire.end :])
    reading = played.reading
    assert (reading.is_complete, reading.error_message, played.has_begun) == (True, None, True)
    assert (reading.input_tokens, reading.output_tokens) == (3, 5)
    (output,) = reading.outputs
    assert output.output_text == wire.text
    assert (output.reasoning or "") == wire.reasoning
    assert output.finish_reason == "stop"
    calls = json.loads(output.tool_calls or "[]")
    assert [json.loads(call["function"]["arguments"]) for call in calls] == wire.arguments


FAULTS = {
    EVENTS: [
        b"data: {garbage\n\n",
        b"data: [1]\n\n",
        b'event: error\ndata: {"type": "error", "error": {"type": "x", "message": "boom"}}\n\n',
        None,
    ],
    LINES: [b"{garbage\n", b"[1]\n", b'{"error": "boom"}\n', None],
}


@settings(max_examples=150, deadline=None)
@given(wire=WIRES, data=st.data())
def test_a_stream_that_goes_wrong_is_read_alike_however_it_is_cut(
    runner: asyncio.Runner, wire: Wire, data: st.DataObject
) -> None:
    fault = data.draw(st.sampled_from(FAULTS[wire.kind]), "fault")
    place = data.draw(st.integers(0, wire.end), "place")
    events = wire.events[:place]  # without a fault, it simply ends there
    if fault is not None:
        events = [*events, fault, *wire.events[place:]]
    whole = b"".join(events)
    asked = ask(wire.endpoint)
    played = runner.run(play(wire.endpoint, asked, cut(data, whole), wire.kind))
    reference = runner.run(play(wire.endpoint, asked, [whole], wire.kind))

    assert played.reading == reference.reading
    assert played.forwarded == reference.forwarded == b"".join(wire.events[:place])
    assert type(played.cause) is type(reference.cause)
    last = wire.events[-1].strip()
    if fault is None:
        assert not played.reading.is_complete
    elif b"boom" in fault:
        assert played.reading.error_message == "boom"
        assert fault in played.held
    else:
        assert isinstance(played.cause, UpstreamError)
        assert last not in played.held, "no terminal event after garbage"
        said = json.loads(played.held.rstrip().rpartition(b"\n")[2].removeprefix(b"data: "))
        message = said["error"] if wire.kind == LINES else said["error"]["message"]
        assert message.startswith("the engine sent ")


@pytest.mark.parametrize("name", every_golden())
def test_a_real_answer_is_read_alike_however_it_is_cut(runner: asyncio.Runner, name: str) -> None:
    found = golden(name)
    reference = runner.run(play(found.endpoint, found.asked, [found.answer], found.kind))

    @settings(max_examples=15, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        chunks = cut(data, found.answer)
        played = runner.run(play(found.endpoint, found.asked, chunks, found.kind))
        assert played.reading == reference.reading
        assert played.forwarded == found.answer[: found.end]
        assert played.cause is None
        assert played.held == mark(found.kind, played) + found.answer[found.end :]

    check()


@settings(max_examples=60, deadline=None)
@given(
    endpoint=st.sampled_from([MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE, "/v1/embeddings"]),
    body=st.binary(max_size=40)
    | st.sampled_from([b"{}", b"[]", b'{"content": 1}', b"[" * 5000, b'{"data": []}', b"null"])
    | st.sampled_from([b'{"done": true}', b'{"message": 1}', b'{"usage": {"input_tokens": 1}}']),
)
def test_a_garbled_plain_answer_fails_without_reaching_the_caller(
    runner: asyncio.Runner, endpoint: str, body: bytes
) -> None:
    asked = GENERATING[endpoint].ask({"messages": [], "prompt": "hi", "input": "hi"})
    played = runner.run(play(endpoint, asked, [body], KINDS[".json"]))
    assert isinstance(played.cause, UpstreamError)
    said = json.loads(played.held)
    code = said["code"] if endpoint.startswith("/api/") else said["error"]["code"]
    assert code == "upstream_error"


@pytest.mark.parametrize(
    ("endpoint", "kind", "end"),
    [
        (MESSAGES, EVENTS, b'event: message_stop\ndata: {"type": "message_stop"}\n\n'),
        (OLLAMA_CHAT, LINES, b'{"done": true}\n'),
    ],
)
def test_an_end_alone_is_held_and_is_no_answer(
    runner: asyncio.Runner, endpoint: str, kind: bytes, end: bytes
) -> None:
    played = runner.run(play(endpoint, ask(endpoint), [end], kind))
    assert (played.forwarded, played.reading) == (b"", Reading(is_complete=False))
    assert played.held.endswith(end)


@given(lines=st.lists(st.binary(max_size=8).map(lambda b: b.replace(b"\n", b" "))), data=st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(lines)
    splitter = LineSplitter()
    got = [line for chunk in cut(data, whole) for line in splitter.feed(chunk)]
    assert splitter.rest() == (lines[-1] if lines else b"")
    got += splitter.end()
    assert [line.rstrip(b"\n") for line in got] == (lines if lines and lines[-1] else lines[:-1])
    assert b"".join(got) == whole
    assert splitter.rest() == b""
