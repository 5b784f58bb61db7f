"""Whatever the SDK makes of an answer, plain or streamed, it makes of the stored completion too."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from support.records import make_result, new_database

from edge_store.paging import Paging
from edge_store.recorder.batch import ChainHead, read_head, write_batch
from edge_store.recorder.caller import Caller
from edge_store.recorder.transcript.openai import ChatDialect
from edge_store.result import Boot, Content
from edge_store.sqlite import Connection
from edge_store.stored import Wanted, completion, find_completion, page

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CALLS = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1, max_size=4),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text("fgh", min_size=1, max_size=4), "arguments": TEXTS}
        ),
    }
)
CHOICES = st.lists(
    st.tuples(
        TEXTS,
        st.none() | TEXTS.filter(bool),  # reasoning
        st.lists(CALLS, max_size=2),
        st.sampled_from(["stop", "length", "tool_calls"]),
    ),
    min_size=1,
    max_size=3,
)


class Box:
    """One database for all examples."""

    def __init__(self, path: Path) -> None:
        self.connection: Connection
        self.boot: Boot
        self.connection, self.boot = new_database(path)
        self.connection.execute("PRAGMA synchronous = OFF")  # no promise of the disk's is tested
        self.number = 0

    @property
    def head(self) -> ChainHead:
        return read_head(self.connection)

    def store(self, asked: dict[str, Any], body: bytes, events: list[bytes]) -> str:
        """Record it as the recorder does; its id."""
        dialect = ChatDialect()
        reader = dialect.reader(dialect.ask(asked))
        for data in events:
            reader.event(data)
        if not events:
            reader.body(body)
        reading = reader.reading()
        assert reading.is_complete
        self.number += 1
        made = make_result(
            self.number,
            self.boot.boot_id,
            outputs=reading.outputs,
            response_model=reading.response_model,
            input_tokens=reading.input_tokens,
            output_tokens=reading.output_tokens,
            cached_tokens=reading.cached_tokens,
            reasoning_tokens=reading.reasoning_tokens,
            stream=bool(events),
            content=Content(
                input_text="", request_body=json.dumps(asked).encode(), response_body=body
            ),
        )
        write_batch(self.connection, self.boot, self.head, self.number, [made])
        return made.id


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    box = Box(tmp_path_factory.mktemp("stored") / "results.db")
    with closing(box.connection):
        yield box


def read_by_sdk(shown: Any) -> ChatCompletion:
    return ChatCompletion.model_validate(json.loads(json.dumps(shown, default=_raw)))


def _raw(value: Any) -> Any:
    return json.loads(bytes(value))


def meaning(chat: Any) -> list[Any]:
    """What the SDK's user reads of it. An empty text and none are one: a stream cannot tell."""
    return [
        chat.object,
        chat.usage and (chat.usage.prompt_tokens, chat.usage.completion_tokens),
        [
            (
                choice.index,
                choice.finish_reason,
                choice.message.content or None,
                getattr(choice.message, "reasoning_content", None),
                [
                    (call.id, call.type, call.function.name, call.function.arguments)
                    for call in choice.message.tool_calls or ()
                ],
            )
            for choice in chat.choices
        ],
    ]


FRAME = {"id": "engine", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@settings(deadline=None)
@given(choices=CHOICES, system_fingerprint=st.none() | TEXTS)
def test_plain_answer_comes_back_as_it_was(
    box: Box, choices: list[Any], system_fingerprint: str | None
) -> None:
    body = {
        **FRAME,
        "object": "chat.completion",
        "system_fingerprint": system_fingerprint,
        "usage": USAGE,
        "choices": [
            {
                "index": index,
                "finish_reason": finish,
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "reasoning_content": reasoning,
                    "tool_calls": calls or None,
                },
            }
            for index, (text, reasoning, calls, finish) in enumerate(choices)
        ],
    }
    result_id = box.store({"messages": [], "n": len(choices)}, json.dumps(body).encode(), [])
    recorded = find_completion(box.connection, Caller(), result_id)
    found = read_by_sdk(completion(box.connection, recorded))
    sent = ChatCompletion.model_validate(body)
    assert found.choices == sent.choices
    assert (found.usage, found.created, found.model) == (sent.usage, 1, "m")
    assert found.system_fingerprint == system_fingerprint
    assert found.id == result_id


@settings(deadline=None)
@given(choices=CHOICES, data=st.data())
def test_streamed_answer_is_what_the_sdk_puts_together(
    box: Box, choices: list[Any], data: st.DataObject
) -> None:
    chunks = []
    for index, (text, reasoning, calls, finish) in enumerate(choices):
        cut = data.draw(st.integers(0, len(text)))
        deltas: list[dict[str, Any]] = [
            {"content": piece} for piece in (text[:cut], text[cut:]) if piece
        ]
        deltas += [{"reasoning_content": piece} for piece in reasoning or ""]
        for place, call in enumerate(calls):
            said = call["function"]["arguments"]
            opened = {"name": call["function"]["name"], "arguments": said[:cut]}
            deltas.append({"tool_calls": [{**call, "index": place, "function": opened}]})
            more = {"index": place, "function": {"arguments": said[cut:]}}
            deltas.append({"tool_calls": [more]})
        made = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
        chunks.append([*made, {"index": index, "delta": {}, "finish_reason": finish}])
    turns = data.draw(st.permutations([n for n, each in enumerate(chunks) for _ in each]))
    frame = {**FRAME, "object": "chat.completion.chunk"}
    opening = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    events = [{**frame, "choices": [{**opening, "index": n}]} for n in range(len(choices))]
    events += [{**frame, "choices": [chunks[turn].pop(0)]} for turn in turns]
    events.append({**frame, "choices": [], "usage": USAGE})
    state: Any = ChatCompletionStreamState()
    for event in events:
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    seen = state.current_completion_snapshot
    wire = [json.dumps(event).encode() for event in events] + [b"[DONE]"]
    body = b"".join(b"data: " + line + b"\n\n" for line in wire)
    asked = {"messages": [], "n": len(choices), "stream": True}
    result_id = box.store(asked, body, wire)
    recorded = find_completion(box.connection, Caller(), result_id)
    found = read_by_sdk(completion(box.connection, recorded))
    assert sorted(meaning(found)[2]) == sorted(meaning(seen)[2])
    assert meaning(found)[1] == meaning(seen)[1]


@settings(deadline=None)
@given(limit=st.integers(1, 40), descending=st.booleans())
def test_any_pages_are_all_completions_in_order(
    box: Box,
    limit: int,
    descending: bool,  # noqa: FBT001  (drawn)
) -> None:
    box.store({"messages": []}, b'{"choices": [{"message": {"content": "one"}}]}', [])
    rows = box.connection.execute("SELECT id FROM results ORDER BY seq").fetchall()
    found: list[str] = []
    after, has_more = None, True
    while has_more:
        wanted = Wanted(paging=Paging(limit=limit, after=after, is_descending=descending))
        shown, has_more = page(box.connection, Caller(), wanted)
        found += [each["id"] for each in shown]
        after = found[-1]
    expected = [result_id for (result_id,) in rows]
    assert found == (expected[::-1] if descending else expected)
