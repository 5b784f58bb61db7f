"""Answers that bend the protocol in what is only recorded are answers, plain and streamed."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.scripted import recording, replay

from edge_store.api.routes import GENERATING
from edge_store.recorder.transcript import Asked, Garbled, Reading
from edge_store.result import Status

CHAT = "/v1/chat/completions"
CALL = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}


def ask(endpoint: str, **body: Any) -> Asked:
    given: dict[str, Any] = {"text": "hi"} if endpoint == "/generate" else {"messages": []}
    return GENERATING[endpoint].ask({**given, **body})


def read(endpoint: str, answer: Any, *, streamed: bool) -> Reading:
    reader = GENERATING[endpoint].reader(ask(endpoint))
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    if streamed:
        assert reader.event(data), "the end is found"
    else:
        reader.body(data)
    return reader.reading()


def chat(message: Any, usage: Any = None, *, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"model": "m", "choices": [choice], "usage": usage, **more}


ODD_CHATS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "content in parts": (chat({"content": [{"type": "text", "text": "yes"}]}), "yes", {}),
    "arguments as an object": (chat({"content": "", "tool_calls": [CALL]}), "", {}),
    "a call that is no object": (chat({"content": "yes", "tool_calls": [1]}), "yes", {}),
    "a float count": (chat({"content": "yes"}, {"prompt_tokens": 3.0}), "yes", {"input_tokens": 3}),
    "a text for a count": (
        chat({"content": "yes"}, {"prompt_tokens": "3"}), "yes", {"input_tokens": None}),
    "a count beyond an integer": (
        chat({"content": "yes"}, {"prompt_tokens": 2**63}), "yes", {"input_tokens": None}),
    "a count below none": (
        chat({"content": "yes"}, {"completion_tokens": -1}), "yes", {"output_tokens": None}),
    "an endless count": (
        b'{"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],'
        b' "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}", "yes", {"input_tokens": None}),
    "a list for the usage": (chat({"content": "yes"}, [1]), "yes", {}),
    "a number for the model": (chat({"content": "yes"}, model=7), "yes", {"response_model": "7"}),
    "a number to finish": (chat({"content": "yes"}, finish=0), "yes", {}),
    "no index": (chat({"content": "yes"}) | {"choices": [
        {"index": None, "message": {"content": "yes"}, "finish_reason": "stop"}]}, "yes", {}),
    "a lone surrogate": (chat({"content": "yes \ud800"}), "yes \\ud800", {}),
    "bytes that are no text": (
        b'{"choices": [{"message": {"content": "\xff"}, "finish_reason": "stop"}]}', "\ufffd", {}),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ODD_CHATS)
def test_an_odd_chat_is_an_answer(name: str, streamed: bool) -> None:  # noqa: FBT001  (a parameter)
    answer, text, expected = ODD_CHATS[name]
    reading = read(CHAT, answer, streamed=streamed)
    (output,) = reading.outputs
    assert (reading.is_complete, reading.error_message) == (True, None)
    assert output.output_text == text
    assert output.finish_reason is not None
    assert {field: getattr(reading, field) for field in expected} == expected


def test_an_object_of_arguments_is_kept_as_json() -> None:
    (output,) = read(CHAT, chat({"tool_calls": [CALL]}), streamed=False).outputs
    assert output.tool_calls is not None
    (call,) = json.loads(output.tool_calls)
    assert json.loads(call["function"]["arguments"]) == {"a": 1}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_read_under_both_its_names(name: str) -> None:
    (output,) = read(CHAT, chat({"content": "yes", name: "hm"}), streamed=False).outputs
    assert output.reasoning == "hm"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        {"text": "yes", "meta_info": {"finish_reason": "stop", "prompt_tokens": 2**64}},
        {"text": "yes", "meta_info": {"finish_reason": {"type": "stop"}, "cached_tokens": "0"}},
        {"text": "yes", "index": None, "meta_info": {"finish_reason": {"type": "stop"}}},
    ],
)
def test_an_odd_generate_is_an_answer(answer: Any, streamed: bool) -> None:  # noqa: FBT001
    reading = read("/generate", answer, streamed=streamed)
    (output,) = reading.outputs
    assert reading.is_complete
    assert (output.output_text, output.finish_reason) == ("yes", "stop")
    assert (reading.input_tokens, reading.cached_tokens) == (None, None)


@pytest.mark.parametrize(("body", "expected"), [({"text": "a"}, 3), ({"text": ["a", "b"]}, 8)])
def test_a_prompt_with_many_outputs_is_counted_once(body: dict[str, Any], expected: int) -> None:
    counts = [3, 3, 5, 5][: 2 * (len(body["text"]))]
    answer = [
        {"text": "x", "meta_info": {"finish_reason": {"type": "stop"}, "prompt_tokens": count,
                                    "cached_tokens": 1, "completion_tokens": 2}}
        for count in counts
    ]  # fmt: skip
    dialect = GENERATING["/generate"]
    reader = dialect.reader(dialect.ask({**body, "sampling_params": {"n": 2}}))
    reader.body(json.dumps(answer).encode())
    reading = reader.reading()
    assert reading.input_tokens == expected
    assert reading.cached_tokens == len(body["text"])
    assert reading.output_tokens == 2 * len(counts)


@pytest.mark.parametrize("endpoint", [CHAT, "/generate"])
@pytest.mark.parametrize("data", [b"", b"x", b"{", b"1", b'"x"', b"null", b"[1]", b"[" * 10**5])
def test_what_is_no_json_object_is_garbled(endpoint: str, data: bytes) -> None:
    with pytest.raises(Garbled):
        read(endpoint, data, streamed=True)


@pytest.mark.parametrize(
    ("chunk", "streamed"),
    [(b"data: [DONE]\n\n", True), (b'{"choices": []}', False), (b'{"usage": {}}', False)],
)
async def test_an_answer_without_choices_is_recorded_as_failed(
    tmp_path: Path,
    chunk: bytes,
    streamed: bool,  # noqa: FBT001  (a parameter)
) -> None:
    script = replay([chunk], streamed=streamed)
    body = {"messages": [], "stream": streamed}
    async with recording(tmp_path / "results.db", script) as running:
        caller = await running.ask(body)
        (found,) = running.stored()
    assert found.result.status is Status.FAILED
    assert found.result.error_type == "upstream_error"
    assert b"upstream_error" in caller.body
    assert b"[DONE]" not in caller.body
