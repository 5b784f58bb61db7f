"""SDKs unmodified, on SGLang in the daemon: what we store and queue around its answers, and the
clients of other protocols. ``tests/e2e`` has each of them at length, on the demo engine.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import jsonschema
import ollama
import openai
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from support.batches import ENDED
from support.daemon import DEADLINE_S, until
from support.engines import Appliance, user

pytestmark = [
    pytest.mark.sglang,
    pytest.mark.parametrize("appliance", ["sglang"], indirect=True),
]

# Random weights: the likeliest tokens are the same each time; only a grammar makes sense of them.
FEW: Any = {"max_tokens": 4, "temperature": 0}
SCHEMA: Any = {
    "type": "object",
    "properties": {"sky": {"enum": ["clear", "cloudy"]}},
    "required": ["sky"],
    "additionalProperties": False,
}
RESULT = slice(len("resp_"), None)


@pytest.fixture
def client(appliance: Appliance) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{appliance.daemon.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S
    ) as client:
        yield client


class TestStored:
    """What OpenAI's SDK finds again."""

    def test_completion_is_found_changed_and_deleted(
        self, appliance: Appliance, client: openai.OpenAI
    ) -> None:
        stored = client.chat.completions
        made = stored.create(
            model="tiny", messages=user("keep"), store=True, metadata={"kept": "yes"}, **FEW
        )
        assert stored.retrieve(made.id).choices[0].message.content == (
            made.choices[0].message.content
        )
        assert made.id in [one.id for one in stored.list(metadata={"kept": "yes"})]
        assert [one.content for one in stored.messages.list(made.id)] == ["keep"]
        assert stored.update(made.id, metadata={"kept": "no"}).metadata == {"kept": "no"}
        assert stored.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            stored.retrieve(made.id)

    @pytest.mark.parametrize("stream", [False, True])
    def test_responses_follow_each_other_and_are_their_rows(
        self, appliance: Appliance, client: openai.OpenAI, *, stream: bool
    ) -> None:
        asked: Any = {"model": "tiny", "max_output_tokens": 4, "temperature": 0}
        first = client.responses.create(input="one", **asked)
        asked |= {"previous_response_id": first.id, "input": "two"}
        if stream:
            with client.responses.create(**asked, stream=True) as events:
                *_, last = events
            second = last.response
        else:
            second = client.responses.create(**asked)
        row = appliance.row(second.id[RESULT])
        assert row["outputs"][0]["output_text"] == second.output_text != ""
        assert row["input_text"].splitlines()[::2] == ["user: one", "user: two"]
        assert (row["input_tokens"], row["output_tokens"]) == (
            second.usage.input_tokens,
            second.usage.output_tokens,
        )
        assert client.responses.retrieve(second.id).output_text == second.output_text
        assert second.status == "incomplete"  # of 4 tokens
        client.responses.delete(second.id)

    def test_background_response_joins_its_conversation(
        self, appliance: Appliance, client: openai.OpenAI
    ) -> None:
        conversation = client.conversations.create(metadata={"of": "the test"})
        form: Any = {"format": {"type": "json_schema", "name": "sky", "schema": SCHEMA}}
        made = client.responses.create(
            model="tiny", input="the sky", text=form, background=True, conversation=conversation.id
        )
        assert made.status in ("queued", "in_progress", "completed")
        until(lambda: client.responses.retrieve(made.id).status == "completed", "it is answered")
        answer = client.responses.retrieve(made.id).output_text
        jsonschema.validate(json.loads(answer), SCHEMA)
        items: Any = list(client.conversations.items.list(conversation.id, order="asc"))
        assert [item.role for item in items] == ["user", "assistant"]
        assert items[1].content[0].text == answer
        assert appliance.row(made.id[RESULT])["conversation_id"] == conversation.id

    def test_batch_goes_from_upload_to_output(
        self, appliance: Appliance, client: openai.OpenAI
    ) -> None:
        lines = [
            {
                "custom_id": f"line-{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "tiny", "messages": user(f"{n}"), **FEW},
            }
            for n in range(6)
        ]
        text = "\n".join(json.dumps(line) for line in lines).encode()
        file = client.files.create(file=("input.jsonl", text), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        until(lambda: client.batches.retrieve(batch.id).status in ENDED, "it has ended")
        batch = client.batches.retrieve(batch.id)
        assert batch.request_counts is not None
        assert batch.request_counts.model_dump() == {"completed": 6, "failed": 0, "total": 6}
        assert batch.output_file_id is not None
        output = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
        told = {
            one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"]
            for one in output
        }
        stored = appliance.daemon.box.rows(
            "SELECT custom_id, output_text FROM results JOIN outputs USING (seq) "
            "WHERE batch_id = ?", batch.id,
        )  # fmt: skip
        assert told == dict(stored)
        assert len(told) == 6


class TestAnthropic:
    """The ``anthropic`` SDK."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_message_is_its_row(self, appliance: Appliance, *, stream: bool) -> None:
        asked: Any = {"model": "tiny", "messages": user("hello"), "max_tokens": 4}
        asked["extra_body"] = {"temperature": 0}  # its newest version has no name for it
        with anthropic.Anthropic(
            base_url=appliance.daemon.url, api_key="none", max_retries=0, timeout=DEADLINE_S
        ) as client:
            if stream:
                with client.messages.stream(**asked) as events:
                    message: Any = events.get_final_message()
                    result_id = events.request_id
            else:
                message = client.messages.create(**asked)
                result_id = message._request_id
        assert result_id is not None
        row = appliance.row(result_id)
        assert row["outputs"][0]["output_text"] == message.content[0].text != ""
        assert (message.stop_reason, row["finish_reason"]) == ("max_tokens", "length")
        assert row["output_tokens"] == message.usage.output_tokens == 4


class TestOllama:
    """The ``ollama`` client."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_chat_and_text_are_their_rows(self, appliance: Appliance, *, stream: bool) -> None:
        options = {"num_predict": 4, "temperature": 0}
        with ollama.Client(host=appliance.daemon.url, timeout=DEADLINE_S) as client:
            for prompt, call, asked in (
                ("chat", client.chat, {"messages": user(f"chat {stream}")}),
                ("text", client.generate, {"prompt": f"text {stream}"}),
            ):
                answer: Any = call("tiny", **asked, options=options, stream=stream)
                parts = list(answer) if stream else [answer]
                text = "".join(
                    (part.message.content if "messages" in asked else part.response) or ""
                    for part in parts
                )
                ((output, tokens),) = appliance.daemon.box.rows(
                    "SELECT output_text, output_tokens FROM generations WHERE input_text = ?",
                    f"{prompt} {stream}",
                )
                assert output == text != ""
                assert (tokens, parts[-1].eval_count) == (4, 4)
                assert (parts[-1].done, parts[-1].done_reason) == (True, "length")


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy"]


@tool
def get_weather(sky: Literal["clear", "cloudy"]) -> str:
    """The weather under a sky."""
    return sky


class TestLangChain:
    """``ChatOpenAI``."""

    @pytest.fixture
    def model(self, appliance: Appliance) -> ChatOpenAI:
        return ChatOpenAI(
            model="tiny",
            base_url=f"{appliance.daemon.url}/v1",
            api_key=SecretStr("none"),
            max_retries=0,
            timeout=DEADLINE_S,
            temperature=0,
            stream_usage=True,
        )

    def outputs(self, appliance: Appliance, prompt: str) -> tuple[Any, ...]:
        ((*found,),) = appliance.daemon.box.rows(
            "SELECT output_text, tool_calls, schema_valid, output_tokens FROM generations "
            "WHERE input_text = ?",
            prompt,
        )
        return tuple(found)

    def test_answers_plain_and_streamed_are_their_rows(
        self, appliance: Appliance, model: ChatOpenAI
    ) -> None:
        plain: Any = model.invoke("chain plain", max_tokens=4)
        whole: Any = None
        for chunk in model.stream("chain stream", max_tokens=4):
            whole = chunk if whole is None else whole + chunk
        for prompt, answer in (("chain plain", plain), ("chain stream", whole)):
            text, _, _, tokens = self.outputs(appliance, prompt)
            assert text == answer.content != ""
            assert tokens == answer.usage_metadata["output_tokens"] == 4

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_structured_output_is_an_object(
        self,
        appliance: Appliance,
        model: ChatOpenAI,
        method: Literal["json_schema", "function_calling"],
    ) -> None:
        model.max_tokens = 64
        weather = model.with_structured_output(Weather, method=method).invoke(f"chain {method}")
        assert isinstance(weather, Weather)
        text, calls, holds, _ = self.outputs(appliance, f"chain {method}")
        told = text if method == "json_schema" else json.loads(calls)[0]["function"]["arguments"]
        assert (json.loads(told), holds) == (weather.model_dump(), 1)

    @pytest.mark.parametrize("stream", [False, True])
    def test_tool_is_called(self, appliance: Appliance, model: ChatOpenAI, *, stream: bool) -> None:
        bound = model.bind_tools(
            [get_weather], tool_choice="get_weather", parallel_tool_calls=False
        )
        answer: Any = None
        prompt = f"chain tool {stream}"
        for chunk in (
            bound.stream(prompt, max_tokens=200)
            if stream
            else [bound.invoke(prompt, max_tokens=200)]
        ):
            answer = chunk if answer is None else answer + chunk
        (call,) = answer.tool_calls
        (stored,) = json.loads(self.outputs(appliance, prompt)[1])
        assert (stored["id"], stored["function"]["name"]) == (call["id"], call["name"])
        assert json.loads(stored["function"]["arguments"]) == call["args"]
        assert get_weather.invoke(call["args"]) in ("clear", "cloudy")
