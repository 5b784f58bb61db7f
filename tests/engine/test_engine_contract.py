"""What holds for every engine: the same requests through a daemon with each, and their rows.

``upstream`` asks a real ``sglang.launch_server``, ``sglang`` is the engine in the daemon's process.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest
from support.daemon import until
from support.engines import Appliance, user
from support.sglang import sglang_version

CHAT, COMPLETION, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "sky": {"enum": ["clear", "cloudy"]}},
    "required": ["ok", "sky"],
    "additionalProperties": False,
}
AS_JSON = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "nonsense"}}}
# Random weights end an answer where it happens; these make it as long as it may be.
FULL: dict[str, Any] = {"ignore_eos": True}
ADMINISTRATION = """\
/abort_request /add_external_corpus /begin_weight_update /close_session /configure_logging
/continue_generation /dump_expert_distribution_record /end_weight_update /flush_cache /freeze_gc
/get_internal_state /get_load /get_weights_by_name /hicache/storage-backend
/init_weights_update_group /load_lora_adapter /load_lora_adapter_from_tensors /open_session
/pause_generation /release_memory_occupation /resume_memory_occupation /set_internal_state
/set_trace_level /slow_down /start_profile /stop_profile /unload_lora_adapter
/update_weight_version /update_weights_from_disk /update_weights_from_distributed
/update_weights_from_tensor /vertex_generate /weights_checker /docs /redoc /nothing"""


def test_plain_chat_is_its_row(appliance: Appliance) -> None:
    answer = appliance.chat("hello", max_tokens=8, temperature=0.5, user="u-7", **FULL)
    said, row = answer.json(), appliance.row(answer)
    assert answer.headers["x-edge-store-durability"] == "committed"
    assert answer.headers["x-edge-store-id"] == row["id"] == said["id"]
    assert row["response_body"] == answer.text
    assert row["outputs"][0]["output_text"] == said["choices"][0]["message"]["content"] != ""
    expected = {
        "status": "completed",
        "operation": "chat",
        "engine": appliance.kind,
        "request_model": appliance.model,
        "response_model": appliance.model,
        "user_id": "u-7",
        "input_text": "hello",
        "finish_reason": said["choices"][0]["finish_reason"],
        "input_tokens": said["usage"]["prompt_tokens"],
        "output_tokens": said["usage"]["completion_tokens"],
        "http_status": 200,
        "stream": False,
        "error_type": None,
    }
    assert {key: row[key] for key in expected} == expected
    assert row["params"] == {"max_tokens": 8, "temperature": 0.5, **FULL}
    assert row["input_tokens"] > 0


def test_row_is_found_by_the_query_command(appliance: Appliance) -> None:
    answer = appliance.chat("query me", max_tokens=4)
    (found,) = appliance.daemon.box.query(
        "SELECT output_text, engine FROM generations WHERE id = :id",
        "-p",
        "id",
        answer.headers["x-edge-store-id"],
    )
    text = answer.json()["choices"][0]["message"]["content"]
    assert found == {"output_text": text, "engine": appliance.kind}


@pytest.mark.parametrize("asks_usage", [True, False])
def test_streamed_chat_is_its_row(appliance: Appliance, *, asks_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}
    seen = appliance.stream(CHAT, messages=user("hello"), max_tokens=6, **options, **FULL)
    row = appliance.row(seen)
    assert seen.is_done
    assert {chunk["id"] for chunk in seen.chunks} == {row["id"]}
    assert row["outputs"][0]["output_text"] == seen.text != ""
    assert (row["status"], row["stream"]) == ("completed", True)
    assert row["finish_reason"] == "length"
    assert row["output_tokens"] == 6
    assert row["input_tokens"] > 0
    assert 0 < row["ttft_ms"] <= row["latency_ms"]
    usages = [chunk["usage"] for chunk in seen.chunks if chunk.get("usage")]
    assert len(usages) == asks_usage
    for usage in usages:
        assert usage["prompt_tokens"] == row["input_tokens"]
        assert usage["completion_tokens"] == row["output_tokens"]


def test_stream_ends_with_its_last_token(appliance: Appliance) -> None:
    """Nothing that an engine does after its answer holds the end of it back."""
    streams = [appliance.stream(CHAT, messages=user("end"), max_tokens=1) for _ in range(3)]
    latencies = [appliance.row(seen)["latency_ms"] for seen in streams]
    assert min(latencies) < 1000, "SGLang's own wait after a stream is 2 s"


@pytest.mark.sglang
@pytest.mark.parametrize("appliance", ["sglang"], indirect=True)
def test_streams_at_once_lose_no_token(appliance: Appliance) -> None:
    """One that falls behind has several in one event: their log probabilities count them."""

    def tokens(number: int) -> tuple[int, str, Any]:
        answer = appliance.stream(
            CHAT, messages=user(f"tell {number}"), max_tokens=40, logprobs=True, **FULL
        )
        choices = [choice for chunk in answer.chunks for choice in chunk["choices"]]
        entries = [len(choice["logprobs"]["content"]) for choice in choices if choice["logprobs"]]
        return sum(entries), answer.text, appliance.row(answer)

    with ThreadPoolExecutor(24) as pool:
        for number, text, row in pool.map(tokens, range(24)):
            assert number == row["output_tokens"] == 40
            assert row["outputs"][0]["output_text"] == text


@pytest.mark.parametrize("stream", [False, True])
def test_two_choices_are_two_outputs(appliance: Appliance, *, stream: bool) -> None:
    texts = ["", ""]
    asked: dict[str, Any] = {"messages": user("twice"), "n": 2, "max_tokens": 5, **FULL}
    if stream:
        seen = appliance.stream(CHAT, **asked)
        for choice in (choice for chunk in seen.chunks for choice in chunk["choices"]):
            texts[choice["index"]] += choice["delta"].get("content") or ""
        row = appliance.row(seen)
    else:
        answer = appliance.ask(CHAT, **asked)
        texts = [choice["message"]["content"] for choice in answer.json()["choices"]]
        row = appliance.row(answer)
    assert [output["output_text"] for output in row["outputs"]] == texts
    assert all(texts)
    assert row["output_tokens"] == 10


def test_max_tokens_end_an_answer_with_length(appliance: Appliance) -> None:
    answer = appliance.chat("be short", max_tokens=3, **FULL)
    row = appliance.row(answer)
    assert answer.json()["choices"][0]["finish_reason"] == row["finish_reason"] == "length"
    assert row["output_tokens"] == 3


def test_stop_text_ends_an_answer_with_stop(appliance: Appliance) -> None:
    params = {"regex": "alpha, beta(, gamma){9}", "stop": ["beta"], "max_new_tokens": 64}
    answer = appliance.ask(GENERATE, text="count", sampling_params=params)
    row = appliance.row(answer)
    assert row["outputs"][0]["output_text"] == answer.json()["text"] == "alpha, "
    assert answer.json()["meta_info"]["finish_reason"] == {"type": "stop", "matched": "beta"}
    assert row["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_answer_to_a_json_schema_is_valid(appliance: Appliance, *, stream: bool) -> None:
    asked = {"messages": user("weather"), "response_format": AS_JSON, "max_tokens": 64}
    if stream:
        seen = appliance.stream(CHAT, **asked)
        text, row = seen.text, appliance.row(seen)
    else:
        answer = appliance.ask(CHAT, **asked)
        text, row = answer.json()["choices"][0]["message"]["content"], appliance.row(answer)
    jsonschema.validate(json.loads(text), SCHEMA)
    (output,) = row["outputs"]
    assert output["output_text"] == text
    assert output["output_json"] == json.loads(text)
    assert (output["json_state"], output["schema_valid"]) == ("valid", True)
    assert output["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_completion_is_its_row(appliance: Appliance, *, stream: bool) -> None:
    asked = {"prompt": "once upon", "max_tokens": 5, **FULL}
    if stream:
        seen = appliance.stream(COMPLETION, **asked)
        text, row = seen.text, appliance.row(seen)
    else:
        answer = appliance.ask(COMPLETION, **asked)
        text, row = answer.json()["choices"][0]["text"], appliance.row(answer)
        assert answer.json()["id"] == row["id"]
    assert (row["operation"], row["status"]) == ("text_completion", "completed")
    assert row["input_text"] == "once upon"
    assert row["outputs"][0]["output_text"] == text != ""
    assert row["output_tokens"] == 5


@pytest.mark.parametrize("stream", [False, True])
def test_generate_is_its_row(appliance: Appliance, *, stream: bool) -> None:
    asked = {"text": "once upon", "sampling_params": {"max_new_tokens": 5, **FULL}}
    if stream:
        seen = appliance.stream(GENERATE, **asked)
        assert seen.is_done
        last, row = seen.chunks[-1], appliance.row(seen)
        assert 0 < row["ttft_ms"] <= row["latency_ms"]
    else:
        answer = appliance.ask(GENERATE, **asked)
        last, row = answer.json(), appliance.row(answer)
    meta = last["meta_info"]
    assert meta["id"] == row["id"]
    assert (row["operation"], row["status"]) == ("generate", "completed")
    assert row["outputs"][0]["output_text"] == last["text"] != ""
    assert row["finish_reason"] == meta["finish_reason"]["type"] == "length"
    assert row["input_tokens"] == meta["prompt_tokens"] > 0
    assert row["output_tokens"] == meta["completion_tokens"] == 5
    # the answer does not name it, and an upstream may have several
    assert row["response_model"] == (None if appliance.kind == "upstream" else appliance.model)


@pytest.mark.parametrize("stream", [False, True])
def test_list_of_inputs_is_one_row_with_an_output_for_each(
    appliance: Appliance, *, stream: bool
) -> None:
    asked = {"text": ["one", "two", "three"], "sampling_params": {"max_new_tokens": 4, **FULL}}
    if stream:
        seen = appliance.stream(GENERATE, **asked)
        last = {chunk["index"]: chunk for chunk in seen.chunks}
        answers, row = [last[index] for index in range(3)], appliance.row(seen)
    else:
        answer = appliance.ask(GENERATE, **asked)
        answers, row = answer.json(), appliance.row(answer)
    assert [output["output_text"] for output in row["outputs"]] == [one["text"] for one in answers]
    assert row["output_tokens"] == 12
    assert row["input_tokens"] == sum(one["meta_info"]["prompt_tokens"] for one in answers)


def refused(appliance: Appliance, answer: httpx.Response, message: str) -> None:
    """The engine's own 400 reached the caller, and is a row."""
    row = appliance.row(answer)
    assert answer.status_code == row["http_status"] == 400
    assert message in answer.text
    assert (row["status"], row["error_type"]) == ("failed", "engine_refused")
    assert message in row["error_message"]
    assert row["response_body"] == answer.text


def test_schema_that_is_none_is_refused_with_the_engines_message(appliance: Appliance) -> None:
    refused(appliance, appliance.chat("bad", response_format=BAD_SCHEMA), "nonsense")


def test_regex_that_is_none_is_refused_with_the_engines_message(appliance: Appliance) -> None:
    params = {"regex": "(", "max_new_tokens": 4}
    answer = appliance.ask(GENERATE, text="bad", sampling_params=params)
    message = "parenthesis is not closed"
    if appliance.kind == "demo":
        message = "unterminated subpattern"
    elif sglang_version() == "0.5.6":  # which does not say why
        message = "Invalid grammar request"
    refused(appliance, answer, message)


@pytest.mark.sglang
@pytest.mark.parametrize("appliance", ["upstream", "sglang"], indirect=True)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": user("x " * 4000)}),
        (COMPLETION, {"prompt": "x " * 4000}),
        (GENERATE, {"text": "x " * 4000}),
    ],
)
def test_prompt_over_the_context_is_refused_with_the_engines_message(
    appliance: Appliance, path: str, body: dict[str, Any]
) -> None:
    refused(appliance, appliance.ask(path, **body), "context length (2048 tokens)")


def test_caller_that_leaves_has_what_it_saw_recorded_as_incomplete(appliance: Appliance) -> None:
    """Only the demo engine needs the marker to be slow."""
    result_id, text = appliance.first_piece(
        CHAT, messages=user("[demo:slow=100] long"), max_tokens=1500, **FULL
    )
    until(
        lambda: appliance.daemon.get(f"/v1/results/{result_id}").status_code == 200,
        "the row of the caller that left",
    )
    row = appliance.row(result_id)
    assert (row["status"], row["error_type"]) == ("incomplete", "client_disconnected")
    assert row["outputs"][0]["output_text"].startswith(text)
    assert row["outputs"][0]["finish_reason"] is None


def test_models_are_those_of_the_engine(appliance: Appliance) -> None:
    found = appliance.daemon.get("/v1/models").json()
    assert [model["id"] for model in found["data"]] == [appliance.model]


def test_administration_routes_are_not_found(appliance: Appliance) -> None:
    for path in ADMINISTRATION.split():
        for method in ("get", "post"):
            answer = getattr(appliance.daemon, method)(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path


def test_admission_numbers_have_no_holes(appliance: Appliance) -> None:
    for prompt in ("one", "two"):
        appliance.chat(prompt, max_tokens=2)
    numbers = appliance.daemon.box.rows(
        "SELECT boot_seq FROM results UNION "
        "SELECT boot_seq FROM deletions WHERE what = 'result' ORDER BY boot_seq"
    )
    assert [number for (number,) in numbers] == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 2
