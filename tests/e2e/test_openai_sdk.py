"""The unmodified ``openai`` SDK against the daemon: it notices nothing, every answer is kept."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.daemon import Box, DaemonProcess

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "degrees": {"type": "integer", "minimum": -60, "maximum": 60},
        "sky": {"enum": ["clear", "cloudy"]},
        "hours": {"type": "array", "items": {"$ref": "#/$defs/hour"}, "minItems": 2},
    },
    "required": ["city", "degrees", "sky", "hours"],
    "additionalProperties": False,
    "$defs": {
        "hour": {
            "type": "object",
            "properties": {"at": {"type": "integer"}, "rain": {"type": "boolean"}},
            "required": ["at", "rain"],
            "additionalProperties": False,
        }
    },
}
AS_JSON: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("sdk") / "box", "--engine", "demo")
    with box.serve() as daemon:
        yield daemon
        assert daemon.stop() == 0
        box.proven()


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def row(daemon: DaemonProcess, result_id: str) -> dict[str, Any]:
    """The whole result, as /v1/results/{id} shows it."""
    answer = daemon.get(f"/v1/results/{result_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_plain_chat_is_the_row_under_one_id(daemon: DaemonProcess, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="demo",
        messages=[{"role": "system", "content": "Be kind."}, *user("What is an outbox?")],
        temperature=0.5,
        user="u-7",
        metadata={"ward": "b"},
    )
    chat = raw.parse()
    stored = row(daemon, chat.id)
    assert raw.headers["x-edge-store-id"] == raw.headers["x-request-id"] == stored["id"] == chat.id
    assert raw.headers["x-edge-store-durability"] == "committed"
    assert int(raw.headers["x-edge-store-seq"]) == stored["seq"]
    assert stored["response_body"].encode() == raw.content
    assert stored["outputs"][0]["output_text"] == chat.choices[0].message.content
    assert stored["input_text"] == "system: Be kind.\nuser: What is an outbox?"
    assert chat.usage is not None
    assert {
        "status": "completed",
        "operation": "chat",
        "request_model": "demo",
        "response_model": "demo",
        "user_id": "u-7",
        "metadata": {"ward": "b"},
        "params": {"temperature": 0.5},
        "finish_reason": "stop",
        "input_tokens": chat.usage.prompt_tokens,
        "output_tokens": chat.usage.completion_tokens,
        "http_status": 200,
        "stream": False,
    }.items() <= stored.items()


@pytest.mark.parametrize("choices", [1, 2])
def test_streamed_chat_is_committed_when_its_finish_is_seen(
    daemon: DaemonProcess, client: openai.OpenAI, choices: int
) -> None:
    texts, open_choices, seen_id = [""] * choices, choices, ""
    with client.chat.completions.create(
        model="demo", messages=user(f"stream it {choices}"), n=choices, stream=True
    ) as stream:
        for chunk in stream:
            seen_id = chunk.id
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                open_choices -= choice.finish_reason is not None
            if not open_choices:
                break
        else:
            pytest.fail("the stream had no finish")
        # Not one byte more was read: the row must be in the file by now, for any reader.
        stored = daemon.box.rows(
            "SELECT status, stream, choice_index, output_text FROM results JOIN outputs USING (seq)"
            " WHERE id = ? ORDER BY choice_index",
            seen_id,
        )
    assert all(texts)
    assert stored == [("completed", 1, index, text) for index, text in enumerate(texts)]


def test_usage_of_a_stream_is_recorded_and_shown_only_to_who_asked(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    def chunks(**fields: Any) -> list[Any]:
        with client.chat.completions.create(
            model="demo", messages=user("count the tokens"), stream=True, **fields
        ) as stream:
            return list(stream)

    silent, told = chunks(), chunks(stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in silent)
    assert told[-1].usage is not None
    assert told[-1].choices == []
    for seen in (silent, told):
        stored = row(daemon, seen[0].id)
        assert stored["output_tokens"] == told[-1].usage.completion_tokens
        assert stored["input_tokens"] == told[-1].usage.prompt_tokens
        assert stored["ttft_ms"] <= stored["latency_ms"]


def test_two_choices_are_two_outputs_of_one_result(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    chat = client.chat.completions.create(model="demo", messages=user("twice"), n=2)
    outputs = row(daemon, chat.id)["outputs"]
    assert [o["output_text"] for o in outputs] == [c.message.content for c in chat.choices]
    assert len({o["output_text"] for o in outputs}) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_tool_call_is_recorded_with_its_arguments(
    daemon: DaemonProcess, client: openai.OpenAI, *, stream: bool
) -> None:
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": user("call get_weather for Rome"),
        "tools": [TOOL],
        "tool_choice": "required",
    }
    if stream:
        with client.chat.completions.stream(**asked) as events:
            chat: Any = events.get_final_completion()
    else:
        chat = client.chat.completions.create(**asked)
    (call,) = chat.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city"}
    stored = row(daemon, chat.id)
    assert stored["finish_reason"] == "tool_calls"
    assert stored["outputs"][0]["tool_calls"] == [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": "get_weather", "arguments": call.function.arguments},
        }
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_answer_to_a_json_schema_is_recorded_as_valid(
    daemon: DaemonProcess, client: openai.OpenAI, *, stream: bool
) -> None:
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": user("the weather"),
        "response_format": AS_JSON,
    }
    if stream:
        with client.chat.completions.stream(**asked) as events:
            chat: Any = events.get_final_completion()
    else:
        chat = client.chat.completions.create(**asked)
    (output,) = row(daemon, chat.id)["outputs"]
    assert output["output_text"] == chat.choices[0].message.content
    assert output["output_json"] == json.loads(output["output_text"])
    assert (output["json_state"], output["schema_valid"]) == ("valid", True)


def test_broken_json_is_repaired_in_the_row_and_reaches_the_client_as_it_was(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="demo", messages=user("[demo:broken-json] the weather"), response_format=AS_JSON
    )
    text = raw.parse().choices[0].message.content
    assert text is not None
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(text)
    stored = row(daemon, raw.parse().id)
    (output,) = stored["outputs"]
    assert stored["response_body"].encode() == raw.content
    assert output["output_text"] == text
    assert (output["json_state"], output["schema_valid"]) == ("repaired", True)
    assert output["repairer"].startswith("json-repair ")
    assert set(output["output_json"]) == {"city", "degrees", "sky", "hours"}


def test_truncated_json_is_never_repaired(daemon: DaemonProcess, client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="demo", messages=user("the weather"), response_format=AS_JSON, max_tokens=4
    )
    (output,) = row(daemon, chat.id)["outputs"]
    assert chat.choices[0].finish_reason == "length"
    assert (output["json_state"], output["output_json"]) == ("truncated", None)


@pytest.mark.parametrize("stream", [False, True])
def test_completion_is_recorded(
    daemon: DaemonProcess, client: openai.OpenAI, *, stream: bool
) -> None:
    if stream:
        with client.completions.create(model="demo", prompt="once upon", stream=True) as pieces:
            chunks = list(pieces)
        result_id, text = chunks[0].id, "".join(c.choices[0].text for c in chunks)
    else:
        answer = client.completions.create(model="demo", prompt="once upon")
        result_id, text = answer.id, answer.choices[0].text
    stored = row(daemon, result_id)
    assert stored["operation"] == "text_completion"
    assert stored["input_text"] == "once upon"
    assert stored["outputs"][0]["output_text"] == text != ""


def test_many_prompts_of_one_completion_are_all_recorded(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    prompts = [f"prompt {n}" for n in range(200)]
    answer = client.completions.create(model="demo", prompt=prompts)
    stored = row(daemon, answer.id)["outputs"]
    assert [output["output_text"] for output in stored] == [c.text for c in answer.choices]
    assert len(stored) == 200


def test_models_are_those_of_the_engine(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]


def test_refusals_are_the_sdks_own_exceptions(daemon: DaemonProcess, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=user("x"), n=1000)
    assert refused.value.code == "invalid_request"
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="demo", messages=user("[demo:error]"))
    failed_id = failed.value.response.headers["x-edge-store-id"]
    stored = row(daemon, failed_id)
    assert (stored["status"], stored["error_type"]) == ("failed", "engine_refused")
    assert stored["http_status"] == 500


def test_stream_that_dies_raises_in_the_sdk_and_is_recorded_with_what_had_come(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    chunks: list[Any] = []
    with (
        client.chat.completions.create(
            model="demo", messages=user("[demo:die]"), stream=True
        ) as stream,
        pytest.raises(openai.APIError) as broken,
    ):
        chunks.extend(iter(stream.__next__, None))
    assert broken.value.code == "upstream_error"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    stored = row(daemon, chunks[0].id)
    assert (stored["status"], stored["error_type"]) == ("failed", "upstream_error")
    assert stored["outputs"][0]["output_text"] == text != ""


def test_request_sent_again_with_its_idempotency_key_is_the_same_answer(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    def create(prompt: str) -> Any:
        return client.chat.completions.with_raw_response.create(
            model="demo", messages=user(prompt), extra_headers={"Idempotency-Key": "plain-1"}
        )

    first, again = create("only once"), create("only once")
    assert again.content == first.content
    assert again.parse().id == first.parse().id
    assert again.headers["x-edge-store-seq"] == first.headers["x-edge-store-seq"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        create("something else")
    assert refused.value.code == "idempotency_conflict"
    ids = [first.parse().id]
    assert daemon.box.scalar("SELECT count(*) FROM results WHERE id = ?", *ids) == 1


def test_stream_sent_again_with_its_idempotency_key_is_the_same_stream(
    client: openai.OpenAI,
) -> None:
    def chunks() -> list[Any]:
        with client.chat.completions.create(
            model="demo",
            messages=user("stream it once"),
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"Idempotency-Key": "stream-1"},
        ) as stream:
            return [chunk.model_dump() for chunk in stream]

    first = chunks()
    assert len(first) > 2
    assert chunks() == first


async def test_fifty_callers_of_one_idempotency_key_get_the_answer_of_one_row(
    daemon: DaemonProcess,
) -> None:
    prompt = "[demo:slow=20] one for all"
    async with openai.AsyncOpenAI(
        base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60
    ) as client:
        create = client.chat.completions.with_raw_response.create
        asked = (
            create(
                model="demo",
                messages=user(prompt),
                max_tokens=8,
                extra_headers={"Idempotency-Key": "fifty-1"},
            )
            for _ in range(50)
        )
        answers = await asyncio.gather(*asked)
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-edge-store-id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 49
    count = "SELECT count(*) FROM generations WHERE input_text = ?"
    assert daemon.box.scalar(count, prompt) == 1


def test_a_model_is_retrieved_by_its_name(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    assert client.models.retrieve(listed.id) == listed
    with pytest.raises(openai.NotFoundError, match="no model 'org/other' here") as caught:
        client.models.retrieve("org/other")
    assert (caught.value.code, caught.value.param) == ("not_found", "model")
