"""However the bytes of a chat's stream are cut, a response has the same events and the same end;
and plain or streamed, live or read again, it is the same object.
"""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_store.api.turn import Turn
from edge_store.ids import new_result_id
from edge_store.recorder.caller import Caller
from edge_store.recorder.transcript.openai import OpenAIReader
from edge_store.responses.ask import Ask
from edge_store.responses.events import items_of, outputs_of
from edge_store.responses.store import Kept

RESULT_ID = new_result_id()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


def kept() -> Kept:
    return Kept(
        id=RESULT_ID,
        created_at=1_760_000_000_000,
        caller=Caller(),
        background=False,
        conversation_id=None,
        previous_id=None,
        request=b"{}",
    )


def call(index: int, text: str, *, is_first: bool) -> dict[str, Any]:
    if not is_first:
        more: dict[str, Any] = {"index": index, "function": {"arguments": text}}
        return {"tool_calls": [more]}
    function: Any = {"name": f"f{index}", "arguments": text}
    made: dict[str, Any] = {"index": index, "id": f"call-{index}", "function": function}
    return {"tool_calls": [made]}


@st.composite
def deltas(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Reasoning, then text, then calls, as engines send them; each part may be missing. The pieces
    of calls may come by turns.
    """
    found: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    found += [{"reasoning_content": text} for text in draw(st.lists(TEXTS, max_size=3))]
    found += [{"content": text} for text in draw(st.lists(TEXTS, max_size=4))]
    calls = draw(st.integers(0, 3))
    found += [call(index, draw(TEXTS), is_first=True) for index in range(calls)]
    if calls:
        pieces = draw(st.lists(st.tuples(st.integers(0, calls - 1), TEXTS), max_size=4))
        found += [call(index, text, is_first=False) for index, text in pieces]
    return found


def stream_of(found: list[dict[str, Any]], finish: str) -> bytes:
    choices: list[Any] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in found]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks = [json.dumps({"model": "m", "choices": [choice]}) for choice in choices]
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    chunks.append(json.dumps({"model": "m", "choices": [], "usage": usage}))
    events = [f"data: {chunk}\n\n" for chunk in chunks]
    end = f": committed id={RESULT_ID} seq=7\n\n"
    return "".join([*events[:-2], end, *events[-2:], "data: [DONE]\n\n"]).encode()


def recorded_of(stream: bytes) -> Any:
    """The choice, as the recorder reads it."""
    reader = OpenAIReader(1)
    for event in stream.split(b"\n\n"):
        if event.startswith(b"data: "):
            reader.event(event[6:])
    return reader.reading().outputs[0]


def plain_of(stream: bytes, finish: str) -> bytes:
    """The same answer in one piece."""
    output = recorded_of(stream)
    message = {
        "content": output.output_text,
        "reasoning_content": output.reasoning,
        "tool_calls": json.loads(output.tool_calls or "null"),
    }
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"model": "m", "choices": [choice]}).encode()


def play(pieces: list[bytes]) -> tuple[list[bytes], dict[str, Any]]:
    """Every event, and the object."""
    turn = Turn(kept(), Ask(model="m", stream=True))
    events = turn.take(START)
    for piece in pieces:
        events += turn.take({"type": "http.response.body", "body": piece, "more_body": True})
    assert turn.committed.startswith(b": committed id=")
    shown, rest = turn.close(None)
    return events + rest, shown


FINISHES = st.sampled_from(["stop", "length", "tool_calls"])


@given(deltas(), FINISHES, st.data())
def test_cuts_change_nothing(found: list[dict[str, Any]], finish: str, data: st.DataObject) -> None:
    stream = stream_of(found, finish)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    assert play(pieces) == play([stream])


@given(deltas(), FINISHES)
def test_events_build_what_the_end_shows(found: list[dict[str, Any]], finish: str) -> None:
    events, shown = play([stream_of(found, finish)])
    decoded = [json.loads(event.split(b"data: ", 1)[1]) for event in events]
    assert [event["sequence_number"] for event in decoded] == list(range(len(decoded)))
    done = {
        event["output_index"]: event["item"]
        for event in decoded
        if event["type"] == "response.output_item.done"
    }
    assert [done[index] for index in range(len(done))] == shown["output"]
    for index, item in enumerate(shown["output"]):
        said = "".join(
            event["delta"]
            for event in decoded
            if event["type"].endswith(".delta") and event["output_index"] == index
        )
        assert said == (item["arguments"] if "arguments" in item else item["content"][0]["text"])
    assert all(item["id"].endswith(f"_o{place}") for place, item in enumerate(shown["output"]))


@given(deltas(), FINISHES)
def test_plain_streamed_and_read_again_are_the_same(
    found: list[dict[str, Any]], finish: str
) -> None:
    stream = stream_of(found, finish)
    events, shown = play([stream])
    plain = outputs_of(RESULT_ID, plain_of(stream, finish), is_stream=False, is_whole=True)[1]
    said, again = outputs_of(RESULT_ID, stream, is_stream=True, is_whole=True)
    assert plain == again == shown["output"] == items_of(RESULT_ID, recorded_of(stream))
    assert [event["type"] for event in said] == [
        event.split(b"\n", 1)[0].removeprefix(b"event: ").decode() for event in events[:-1]
    ]


def test_what_comes_again_later_is_an_item_of_its_own() -> None:
    found = [
        {"content": "before"},
        call(0, "{}", is_first=True),
        {"content": "after"},
    ]
    _events, shown = play([stream_of(found, "stop")])
    kinds = [item["type"] for item in shown["output"]]
    assert kinds == ["message", "function_call", "message"]
