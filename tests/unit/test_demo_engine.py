"""The demo engine, driven as the recorder drives it: one ASGI call for each request."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import json_repair
import jsonschema
import msgspec
import pytest

from edge_store.config import DemoSection
from edge_store.engine import ASGIMessage
from edge_store.engine.demo import DemoEngine
from edge_store.ids import ResultId
from edge_store.recorder.transcript import Dialect, Reader
from edge_store.recorder.transcript.anthropic import MessagesDialect
from edge_store.recorder.transcript.generate import GenerateDialect
from edge_store.recorder.transcript.ndjson import LineSplitter
from edge_store.recorder.transcript.ollama import OllamaChatDialect, OllamaGenerateDialect
from edge_store.recorder.transcript.openai import ChatDialect, CompletionDialect
from edge_store.recorder.transcript.sse import EventSplitter

DEADLINE_S = 60
CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"
DIALECTS: dict[str, Dialect] = {
    MESSAGES: MessagesDialect(),
    OLLAMA_CHAT: OllamaChatDialect(),
    OLLAMA_GENERATE: OllamaGenerateDialect(),
    CHAT: ChatDialect(),
    COMPLETIONS: CompletionDialect(),
    GENERATE: GenerateDialect(),
}
HELLO = [{"role": "user", "content": "Hello, what is the weather in Oslo?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3},
        "age": {"type": "integer", "minimum": 18, "exclusiveMaximum": 20},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1},
        "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "boss"],
    "additionalProperties": False,
}
PERSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}


class Call:
    """One request and what came back."""

    def __init__(self, body: Any, on_send: Callable[["Call"], None] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._waiting = [raw[: len(raw) // 2], raw[len(raw) // 2 :]]
        self._on_send = on_send
        self.left = asyncio.Event()
        self.is_watched = asyncio.Event()  # the engine waits for the caller to leave
        self.sent: list[ASGIMessage] = []

    async def receive(self) -> ASGIMessage:
        if self._waiting:
            piece = self._waiting.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._waiting)}
        self.is_watched.set()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: ASGIMessage) -> None:
        self.sent.append(message)
        if self._on_send:
            self._on_send(self)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def pieces(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def is_ended(self) -> bool:
        return self.sent[-1].get("more_body") is False

    @property
    def json(self) -> Any:
        return json.loads(b"".join(self.pieces))

    @property
    def events(self) -> list[Any]:
        """Decoded events; ``[DONE]`` as a text."""
        splitter = EventSplitter()
        datas = [splitter.data_of(event) for event in splitter.feed(b"".join(self.pieces))]
        assert splitter.rest() == b""
        return ["[DONE]" if d == b"[DONE]" else json.loads(d or b"") for d in datas]


async def call(
    path: str,
    body: Any,
    *,
    engine: DemoEngine | None = None,
    method: str = "POST",
    on_send: Callable[[Call], None] | None = None,
) -> Call:
    engine = engine or DemoEngine(DemoSection())
    made = Call(body, on_send)
    scope = {"type": "http", "path": path, "method": method, "headers": []}
    async with asyncio.timeout(DEADLINE_S), engine:
        await engine(scope, made.receive, made.send)
    return made


def read(path: str, body: dict[str, Any], made: Call) -> Reader:
    """What the recorder's reader makes of it."""
    assert made.status == 200
    dialect = DIALECTS[path]
    reader = dialect.reader(dialect.ask(body))
    if not body.get("stream"):
        reader.body(b"".join(made.pieces))
        return reader
    splitter: EventSplitter | LineSplitter = EventSplitter()
    if dict(made.sent[0]["headers"])[b"content-type"] == b"application/x-ndjson":
        splitter = LineSplitter()
    for piece in made.pieces:
        for event in splitter.feed(piece):
            data = splitter.data_of(event)
            assert data is not None
            reader.event(data)
    return reader


def text_of(made: Call, index: int = 0) -> str:
    return str(made.json["choices"][index]["message"]["content"])


async def test_models_lists_demo_alone() -> None:
    made = await call("/v1/models", b"", method="GET")
    assert [model["id"] for model in made.json["data"]] == ["demo"]


async def test_a_plain_chat_says_what_it_is_and_echoes_the_prompt() -> None:
    made = await call(CHAT, {"messages": HELLO, "model": "gpt-9", "rid": "our-id"})
    assert made.status == 200
    assert made.json["id"] == "our-id"
    assert made.json["model"] == "demo"
    assert "demo engine" in text_of(made)
    assert "weather in Oslo" in text_of(made)
    usage = made.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_the_same_request_gets_the_same_answer_and_choices_differ() -> None:
    body = {"messages": HELLO, "n": 3}
    first, second = await call(CHAT, body), await call(CHAT, body)
    assert first.json["choices"] == second.json["choices"]
    assert len({text_of(first, index) for index in range(3)}) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO}),
        (CHAT, {"messages": HELLO, "n": 3, "max_tokens": 7}),
        (CHAT, {"messages": HELLO, "stop": ["engine", "language"]}),
        (CHAT, {"messages": HELLO, "max_completion_tokens": 0}),
        (CHAT, {"messages": HELLO, "response_format": PERSON_FORMAT, "n": 2}),
        (CHAT, {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required"}),
        (CHAT, {"messages": [{"role": "user", "content": "naïve 😀 [demo:truncate] 漢字" * 9}]}),
        (COMPLETIONS, {"prompt": "Once upon a time"}),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2}),
        (COMPLETIONS, {"prompt": [1, 2, 3]}),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "json_schema": json.dumps(PERSON)}),
        (GENERATE, {"text": "Once"}),
        (GENERATE, {"text": ["a", "b"], "sampling_params": {"n": 2, "max_new_tokens": 5}}),
        (GENERATE, {"text": ["a", "b"], "sampling_params": [{"stop": "demo"}, {}]}),
        (GENERATE, {"input_ids": [5, 6, 7], "sampling_params": {"regex": "[ab]{3}(x|y)"}}),
    ],
)
async def test_a_stream_reads_back_as_the_plain_answer(path: str, body: dict[str, Any]) -> None:
    streamed_body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    plain = read(path, body, await call(path, body)).reading()
    made = await call(path, streamed_body)
    streamed = read(path, streamed_body, made).reading()
    assert made.events[-1] == "[DONE]"
    assert plain.is_complete
    assert msgspec.structs.replace(streamed, response_id=plain.response_id) == plain
    assert plain.input_tokens
    assert plain.output_tokens is not None


ANTHROPIC_TOOL = {"name": "get_weather", "input_schema": WEATHER["function"]["parameters"]}  # type: ignore[index]
ANTHROPIC = {"model": "demo", "max_tokens": 500, "messages": HELLO}
OLLAMA = {"model": "demo", "messages": HELLO}
TOLD = [
    *HELLO,
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "get_weather"}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]},
]


@pytest.mark.parametrize(
    ("path", "body", "finish"),
    [
        (MESSAGES, ANTHROPIC | {"system": "be kind"}, "stop"),
        (MESSAGES, ANTHROPIC | {"max_tokens": 3}, "length"),
        (MESSAGES, ANTHROPIC | {"max_tokens": 0}, "length"),
        (MESSAGES, ANTHROPIC | {"stop_sequences": ["engine"]}, "stop"),
        (MESSAGES, ANTHROPIC | {"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "any"}},
         "tool_calls"),
        (MESSAGES, ANTHROPIC | {"tools": [ANTHROPIC_TOOL], "messages": TOLD}, "stop"),
        (MESSAGES, ANTHROPIC | {"tools": [ANTHROPIC_TOOL], "max_tokens": 2,
                                "tool_choice": {"type": "tool", "name": "get_weather"}}, "length"),
        (MESSAGES, ANTHROPIC | {"output_config":
                                {"format": {"type": "json_schema", "schema": PERSON}}}, "stop"),
        (OLLAMA_CHAT, OLLAMA, "stop"),
        (OLLAMA_CHAT, OLLAMA | {"options": {"num_predict": 3}}, "length"),
        (OLLAMA_CHAT, OLLAMA | {"options": {"num_predict": -1, "stop": ["engine"]}}, "stop"),
        (OLLAMA_CHAT, OLLAMA | {"format": PERSON}, "stop"),
        (OLLAMA_CHAT, OLLAMA | {"tools": [WEATHER], "messages":
                                [{"role": "user", "content": "use get_weather"}]}, "stop"),
        (OLLAMA_CHAT, {"model": "demo"}, "load"),
        (OLLAMA_GENERATE, {"model": "demo", "prompt": "Once", "system": "be kind"}, "stop"),
        (OLLAMA_GENERATE, {"model": "demo", "prompt": "Once", "format": "json"}, "stop"),
        (OLLAMA_GENERATE, {"model": "demo"}, "load"),
    ],
)  # fmt: skip
async def test_a_stream_of_another_protocol_reads_back_as_the_plain_answer(
    path: str, body: dict[str, Any], finish: str
) -> None:
    bodies = [body | {"stream": stream} for stream in (False, True)]
    plain, streamed = [read(path, b, await call(path, b)).reading() for b in bodies]
    assert plain.is_complete
    assert streamed == plain
    (output,) = plain.outputs
    assert output.finish_reason == finish
    assert plain.output_tokens is not None
    if "format" in body or "output_config" in body:
        json.loads(output.output_text)
    is_call = body.get("tools") and "messages" in body and body["messages"] is not TOLD
    if is_call and finish != "length":
        (tool_call,) = json.loads(output.tool_calls or "[]")
        arguments = json.loads(tool_call["function"]["arguments"])
        jsonschema.validate(arguments, ANTHROPIC_TOOL["input_schema"])
    else:
        assert output.tool_calls is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MESSAGES, {"model": "demo", "messages": HELLO}),
        (MESSAGES, ANTHROPIC | {"messages": []}),
        (MESSAGES, ANTHROPIC | {"tools": [ANTHROPIC_TOOL],
                                "tool_choice": {"type": "tool", "name": "f"}}),
        (OLLAMA_CHAT, {"messages": HELLO}),
        (OLLAMA_CHAT, OLLAMA | {"format": "yaml"}),
        (OLLAMA_GENERATE, {"model": "demo", "prompt": 3}),
    ],
)  # fmt: skip
async def test_a_bad_request_is_refused_in_the_form_of_its_protocol(
    path: str, body: dict[str, Any]
) -> None:
    made = await call(path, body)
    assert made.status == 400
    if path == MESSAGES:
        assert made.json["type"] == "error"
        assert made.json["error"]["type"] == "invalid_request_error"
    else:
        assert isinstance(made.json["error"], str)


async def test_a_chat_stream_has_role_deltas_finish_usage_and_done() -> None:
    body = {"messages": HELLO, "stream": True, "max_tokens": 2}
    wanted = {**body, "stream_options": {"include_usage": True}}
    role, *deltas, finish, usage, done = (await call(CHAT, wanted)).events
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in deltas] == ["This", " is "]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"
    without = (await call(CHAT, body)).events
    assert without[-2]["choices"][0]["finish_reason"] == "length"


async def test_stop_ends_the_text_before_it() -> None:
    made = await call(CHAT, {"messages": HELLO, "stop": ["language", "engine"]})
    assert text_of(made) == "This is the edge-store demo "
    assert made.json["choices"][0]["finish_reason"] == "stop"
    assert made.json["choices"][0]["matched_stop"] == "engine"


async def test_a_generate_stream_is_cumulative_and_has_sglangs_fields() -> None:
    body = {"text": "Once", "rid": "r", "stream": True, "sampling_params": {"max_new_tokens": 3}}
    *events, done = (await call(GENERATE, body)).events
    assert [event["text"] for event in events] == ["This", "This is ", "This is the "]
    assert [len(event["output_ids"]) for event in events] == [1, 2, 3]
    assert [event["meta_info"]["finish_reason"] for event in events[:2]] == [None, None]
    meta = events[-1]["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 3}
    assert meta["id"] == "r"
    assert meta["prompt_tokens"] == 1
    assert meta["completion_tokens"] == 3
    assert meta["cached_tokens"] == 0
    assert meta["e2e_latency"] >= 0
    assert done == "[DONE]"


async def test_a_list_of_inputs_is_answered_with_a_list() -> None:
    made = await call(GENERATE, {"text": ["a"], "rid": ["x"]})
    assert [output["meta_info"]["id"] for output in made.json] == ["x"]
    made = await call(GENERATE, {"text": "a", "rid": "x", "sampling_params": {"n": 2}})
    assert [output["meta_info"]["id"] for output in made.json] == ["x_0", "x_1"]


async def test_a_json_schema_is_answered_with_a_valid_instance() -> None:
    made = await call(CHAT, {"messages": HELLO, "response_format": PERSON_FORMAT})
    jsonschema.validate(json.loads(text_of(made)), PERSON)
    body = {"text": "x", "sampling_params": {"json_schema": json.dumps(PERSON)}}
    jsonschema.validate(json.loads((await call(GENERATE, body)).json["text"]), PERSON)


async def test_json_object_is_answered_with_an_object() -> None:
    made = await call(CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}})
    assert json.loads(text_of(made))["engine"] == "demo"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"tool_choice": "required"}, "anything"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, "anything"),
        ({}, "please use get_weather for Oslo"),
    ],
)
async def test_a_tool_is_called_with_valid_arguments(extra: dict[str, Any], says: str) -> None:
    messages = [{"role": "user", "content": says}]
    made = await call(CHAT, {"messages": messages, "tools": [WEATHER], **extra})
    choice = made.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (tool_call,) = choice["message"]["tool_calls"]
    assert tool_call["function"]["name"] == "get_weather"
    arguments = json.loads(tool_call["function"]["arguments"])
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("extra", "messages"),
    [
        ({"tool_choice": "none"}, [{"role": "user", "content": "use get_weather"}]),
        ({}, [{"role": "user", "content": "hello"}]),
        (
            {},
            [
                {"role": "user", "content": "use get_weather"},
                {"role": "tool", "content": "rain", "tool_call_id": "c"},
            ],
        ),
    ],
)
async def test_no_tool_is_called(extra: dict[str, Any], messages: list[dict[str, str]]) -> None:
    made = await call(CHAT, {"messages": messages, "tools": [WEATHER], **extra})
    assert made.json["choices"][0]["finish_reason"] == "stop"
    assert "demo engine" in text_of(made)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b""),
        (CHAT, b"{"),
        (CHAT, b"[]"),
        (CHAT, b'{"messages": "\xff"}'),
        (CHAT, b'{"messages": [{"role": "user", "content": NaN}]}'),
        (CHAT, b'{"messages": [{"role": "user"}], "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": HELLO, "n": 0}),
        (CHAT, {"messages": HELLO, "n": "two"}),
        (CHAT, {"messages": HELLO, "max_tokens": -1}),
        (CHAT, {"messages": HELLO, "stop": 3}),
        (CHAT, {"messages": HELLO, "stream": "yes"}),
        (CHAT, {"messages": [{"role": "user", "content": {"a": 1}}]}),
        (CHAT, {"messages": HELLO, "tools": [{"function": {}}]}),
        (CHAT, {"messages": HELLO, "tools": [WEATHER], "tool_choice": "sometimes"}),
        (CHAT, {"messages": HELLO, "tool_choice": {"function": {"name": "f"}}}),
        (
            CHAT,
            {"messages": HELLO, "tools": [WEATHER], "tool_choice": {"function": {"name": "f"}}},
        ),
        (CHAT, {"messages": HELLO, "response_format": {"type": "yaml"}}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema"}}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}, "regex": "a"}),
        (COMPLETIONS, {}),
        (COMPLETIONS, {"prompt": []}),
        (COMPLETIONS, {"prompt": [1, "a"]}),
        (COMPLETIONS, {"prompt": [1.5]}),
        (GENERATE, {}),
        (GENERATE, {"text": []}),
        (GENERATE, {"text": ["a"] * 33, "sampling_params": {"n": 128}}),
        (GENERATE, {"text": "a", "sampling_params": 3}),
        (GENERATE, {"text": ["a", "b"], "sampling_params": [{}]}),
        (GENERATE, {"text": "a", "sampling_params": {"regex": "a", "json_schema": "{}"}}),
        (GENERATE, {"text": "a", "sampling_params": {"ebnf": "root ::= a"}}),
        (GENERATE, {"text": "a", "sampling_params": {"regex": "(?=a)b"}}),
        (GENERATE, {"text": "a", "sampling_params": {"regex": "(a"}}),
        (GENERATE, {"text": "a", "sampling_params": {"json_schema": "{"}}),
        (GENERATE, {"text": "a", "sampling_params": {"json_schema": ""}}),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_400(path: str, body: Any) -> None:
    made = await call(path, body)
    assert made.status == 400
    assert made.is_ended
    error = made.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if error["message"].startswith("`"):
        assert error["param"], "the path of the fault"


async def test_unknown_routes_and_methods_are_refused_as_json() -> None:
    assert (await call("/v1/nothing", b"")).json["error"]["code"] == "not_found"
    assert (await call("/v1/nothing", b"")).status == 404
    assert (await call(CHAT, b"", method="GET")).status == 405
    assert (await call("/v1/models", b"")).status == 405


async def test_a_regex_is_matched_from_end_to_end() -> None:
    body = {"text": "a", "sampling_params": {"regex": r"(yes|no), [A-Z]\w{2,4} \d+\.(\d)\2"}}
    text = (await call(GENERATE, body)).json["text"]
    assert text.startswith(("yes, ", "no, "))
    assert text[-1] == text[-2]


async def test_broken_json_is_broken_and_can_be_repaired() -> None:
    whole = await call(CHAT, {"messages": HELLO, "response_format": PERSON_FORMAT})
    messages = [{"role": "user", "content": "[demo:broken-json]"}]
    made = await call(CHAT, {"messages": messages, "response_format": PERSON_FORMAT})
    assert made.json["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(made))
    jsonschema.validate(json_repair.loads(text_of(made)), PERSON)
    json.loads(text_of(whole))


async def test_truncate_gives_half_with_finish_reason_length() -> None:
    messages = [{"role": "user", "content": "[demo:truncate]"}]
    made = await call(CHAT, {"messages": messages, "response_format": PERSON_FORMAT})
    assert made.json["choices"][0]["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(made))


async def test_error_marker_gives_500_in_the_envelope() -> None:
    made = await call(GENERATE, {"text": "a [demo:error]", "stream": True})
    assert made.status == 500
    assert made.json["error"]["type"] == "server_error"


async def test_die_marker_ends_without_a_terminal_event() -> None:
    messages = [{"role": "user", "content": "[demo:die]"}]
    body = {"messages": messages, "stream": True}
    made = await call(CHAT, body)
    assert made.is_ended
    assert "[DONE]" not in made.events
    reading = read(CHAT, body, made).reading()
    assert not reading.is_complete
    assert reading.outputs[0].output_text.startswith("This is")
    plain = await call(CHAT, {"messages": messages})
    with pytest.raises(json.JSONDecodeError):
        _ = plain.json


async def test_markers_of_an_earlier_turn_do_nothing() -> None:
    messages = [{"role": "user", "content": "[demo:error]"}, *HELLO]
    assert (await call(CHAT, {"messages": messages})).status == 200


async def test_slow_marker_takes_its_time_for_each_token() -> None:
    loop = asyncio.get_running_loop()
    messages = [{"role": "user", "content": "[demo:slow=20]"}]
    for stream in (False, True):
        before = loop.time()
        await call(CHAT, {"messages": messages, "stream": stream, "max_tokens": 3})
        assert loop.time() - before >= 0.055


@pytest.mark.parametrize("marker", ["", "[demo:slow=9999]"])
async def test_a_stream_ends_when_the_caller_leaves(marker: str) -> None:
    messages = [{"role": "user", "content": marker}]
    made = await call(
        CHAT,
        {"messages": messages, "stream": True},
        on_send=lambda made: made.left.set(),
    )
    assert len(made.sent) == 2  # the start and the role
    assert not made.is_ended


async def test_a_slow_plain_answer_is_dropped_when_the_caller_leaves() -> None:
    engine = DemoEngine(DemoSection(token_delay_ms=10_000))
    made = Call({"messages": HELLO})
    scope = {"type": "http", "path": CHAT, "method": "POST", "headers": []}
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(engine(scope, made.receive, made.send))
        made.left.set()
    assert made.sent == []


def _aborting(engine: DemoEngine, after: int) -> Callable[[Call], None]:
    def on_send(made: Call) -> None:
        if len(made.sent) == after:
            engine.abort(ResultId("r"))

    return on_send


async def test_an_aborted_generate_stream_ends_with_finish_reason_abort() -> None:
    engine = DemoEngine(DemoSection(token_delay_ms=1))
    body = {"text": "a", "rid": "r", "stream": True}
    made = await call(GENERATE, body, engine=engine, on_send=_aborting(engine, 3))
    *_, last, done = made.events
    assert last["meta_info"]["finish_reason"] == {"type": "abort"}
    assert last["text"] == "This is "
    assert done == "[DONE]"
    assert made.is_ended


async def test_an_aborted_chat_stream_just_ends() -> None:
    engine = DemoEngine(DemoSection(token_delay_ms=1))
    body = {"messages": HELLO, "rid": "r", "stream": True}
    made = await call(CHAT, body, engine=engine, on_send=_aborting(engine, 3))
    assert made.is_ended
    assert "[DONE]" not in made.events
    assert not read(CHAT, body, made).reading().is_complete


async def test_an_aborted_slow_plain_answer_comes_at_once_with_what_was_ready() -> None:
    engine = DemoEngine(DemoSection(token_delay_ms=10_000))
    made = Call({"messages": HELLO, "rid": "r"})
    scope = {"type": "http", "path": CHAT, "method": "POST", "headers": []}
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(engine(scope, made.receive, made.send))
        await made.is_watched.wait()
        engine.abort(ResultId("r"))
        await task
    assert made.json["choices"][0]["finish_reason"] == "abort"
    assert made.json["usage"]["completion_tokens"] == 0


async def test_abort_of_what_does_not_run_does_nothing_and_runs_are_forgotten() -> None:
    engine = DemoEngine(DemoSection())
    engine.abort(ResultId("unknown"))
    await call(CHAT, {"messages": HELLO, "rid": "r"}, engine=engine)
    assert engine._runs == {}
    assert await engine.is_ready()


async def test_cancelling_leaves_nothing_behind() -> None:
    engine = DemoEngine(DemoSection(token_delay_ms=10_000))
    made = Call({"messages": HELLO, "stream": True})
    scope = {"type": "http", "path": CHAT, "method": "POST", "headers": []}
    task = asyncio.ensure_future(engine(scope, made.receive, made.send))
    async with asyncio.timeout(DEADLINE_S):
        await made.is_watched.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine._runs == {}
