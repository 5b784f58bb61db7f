"""LangChain's ``ChatOpenAI`` as it is: plain, streamed, structured output, tools, keys."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from support.clients import Keyed, keyed
from support.daemon import DEADLINE_S


class Place(BaseModel):
    """A place and how warm it is."""

    city: str
    degrees: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("langchain")) as box:
        yield box


def model_of(box: Keyed, key: str = "", **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="demo",
        base_url=f"{box.url}/v1",
        api_key=SecretStr(key or box.key),
        max_retries=0,
        timeout=DEADLINE_S,
        **fields,
    )


def test_invoked_chat_is_its_row(box: Keyed) -> None:
    answer = model_of(box, temperature=0.5).invoke("plain")
    row = box.row("plain")
    assert row["outputs"][0]["output_text"] == answer.content != ""
    assert answer.response_metadata["finish_reason"] == row["finish_reason"] == "stop"
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == row["input_tokens"]
    assert answer.usage_metadata["output_tokens"] == row["output_tokens"]
    assert (row["tenant"], row["params"], row["stream"]) == ("shop", {"temperature": 0.5}, False)


def test_streamed_chat_is_its_row(box: Keyed) -> None:
    chunks = list(model_of(box, stream_usage=True).stream("streamed"))
    row = box.row("streamed")
    assert row["outputs"][0]["output_text"] == "".join(str(c.content) for c in chunks) != ""
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata["output_tokens"] == row["output_tokens"]
    assert whole.response_metadata["finish_reason"] == row["finish_reason"]
    assert row["stream"] is True


async def test_asked_asynchronously_it_is_its_row(box: Keyed) -> None:
    answer = await model_of(box).ainvoke("asynchronously")
    assert box.row("asynchronously")["outputs"][0]["output_text"] == answer.content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_the_object_of_the_row(
    box: Keyed, method: Literal["json_schema", "function_calling"]
) -> None:
    place = model_of(box).with_structured_output(Place, method=method).invoke(f"by {method}")
    (output,) = box.row(f"by {method}")["outputs"]
    assert isinstance(place, Place)
    if method == "json_schema":
        assert output["output_json"] == place.model_dump()
        assert (output["json_state"], output["schema_valid"]) == ("valid", True)
    else:
        (call,) = output["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == place.model_dump()


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_told(box: Keyed, *, stream: bool) -> None:
    prompt = f"use get_weather {stream}"
    model = model_of(box).bind_tools([get_weather])
    if stream:
        answer: Any = None
        for chunk in model.stream(prompt):
            answer = chunk if answer is None else answer + chunk
    else:
        answer = model.invoke(prompt)
    (call,) = answer.tool_calls
    row = box.row(f"{prompt}")
    (stored,) = row["outputs"][0]["tool_calls"]
    assert (stored["id"], stored["function"]["name"]) == (call["id"], call["name"])
    assert json.loads(stored["function"]["arguments"]) == call["args"]
    assert row["finish_reason"] == "tool_calls"
    told = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    after = model.invoke([HumanMessage(prompt), answer, told])
    assert after.content
    assert not after.tool_calls


def test_refusals_are_the_exceptions_of_the_sdk_below(box: Keyed) -> None:
    reader = box.create("--tenant", "shop", "--scope", "read_own")
    slow = box.create("--tenant", "shop", "--requests-per-minute", "1")
    model_of(box, slow).invoke("the first")
    for key, kind, code in (
        (slow, openai.RateLimitError, "rate_limited"),  # its minute runs
        ("es-wrong", openai.AuthenticationError, "unauthorized"),
        (reader, openai.PermissionDeniedError, "forbidden"),
    ):
        with pytest.raises(kind) as caught:
            model_of(box, key).invoke("not for you")
        assert caught.value.code == code
