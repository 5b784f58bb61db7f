"""The unmodified ``anthropic`` SDK: ``x-api-key``, messages plain and streamed, tools, errors."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from support.clients import PLACE, TOOL_PARAMETERS, Keyed, keyed
from support.daemon import DEADLINE_S

TOOL: Any = {"name": "get_weather", "description": "d", "input_schema": TOOL_PARAMETERS}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("anthropic")) as box:
        yield box


@pytest.fixture(scope="module")
def client(box: Keyed) -> Iterator[anthropic.Anthropic]:
    with client_of(box, box.key) as client:
        yield client


def client_of(box: Keyed, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=box.url, api_key=key, max_retries=0, timeout=DEADLINE_S)


def asking(prompt: str, **fields: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "demo", "max_tokens": 400, "messages": messages, **fields}


def test_message_is_its_row(box: Keyed, client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        **asking("plain", system="Be kind.", metadata={"user_id": "u-7"})
    )
    row = box.row("system: Be kind.\nuser: plain")
    assert message._request_id == row["id"]
    (block,) = message.content
    assert block.type == "text"
    (output,) = row["outputs"]
    assert output["output_text"] == block.text != ""
    assert message.stop_reason == "end_turn"
    assert {
        "operation": "chat",
        "status": "completed",
        "tenant": "shop",
        "user_id": "u-7",
        "response_model": "demo",
        "finish_reason": "stop",
        "input_tokens": message.usage.input_tokens,
        "output_tokens": message.usage.output_tokens,
        "stream": False,
    }.items() <= row.items()


def test_streamed_message_is_its_row(box: Keyed, client: anthropic.Anthropic) -> None:
    with client.messages.stream(**asking("streamed", max_tokens=5)) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
        assert stream.request_id == stream.response.headers["x-edge-store-id"]
    row = box.row("streamed")
    assert row["id"] == stream.request_id
    assert row["outputs"][0]["output_text"] == text == message.content[0].text  # type: ignore[union-attr]
    assert (message.stop_reason, row["finish_reason"]) == ("max_tokens", "length")
    assert row["output_tokens"] == message.usage.output_tokens == 5
    assert row["input_tokens"] == message.usage.input_tokens
    assert row["stream"] is True
    assert row["ttft_ms"] is not None


@pytest.mark.parametrize("stream", [False, True])
def test_call_of_a_tool_and_its_result_go_both_ways(
    box: Keyed, client: anthropic.Anthropic, *, stream: bool
) -> None:
    prompt = f"use get_weather {stream}"
    asked = asking(prompt, tools=[TOOL])
    if stream:
        with client.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**asked)
    (block,) = message.content
    assert block.type == "tool_use"
    assert set(block.input) == {"city"}
    row = box.row(f"{prompt}")
    assert (message.stop_reason, row["finish_reason"]) == ("tool_use", "tool_calls")
    (call,) = row["outputs"][0]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == (block.id, "get_weather")
    assert json.loads(call["function"]["arguments"]) == block.input
    told = {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
    turns: Any = [
        *asked["messages"],
        {"role": "assistant", "content": [block.model_dump(mode="json")]},
        {"role": "user", "content": [told]},
    ]
    after = client.messages.create(**{**asked, "messages": turns})
    assert after.stop_reason == "end_turn"


def test_structured_output_is_recorded_as_valid(box: Keyed, client: anthropic.Anthropic) -> None:
    form = {"format": {"type": "json_schema", "schema": PLACE}}
    message = client.messages.create(**asking("a place", output_config=form))
    (output,) = box.row("a place")["outputs"]
    assert output["output_json"] == json.loads(message.content[0].text)
    assert (output["json_state"], output["schema_valid"]) == ("valid", True)


@pytest.mark.parametrize(
    ("prompt", "kind", "status", "word"),
    [
        ("", anthropic.BadRequestError, 400, "invalid_request_error"),
        ("[demo:error]", anthropic.InternalServerError, 500, "api_error"),
    ],
)
def test_errors_are_the_sdks_own(
    client: anthropic.Anthropic,
    prompt: str,
    kind: type[anthropic.APIStatusError],
    status: int,
    word: str,
) -> None:
    asked = asking(prompt) if prompt else {**asking("x"), "messages": 3}
    with pytest.raises(kind) as caught:
        client.messages.create(**asked)
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == word  # type: ignore[index]
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]


def test_a_stream_that_dies_raises_and_is_recorded(box: Keyed, client: anthropic.Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(**asking("[demo:die] now")) as stream,
    ):
        stream.until_done()
    assert caught.value.body["error"]["code"] == "upstream_error"  # type: ignore[index]
    row = box.row("[demo:die] now")
    assert (row["status"], row["error_type"]) == ("failed", "upstream_error")
    assert row["outputs"][0]["output_text"]


def test_what_a_key_may_not_is_an_exception_of_its_kind(box: Keyed) -> None:
    reader = box.create("--tenant", "shop", "--scope", "read_own")
    slow = box.create("--tenant", "shop", "--requests-per-minute", "1")
    with client_of(box, slow) as client:
        client.messages.create(**asking("the first"))
    for key, kind, word, code in (
        ("es-wrong", anthropic.AuthenticationError, "authentication_error", "unauthorized"),
        (reader, anthropic.PermissionDeniedError, "permission_error", "forbidden"),
        (slow, anthropic.RateLimitError, "rate_limit_error", "rate_limited"),
    ):
        with client_of(box, key) as client, pytest.raises(kind) as caught:
            client.messages.create(**asking("not for you"))
        error = caught.value.body["error"]  # type: ignore[index]
        assert (error["type"], error["code"]) == (word, code)
        assert caught.value.request_id
    assert int(caught.value.response.headers["retry-after"]) > 0
