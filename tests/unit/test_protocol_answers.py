"""Anthropic's, Ollama's and the embeddings' protocols as other servers than SGLang speak them, and
what their requests say.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from support.scripted import recording, replay

from edge_store.api.routes import GENERATING
from edge_store.errors import InvalidRequest
from edge_store.recorder.transcript import Asked, Garbled, Reading
from edge_store.result import JsonState, Operation, Status

MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"
EMBEDDINGS = "/v1/embeddings"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
HI = [{"role": "user", "content": "hi"}]


def ask(endpoint: str, **body: Any) -> Asked:
    return GENERATING[endpoint].ask(body)


def read(endpoint: str, *answers: Any, streamed: bool = False) -> Reading:
    dialect = GENERATING[endpoint]
    reader = dialect.reader(ask(endpoint, messages=[], prompt="hi", input="hi"))
    for answer in answers:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if streamed:
            reader.event(data)
        else:
            reader.body(data)
    return reader.reading()


def calls(reading: Reading) -> list[tuple[str, str]]:
    (output,) = reading.outputs
    assert output.tool_calls is not None
    functions = [call["function"] for call in json.loads(output.tool_calls)]
    return [(function["name"], function["arguments"]) for function in functions]


def test_anthropics_own_answer_is_read() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "let me ", "citations": None},
        {"type": "text", "text": "see"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
    ]
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 100,
        "output_tokens": 7,
    }
    answer = {"model": "claude", "content": content, "usage": usage, "stop_reason": "tool_use"}
    reading = read(MESSAGES, answer)
    (output,) = reading.outputs
    assert (output.output_text, output.reasoning) == ("let me see", "hm")
    assert output.finish_reason == "tool_calls"
    assert calls(reading) == [("f", '{"a":1}'), ("web_search", "{}")]
    assert (reading.input_tokens, reading.cached_tokens, reading.output_tokens) == (123, 100, 7)
    assert (reading.response_model, reading.is_complete) == ("claude", True)


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
    ],
)
def test_a_stop_reason_is_recorded_in_the_words_of_the_column(said: str, recorded: str) -> None:
    (output,) = read(MESSAGES, {"content": [], "stop_reason": said}).outputs
    assert output.finish_reason == recorded


def test_counts_of_a_stream_are_the_newest_of_each() -> None:
    reading = read(
        MESSAGES,
        {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
         "usage": {"output_tokens": 6, "input_tokens": None}},
        streamed=True,
    )  # fmt: skip
    assert (reading.input_tokens, reading.output_tokens, reading.is_complete) == (9, 6, True)


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        (MESSAGES, {"content": [{"type": "text", "text": 7}], "stop_reason": 1, "usage": [1]}),
        (MESSAGES, {"content": [{"text": "7"}, 1], "usage": {"input_tokens": 2**64}}),
        (OLLAMA_CHAT, {"message": {"content": 7}, "done": True, "eval_count": "x"}),
        (OLLAMA_CHAT, {"message": {"content": "7", "tool_calls": 1}, "done": True}),
        (OLLAMA_GENERATE, {"response": 7, "done": True, "prompt_eval_count": -1}),
    ],
)
def test_an_odd_answer_is_an_answer(endpoint: str, answer: dict[str, Any]) -> None:
    reading = read(endpoint, answer)
    assert reading.is_complete
    assert [output.output_text for output in reading.outputs] == ["7"]
    assert reading.input_tokens is None


def test_ollamas_own_answer_is_read() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}
    reading = read(
        OLLAMA_CHAT,
        {"model": "llama3.2", "message": message, "done": False},
        {"model": "llama3.2", "message": {"content": ""}, "done": True, "done_reason": "length",
         "prompt_eval_count": 26, "eval_count": 290, "eval_duration": 4709213000},
        streamed=True,
    )  # fmt: skip
    (output,) = reading.outputs
    assert (output.reasoning, output.finish_reason) == ("hm", "length")
    assert calls(reading) == [("f", '{"a":1}')]
    assert (reading.input_tokens, reading.output_tokens) == (26, 290)


@pytest.mark.parametrize("endpoint", [MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE, EMBEDDINGS])
@pytest.mark.parametrize("data", [b"", b"{", b"1", b'"x"', b"null", b"[1]", b"[" * 10**5])
def test_what_is_no_json_object_is_garbled(endpoint: str, data: bytes) -> None:
    for streamed in (False, True):
        with pytest.raises(Garbled):
            read(endpoint, data, streamed=streamed)


def test_embeddings_are_counted_and_have_no_text() -> None:
    usage = {"prompt_tokens": 8, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}}
    data = [{"object": "embedding", "index": 0, "embedding": "base64=="}]
    reading = read(EMBEDDINGS, {"object": "list", "data": data, "model": "e5", "usage": usage})
    assert (reading.outputs, reading.is_complete, reading.response_model) == ((), True, "e5")
    assert (reading.input_tokens, reading.cached_tokens) == (8, 2)


def test_a_request_of_messages_says_what_is_recorded() -> None:
    asked = ask(
        MESSAGES,
        model="claude",
        max_tokens=5,
        system=[{"type": "text", "text": "be brief"}],
        messages=HI,
        metadata={"user_id": "u1"},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert (asked.operation, asked.stream) == (Operation.CHAT, False)
    assert asked.input_text == "system: be brief\nuser: hi"
    assert (asked.user_id, asked.metadata) == ("u1", '{"user_id":"u1"}')
    (form,) = asked.forms
    assert (form.is_json, json.loads(form.json_schema or "")) == (True, SCHEMA)
    assert set(json.loads(asked.params)) == {"max_tokens", "output_config"}


@pytest.mark.parametrize(
    ("form", "wanted", "schema"),
    [(None, False, None), ("", False, None), ("json", True, None), (SCHEMA, True, SCHEMA)],
)
def test_a_request_to_ollama_streams_unless_it_says_no(
    form: Any,
    wanted: bool,  # noqa: FBT001  (a parameter)
    schema: Any,
) -> None:
    asked = ask(OLLAMA_GENERATE, model="m", system="be brief", prompt="hi", format=form)
    assert (asked.operation, asked.stream) == (Operation.TEXT_COMPLETION, True)
    assert asked.input_text == "be brief\n\nhi"
    assert [form.is_json for form in asked.forms] == [True] * wanted
    assert all((f.json_schema and json.loads(f.json_schema)) == schema for f in asked.forms)
    asked = ask(OLLAMA_CHAT, model="m", messages=HI, stream=False)
    assert (asked.operation, asked.stream, asked.input_text) == (Operation.CHAT, False, "hi")


@pytest.mark.parametrize(
    ("given", "text"),
    [("hi", "hi"), (["hi", "ho"], "hi\nho"), ([1, 2], "[1,2]"), ([[1, 2], [3]], "[1,2]\n[3]")],
)
def test_a_request_for_embeddings_records_its_inputs(given: Any, text: str) -> None:
    asked = ask(EMBEDDINGS, model="e5", input=given, user="u1", rid=["a", "b"])
    assert (asked.operation, asked.input_text, asked.user_id) == (Operation.EMBEDDINGS, text, "u1")
    assert (asked.caller_rid, asked.takes_rid) == ('["a","b"]', False)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (MESSAGES, {"messages": 1, "system": "x"}),
        (MESSAGES, {"messages": [1]}),
        (MESSAGES, {"messages": HI, "stream": 1}),
        (OLLAMA_CHAT, {"messages": "hi"}),
        (OLLAMA_GENERATE, {"prompt": 1}),
        (EMBEDDINGS, {}),
    ],
)
def test_a_request_that_is_none_is_refused(endpoint: str, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ask(endpoint, **body)


async def test_json_asked_of_ollama_is_assessed(tmp_path: Path) -> None:
    answer = {"model": "m", "response": '{"a": 1}', "done": True, "done_reason": "stop"}
    script = replay([json.dumps(answer).encode() + b"\n"], kind=b"application/x-ndjson")
    async with recording(tmp_path / "results.db", script) as running:
        await running.ask({"prompt": "hi", "format": SCHEMA}, path=OLLAMA_GENERATE)
        (found,) = running.stored()
    (output,) = found.result.outputs
    assert found.result.status is Status.COMPLETED
    assert (output.json_state, output.schema_valid) == (JsonState.VALID, True)


@pytest.mark.parametrize(
    ("sampling", "operation"),
    [
        ({"max_new_tokens": 0}, Operation.PREFIX_CACHE),
        ([{"max_new_tokens": 0}, {"max_new_tokens": 0}], Operation.PREFIX_CACHE),
        ([{"max_new_tokens": 0}, {"max_new_tokens": 1}], Operation.GENERATE),
        ({"max_new_tokens": 1}, Operation.GENERATE),
        ({}, Operation.GENERATE),
        (None, Operation.GENERATE),
        ([], Operation.GENERATE),
    ],
)
def test_only_a_call_for_no_output_at_all_is_about_the_cache(
    sampling: Any, operation: Operation
) -> None:
    asked = ask("/generate", text=["a", "b"], sampling_params=sampling, rid=["r1", "r2"])
    assert asked.operation is operation
    assert (asked.caller_rid, asked.choices) == ('["r1","r2"]', 2)
