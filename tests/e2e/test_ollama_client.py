"""The unmodified ``ollama`` client: chat and generate, plain and streamed, tools, keys, errors."""

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from support.clients import PLACE, TOOL_PARAMETERS, Keyed, keyed
from support.daemon import DEADLINE_S

TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": TOOL_PARAMETERS}}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("ollama")) as box:
        yield box


@pytest.fixture
def client(box: Keyed, monkeypatch: pytest.MonkeyPatch) -> Iterator[ollama.Client]:
    with client_of(box, box.key, monkeypatch) as client:
        yield client


def client_of(box: Keyed, key: str, monkeypatch: pytest.MonkeyPatch) -> ollama.Client:
    """The key is given as the client wants it: in ``OLLAMA_API_KEY``."""
    monkeypatch.setenv("OLLAMA_API_KEY", key)
    return ollama.Client(host=box.url, timeout=DEADLINE_S)


def user(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limit", [None, 5])
def test_chat_is_its_row(
    box: Keyed, client: ollama.Client, limit: int | None, *, stream: bool
) -> None:
    prompt = f"chat {stream} {limit}"
    options = {"num_predict": limit} if limit else {}
    asked: Any = {"model": "demo", "messages": user(prompt), "options": options}
    if stream:
        parts = list(client.chat(**asked, stream=True))
        text, last = "".join(part.message.content or "" for part in parts), parts[-1]
        assert len(parts) > 3
    else:
        last = client.chat(**asked)
        text = last.message.content or ""
    _is_row(box.row(f"{prompt}"), text, last, "chat", stream=stream)
    assert last.done_reason == ("length" if limit else "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_generate_is_its_row(box: Keyed, client: ollama.Client, *, stream: bool) -> None:
    prompt = f"generate {stream}"
    if stream:
        parts = list(client.generate("demo", prompt, system="Be kind.", stream=True))
        text, last = "".join(part.response or "" for part in parts), parts[-1]
    else:
        last = client.generate("demo", prompt, system="Be kind.")
        text = last.response or ""
    _is_row(box.row(f"Be kind.\n\n{prompt}"), text, last, "text_completion", stream=stream)


def _is_row(row: dict[str, Any], text: str, last: Any, operation: str, *, stream: bool) -> None:
    (output,) = row["outputs"]
    assert output["output_text"] == text != ""
    assert last.done is True
    assert {
        "operation": operation,
        "status": "completed",
        "tenant": "shop",
        "response_model": "demo",
        "finish_reason": last.done_reason,
        "input_tokens": last.prompt_eval_count,
        "output_tokens": last.eval_count,
        "stream": stream,
    }.items() <= row.items()


@pytest.mark.parametrize("stream", [False, True])
def test_call_of_a_tool_is_in_the_row(box: Keyed, client: ollama.Client, *, stream: bool) -> None:
    prompt = f"use get_weather {stream}"
    parts: list[Any] = (
        list(client.chat("demo", user(prompt), tools=[TOOL], stream=True))
        if stream
        else [client.chat("demo", user(prompt), tools=[TOOL])]
    )
    (call,) = [call for part in parts for call in part.message.tool_calls or ()]
    (stored,) = box.row(f"{prompt}")["outputs"][0]["tool_calls"]
    assert stored["function"]["name"] == call.function.name == "get_weather"
    assert json.loads(stored["function"]["arguments"]) == call.function.arguments


def test_structured_output_is_recorded_as_valid(box: Keyed, client: ollama.Client) -> None:
    answer = client.chat("demo", user("a place"), format=PLACE)
    (output,) = box.row("a place")["outputs"]
    assert output["output_json"] == json.loads(answer.message.content or "")
    assert (output["json_state"], output["schema_valid"]) == ("valid", True)


def test_a_stream_that_dies_raises_and_is_recorded(box: Keyed, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError):
        list(client.chat("demo", user("[demo:die] now"), stream=True))
    row = box.row("[demo:die] now")
    assert (row["status"], row["error_type"]) == ("failed", "upstream_error")


def test_refusals_have_their_status_and_say_why(
    box: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = box.create("--tenant", "shop", "--scope", "read_own")
    slow = box.create("--tenant", "shop", "--requests-per-minute", "1")
    with client_of(box, slow, monkeypatch) as client:
        client.generate("demo", "the first")
    for key, prompt, status, says in (
        (slow, "x", 429, "its minute"),  # which runs
        ("es-wrong", "x", 401, "not valid"),
        (reader, "x", 403, "right generate"),
        (box.key, "[demo:error]", 500, "asked for this"),
    ):
        with client_of(box, key, monkeypatch) as client:
            with pytest.raises(ollama.ResponseError) as caught:
                client.generate("demo", prompt)
            assert caught.value.status_code == status
            assert says in caught.value.error
