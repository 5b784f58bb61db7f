"""Clients as they are, on SGLang in the daemon: each notices nothing, each answer is its row."""

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from support.daemon import until
from support.engines import ADMIN_KEY, Appliance, user
from support.sglang import sglang_version

pytestmark = [
    pytest.mark.sglang,
    pytest.mark.parametrize("appliance", ["sglang"], indirect=True),
]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "sky": {"enum": ["clear", "cloudy"]}},
    "required": ["ok", "sky"],
    "additionalProperties": False,
}
AS_JSON: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather", "parameters": SCHEMA},
}
# Random weights end an answer where it happens: the likeliest tokens are the same each time.
FULL: Any = {"temperature": 0}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def client(appliance: Appliance) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{appliance.daemon.url}/v1", api_key="none", max_retries=0, timeout=30
    ) as client:
        yield client


def counts(row: dict[str, Any]) -> tuple[int, int]:
    return row["input_tokens"], row["output_tokens"]


def said(usage: Any) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens


class TestOpenAI:
    """The ``openai`` SDK."""

    def test_chat_with_logprobs(self, appliance: Appliance, client: openai.OpenAI) -> None:
        chat = client.chat.completions.create(
            model="tiny", messages=user("hi"), max_tokens=4, logprobs=True, top_logprobs=2, **FULL
        )
        row = appliance.row(chat.id)
        assert counts(row) == said(chat.usage)
        assert row["outputs"][0]["output_text"] == chat.choices[0].message.content
        assert row["finish_reason"] == chat.choices[0].finish_reason
        logprobs = chat.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [len(token.top_logprobs) for token in logprobs.content] == [2] * row["output_tokens"]
        assert json.loads(row["response_body"])["choices"][0]["logprobs"]["content"]

    def test_streamed_chat_with_usage(self, appliance: Appliance, client: openai.OpenAI) -> None:
        with client.chat.completions.create(
            model="tiny",
            messages=user("stream"),
            max_tokens=5,
            **FULL,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            chunks = list(stream)
        row = appliance.row(chunks[0].id)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert row["outputs"][0]["output_text"] == text
        assert counts(row) == said(chunks[-1].usage)
        assert 0 < row["ttft_ms"] <= row["latency_ms"]

    def test_two_choices(self, appliance: Appliance, client: openai.OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=user("twice"), n=2, max_tokens=4, temperature=1
        )
        chat = raw.parse()
        # SGLang answers `n` > 1 under an id of its own
        row = appliance.row(raw.headers["x-edge-store-id"])
        outputs = [output["output_text"] for output in row["outputs"]]
        assert outputs == [choice.message.content for choice in chat.choices]
        assert len(outputs) == 2
        assert counts(row) == said(chat.usage)

    @pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_call_of_a_tool(
        self, appliance: Appliance, client: openai.OpenAI, choice: Any, *, stream: bool
    ) -> None:
        asked: dict[str, Any] = {
            "model": "tiny",
            "messages": user("weather"),
            "tools": [TOOL],
            "tool_choice": choice,
            "parallel_tool_calls": False,  # else a random model calls again and again
            "max_tokens": 200,
        }
        if stream:
            with client.chat.completions.stream(**asked) as events:
                chat: Any = events.get_final_completion()
        else:
            chat = client.chat.completions.create(**asked)
        call = chat.choices[0].message.tool_calls[0]
        row = appliance.row(chat.id)
        assert row["outputs"][0]["tool_calls"][0] == {
            "id": call.id,
            "type": "function",
            "function": {"name": "get_weather", "arguments": call.function.arguments},
        }
        assert row["finish_reason"] == chat.choices[0].finish_reason == "tool_calls"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)

    def test_answer_to_a_schema(self, appliance: Appliance, client: openai.OpenAI) -> None:
        chat = client.chat.completions.create(
            model="tiny", messages=user("weather"), response_format=AS_JSON, max_tokens=64
        )
        (output,) = appliance.row(chat.id)["outputs"]
        jsonschema.validate(json.loads(chat.choices[0].message.content or ""), SCHEMA)
        assert output["output_text"] == chat.choices[0].message.content
        assert (output["json_state"], output["schema_valid"]) == ("valid", True)

    @pytest.mark.parametrize("stream", [False, True])
    def test_completion(self, appliance: Appliance, client: openai.OpenAI, *, stream: bool) -> None:
        asked: dict[str, Any] = {"model": "tiny", "prompt": "once", "max_tokens": 4, **FULL}
        if stream:
            with client.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}
            ) as pieces:
                chunks = list(pieces)
            result_id, usage = chunks[0].id, chunks[-1].usage
            text = "".join(c.choices[0].text for c in chunks if c.choices)
        else:
            answer = client.completions.create(**asked)
            result_id, usage, text = answer.id, answer.usage, answer.choices[0].text
        row = appliance.row(result_id)
        assert row["outputs"][0]["output_text"] == text != ""
        assert counts(row) == said(usage)

    def test_refusal_is_the_sdks_own_exception(
        self, appliance: Appliance, client: openai.OpenAI
    ) -> None:
        with pytest.raises(openai.BadRequestError, match="context length") as refused:
            client.completions.create(model="tiny", prompt="x " * 4000)
        row = appliance.row(refused.value.response.headers["x-edge-store-id"])
        assert (row["status"], row["http_status"]) == ("failed", 400)


class TestLeaving:
    """A caller that leaves takes its work with it."""

    def test_scheduler_stops_generating(self, appliance: Appliance) -> None:
        def counted(name: str) -> float:
            metrics = appliance.daemon.metrics().items()
            return sum(value for key, value in metrics if key.startswith(f"sglang:{name}{{"))

        before = counted("generation_tokens_total")
        result_id, text = appliance.first_piece(
            "/v1/chat/completions", messages=user("long"), max_tokens=1900, ignore_eos=True
        )
        until(lambda: appliance.daemon.metrics()["edge_store_in_flight"] == 0, "its slot is free")
        row = appliance.row(result_id)
        if sglang_version() != "0.5.17":  # which does not count what was aborted
            until(lambda: counted("generation_tokens_total") > before, "SGLang ends the request")
            assert counted("generation_tokens_total") - before < 950  # it had seconds to make all
        until(lambda: counted("num_running_reqs") == 0, "nothing runs")
        assert row["status"] == "incomplete"
        assert row["outputs"][0]["output_text"].startswith(text)


class TestOperating:
    """What an operator sees of SGLang, and nobody else."""

    KEY = {"authorization": f"Bearer {ADMIN_KEY}"}  # noqa: RUF012

    def test_arguments_have_our_defaults(self, appliance: Appliance) -> None:
        found = appliance.daemon.get("/server_info", headers=self.KEY).json()
        assert found["constrained_json_disable_any_whitespace"] is True
        assert found["grammar_backend"] == "xgrammar"
        assert found["enable_metrics"] is True

    def test_admin_key_opens_what_is_needed_and_no_more(self, appliance: Appliance) -> None:
        daemon = appliance.daemon
        until(lambda: daemon.metrics()["edge_store_in_flight"] == 0, "nothing runs")
        assert daemon.post("/flush_cache").status_code == 404
        assert daemon.post("/flush_cache", headers=self.KEY).status_code == 200
        for path in ("/update_weights_from_disk", "/load_lora_adapter", "/abort_request"):
            assert daemon.post(path, headers=self.KEY).status_code == 404, path

    def test_metrics_are_ours_and_sglangs_each_once(self, appliance: Appliance) -> None:
        lines = appliance.daemon.get("/metrics").text.splitlines()
        types = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
        samples = [line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")]
        for named in (types, samples):
            assert len(named) == len(set(named))
        assert {"edge_store_in_flight", "sglang:num_running_reqs"} <= set(types)


class TestGenerate:
    """SGLang's own ``/generate``."""

    @pytest.mark.parametrize(
        ("constraint", "pattern"),
        [
            ({"regex": "(yes|no)"}, "yes|no"),
            ({"ebnf": 'root ::= "left" | "right"'}, "left|right"),
            ({"json_schema": json.dumps(SCHEMA)}, r'\{"ok": *(true|false), *"sky": *"cl\w+"\}'),
        ],
        ids=["regex", "ebnf", "json_schema"],
    )
    def test_constrained_text(
        self, appliance: Appliance, constraint: dict[str, str], pattern: str
    ) -> None:
        params = {"max_new_tokens": 64, **constraint}
        answer = appliance.ask("/generate", text="Answer:", sampling_params=params)
        row = appliance.row(answer)
        assert re.fullmatch(pattern, answer.json()["text"])
        assert row["outputs"][0]["output_text"] == answer.json()["text"]
        assert row["finish_reason"] == "stop"
        assert row["outputs"][0]["json_state"] == (
            "valid" if "json_schema" in constraint else "text"
        )
        holds = None if "json_schema" in constraint else True
        assert row["outputs"][0]["constraint_holds"] is holds

    @pytest.mark.parametrize("ids", [[5, 6, 7], [[5, 6, 7], [8, 9]]], ids=["one", "list"])
    def test_prompt_of_token_ids(self, appliance: Appliance, ids: list[Any]) -> None:
        answer = appliance.ask(
            "/generate", input_ids=ids, sampling_params={"max_new_tokens": 3, "ignore_eos": True}
        )
        given = answer.json() if isinstance(answer.json(), list) else [answer.json()]
        row = appliance.row(answer)
        assert [o["output_text"] for o in row["outputs"]] == [one["text"] for one in given]
        assert row["input_tokens"] == sum(one["meta_info"]["prompt_tokens"] for one in given)
        assert row["output_tokens"] == 3 * len(given)

    def test_two_outputs_of_each_input(self, appliance: Appliance) -> None:
        params = {"n": 2, "max_new_tokens": 3, "temperature": 1, "ignore_eos": True}
        answer = appliance.ask("/generate", text=["one", "two"], sampling_params=params)
        row = appliance.row(answer)
        assert [o["output_text"] for o in row["outputs"]] == [one["text"] for one in answer.json()]
        assert len(row["outputs"]) == 4
        assert row["output_tokens"] == 12


class TestFrontend:
    """Programs in SGLang's frontend language, on ``sglang.RuntimeEndpoint``."""

    def test_program_with_gen_select_fork_and_regex(self, appliance: Appliance) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sglang as sgl  # noqa: PLC0415  (seconds, and only in its own environment)
        before = appliance.daemon.box.scalar("SELECT coalesce(max(seq), 0) FROM results")

        @sgl.function  # type: ignore[untyped-decorator]  # SGLang is not here for mypy
        def program(s: Any, topic: str) -> None:
            s += "Topic: " + topic + "\n"
            s += "Number: " + sgl.gen("number", regex="[0-9]{3}", max_tokens=8) + "\n"
            s += "Size: " + sgl.select("size", choices=["small", "large"]) + "\n"
            forks = s.fork(2)
            forks += "Point: " + sgl.gen("point", max_tokens=4)
            forks.join()
            s += "Done: " + forks[0]["point"] + forks[1]["point"]

        state = program.run(topic="tides", backend=sgl.RuntimeEndpoint(appliance.daemon.url))
        points = re.search(r"Done: (.*)", state.text(), re.DOTALL)
        assert re.fullmatch("[0-9]{3}", state["number"])
        assert state["size"] in ("small", "large")
        rows = appliance.daemon.box.rows(
            "SELECT operation, status, output_text, output_tokens FROM results "
            "JOIN outputs USING (seq) WHERE seq > ? ORDER BY seq, choice_index",
            before,
        )
        texts = [text for operation, _, text, _ in rows if operation == "generate"]
        assert texts[0] == state["number"]
        assert points is not None
        assert points[1] in ("".join(texts[1:]), "".join(reversed(texts[1:])))
        assert len(texts) == 3
        cached = [row for row in rows if row[0] == "prefix_cache"]
        assert len(cached) >= 3  # the common prefix, and one for each choice
        assert {(status, text) for _, status, text, _ in cached} == {("completed", "")}
        shown = appliance.daemon.box.scalar(
            "SELECT count(*) FROM generations WHERE seq > ?", before
        )
        assert shown == 3


@pytest.mark.parametrize(
    "asked",
    [
        {"text": ""},
        {"text": ["a", ""]},
        {"text": "", "image_data": "of which a model of text takes none"},
        {"input_ids": [99_999_999]},
        {"input_ids": [-1]},
        {"text": "a", "return_logprob": True, "top_logprobs_num": 1_000_000},
        {"text": ["a", "b"], "return_logprob": True, "top_logprobs_num": [1, -1]},
        {"text": "a", "return_logprob": True, "token_ids_logprob": [99_999_999]},
        {"text": "a", "sampling_params": {"stop_token_ids": [-1], "min_new_tokens": 1}},
    ],
)
def test_what_would_kill_the_scheduler_is_refused(
    appliance: Appliance, asked: dict[str, Any]
) -> None:
    answer = appliance.ask("/generate", **{"sampling_params": {"max_new_tokens": 3}, **asked})
    assert answer.status_code == 400
    assert appliance.row(answer)["status"] == "failed"
    assert appliance.chat("still there?", max_tokens=2).status_code == 200


@pytest.mark.parametrize("grammar", ["root ::= root", 'root ::= "a" b\nb ::= b'])
def test_grammar_that_no_text_follows_is_refused(appliance: Appliance, grammar: str) -> None:
    answer = appliance.ask(
        "/generate", text="a", sampling_params={"ebnf": grammar, "max_new_tokens": 4}
    )
    assert answer.status_code == 400
    assert "comes to no end" in answer.text
    assert appliance.row(answer)["http_status"] == 400
    assert appliance.chat("still there?", max_tokens=2).status_code == 200


CIRCLE: Any = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("schema", [{"$ref": "#"}, CIRCLE], ids=["itself", "circle"])
def test_schema_that_refers_to_nothing_but_itself_is_refused(
    appliance: Appliance, schema: Any, *, stream: bool
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "circle", "schema": schema}}
    for answer in (
        appliance.chat("circle", response_format=form, max_tokens=4, stream=stream),
        appliance.ask(
            "/generate",
            text="circle",
            sampling_params={"json_schema": json.dumps(schema), "max_new_tokens": 4},
            stream=stream,
        ),
    ):
        row = appliance.row(answer)
        assert "refers to nothing but itself" in row["error_message"]
        assert "refers to nothing but itself" in answer.text
        assert (row["status"], row["http_status"]) == ("failed", 400)
        assert answer.status_code == 400 or stream  # which may have begun with 200
    assert appliance.chat("still there?", max_tokens=2).status_code == 200
