"""The protocols of Anthropic, Ollama and SGLang's frontend language, through a daemon with a real
SGLang, and what an engine without them answers.
"""

import json
import subprocess
import sys
from typing import Any

import pytest
from support.daemon import until
from support.engines import Appliance, user
from support.sglang import skip_if_not_served

MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"
OPTIONS = {"num_predict": 8, "temperature": 0}
REAL = pytest.mark.parametrize("appliance", ["upstream", "sglang"], indirect=True)
PROGRAM = """
import sys
import sglang

@sglang.function
def program(s):
    s += "Q: hello\\nA: " + sglang.gen("answer", max_tokens=4, temperature=0)
    for fork in s.fork(2):
        fork += sglang.gen("letters", max_tokens=3, regex="[a-c]+")
    s += " pick " + sglang.select("choice", choices=["yes", "no"])

if __name__ == "__main__":
    sglang.set_default_backend(sglang.RuntimeEndpoint(sys.argv[1]))
    state = program.run()
    print(state["choice"], state["answer"], sep="|", end="")
"""
PROGRAM_S = 100.0


@pytest.mark.sglang
@REAL
@pytest.mark.parametrize("stream", [False, True])
def test_message_is_its_row(appliance: Appliance, *, stream: bool) -> None:
    skip_if_not_served(MESSAGES, appliance.kind)
    asked = {"messages": user("hello"), "system": "be brief", "max_tokens": 8, "temperature": 0}
    answer = appliance.ask(MESSAGES, **asked, stream=stream)
    row = appliance.row(answer)
    texts: list[str] = []
    if stream:
        lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        texts = [e["delta"].get("text") or "" for e in events if e["type"] == "content_block_delta"]
        usage = events[-2]["usage"]
        mark = answer.text.index(f": committed id={row['id']} ")
        assert mark < answer.text.index("event: message_delta")
        assert events[-1]["type"] == "message_stop"
    else:
        texts = [block["text"] for block in answer.json()["content"]]
        usage = answer.json()["usage"]
    (output,) = row["outputs"]
    assert output["output_text"] == "".join(texts) != ""
    assert (row["operation"], row["status"], row["stream"]) == ("chat", "completed", stream)
    assert row["output_tokens"] == usage["output_tokens"] == 8
    assert row["input_tokens"] == usage.get("input_tokens", row["input_tokens"]) > 0
    assert (row["finish_reason"], row["response_model"]) == ("length", appliance.model)
    assert (row["ttft_ms"] is not None) is stream
    assert 0 <= (row["ttft_ms"] or 0) <= row["latency_ms"]
    assert row["input_text"] == "system: be brief\nuser: hello"


@pytest.mark.sglang
@REAL
@pytest.mark.parametrize(
    ("path", "asked", "operation"),
    [
        (OLLAMA_CHAT, {"messages": user("hello")}, "chat"),
        (OLLAMA_GENERATE, {"prompt": "hello"}, "text_completion"),
    ],
)
def test_answer_in_ollamas_form_is_its_row(
    appliance: Appliance, path: str, asked: dict[str, Any], operation: str
) -> None:
    skip_if_not_served(path, appliance.kind)
    for body in (asked | {"stream": False}, asked):
        answer = appliance.ask(path, **body, options=OPTIONS)
        row = appliance.row(answer)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        texts = [
            line["message"]["content"] if "message" in line else line["response"] for line in lines
        ]
        is_stream = "stream" not in body
        assert (len(lines) > 1, lines[-1]["done"]) == (is_stream, True)
        assert row["finish_reason"] == lines[-1]["done_reason"]
        assert row["outputs"][0]["output_text"] == "".join(texts) != ""
        assert (row["operation"], row["status"], row["stream"]) == (
            operation,
            "completed",
            is_stream,
        )
        assert (row["ttft_ms"] is not None) is is_stream
        if appliance.kind == "sglang":
            assert (lines[-1]["eval_count"], lines[-1]["done_reason"]) == (8, "length")
            assert row["outputs"][0]["finish_reason"] == "length"
        assert row["output_tokens"] == lines[-1].get("eval_count")
        assert row["input_tokens"] == lines[-1].get("prompt_eval_count")
        assert answer.headers["x-edge-store-durability"] == ("on-end" if is_stream else "committed")


@pytest.mark.sglang
@REAL
def test_prompt_over_the_context_is_an_error_of_the_protocol(appliance: Appliance) -> None:
    skip_if_not_served(MESSAGES, appliance.kind)
    answer = appliance.ask(MESSAGES, messages=user("x " * 4000), max_tokens=5)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert "context length (2048 tokens)" in appliance.row(answer)["error_message"]


@pytest.mark.sglang
@pytest.mark.parametrize("appliance", ["upstream"], indirect=True)
def test_stream_that_sglang_breaks_off_ends_with_ollamas_error(appliance: Appliance) -> None:
    """It has no answer in Ollama's form for a prompt over the context."""
    skip_if_not_served(OLLAMA_GENERATE, appliance.kind)
    answer = appliance.ask(OLLAMA_GENERATE, prompt="x " * 4000)
    row = appliance.row(answer)
    assert (row["status"], row["error_type"]) == ("failed", "upstream_error")
    said = json.loads(answer.text.splitlines()[-1])
    assert (said["error"], said["code"]) == (row["error_message"], "upstream_error")


@pytest.mark.sglang
@pytest.mark.parametrize("appliance", ["upstream"], indirect=True)  # the other: test_clients.py
def test_frontend_program_has_its_calls_for_no_output_apart(appliance: Appliance) -> None:
    query = "SELECT operation, count(*) FROM results WHERE endpoint = '/generate' GROUP BY 1"
    before = dict(appliance.daemon.box.rows(query))
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, appliance.daemon.url],
        capture_output=True, text=True, timeout=PROGRAM_S, check=False,
    )  # fmt: skip
    choice, bar, text = ran.stdout.partition("|")
    assert bar, ran.stderr
    assert choice in ("yes", "no")
    assert text
    until(
        lambda: dict(appliance.daemon.box.rows(query)).get("generate", 0)
        - before.get("generate", 0) == 3,
        "the rows of all three outputs",
    )  # fmt: skip
    after = dict(appliance.daemon.box.rows(query))
    assert after["prefix_cache"] - before.get("prefix_cache", 0) == 2, "a prefix, and two choices"
    shown = "SELECT count(*) FROM generations WHERE operation = 'prefix_cache'"
    assert appliance.daemon.box.rows(shown) == [(0,)]


@pytest.mark.parametrize("appliance", ["demo"], indirect=True)
def test_engine_without_the_route_refuses_it_on_record(appliance: Appliance) -> None:
    path = "/v1/embeddings"
    answer = appliance.ask(path, input="hello")
    row = appliance.row(answer)
    assert answer.status_code == row["http_status"] == 404
    assert (row["status"], row["error_type"]) == ("failed", "engine_refused")
    assert row["endpoint"] == path
