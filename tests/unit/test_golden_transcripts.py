"""What a real SGLang sent becomes the right row, and reaches the caller as it was."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.golden import STREAM_ENDS, every_golden, golden
from support.scripted import recording, replay

from edge_store.result import Operation, Recorded

TEXT = "a 23 412 268 37330 225 167"
CHAT = {"operation": Operation.CHAT, "status": "completed", "response_model": "tiny"}
COMPLETION = {**CHAT, "operation": Operation.TEXT_COMPLETION}
GENERATE = {**CHAT, "operation": Operation.GENERATE, "response_model": None}
PREFIX = {**GENERATE, "operation": Operation.PREFIX_CACHE, "output_tokens": 0, "caller_rid": "ours"}
REFUSED = {**CHAT, "status": "failed", "error_type": "engine_refused"}
UNCOUNTED = {"input_tokens": None, "output_tokens": None, "cached_tokens": None}  # by SGLang
TOO_LONG = "The input (6009 tokens) is longer than the model's context length (2048 tokens)."

# The row of each, and the texts of its outputs.
ROWS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "anthropic_plain": (
        {**CHAT, "input_tokens": 27, "output_tokens": 8, "cached_tokens": None,
         "finish_reason": "length"}, [TEXT]),
    "anthropic_stream": (
        {**CHAT, "input_tokens": 27, "output_tokens": 8, "cached_tokens": 26,
         "finish_reason": "length"}, [TEXT]),
    "anthropic_thinking_plain": (
        {**CHAT, "input_tokens": 13, "output_tokens": 8, "finish_reason": "length"}, [""]),
    "anthropic_thinking_stream": (
        {**CHAT, "input_tokens": 13, "output_tokens": 8, "finish_reason": "length"}, [""]),
    "anthropic_tool_stream": (
        {**CHAT, "input_tokens": 224, "output_tokens": 200, "cached_tokens": 223}, [""]),
    "anthropic_too_long_stream": (
        {**REFUSED, "finish_reason": None, "error_message": TOO_LONG}, [""]),
    "anthropic_refused": ({**REFUSED, "response_model": None, "http_status": 400}, []),
    "ollama_chat_plain": (
        {**CHAT, "input_tokens": 13, "output_tokens": 8, "finish_reason": "stop"},
        ["a 23 412 37643434343"]),
    "ollama_chat_stream": ({**CHAT, **UNCOUNTED, "finish_reason": "stop"}, ["a 23 412 376434343"]),
    "ollama_generate_plain": (
        {**COMPLETION, "input_tokens": 5, "output_tokens": 8, "finish_reason": "stop"},
        ["40\x1f 71 154 457 425319 425"]),
    "ollama_generate_stream": (
        {**COMPLETION, **UNCOUNTED, "finish_reason": "stop"}, ["40\x1f 71 154 457 425319"]),
    "generate_prefix_cache": ({**PREFIX, "input_tokens": 5, "cached_tokens": 4}, [""]),
    "generate_select": ({**PREFIX, "input_tokens": 13, "cached_tokens": 0}, ["", ""]),
    "generate_list_plain": (
        {**GENERATE, "input_tokens": 13, "output_tokens": 6, "cached_tokens": 11,
         "finish_reason": "length"}, [" system\ufffd\x1f", " 65_\ufffd"]),
    "generate_list_stream": (
        {**GENERATE, "input_tokens": 13, "output_tokens": 6, "cached_tokens": 11,
         "finish_reason": "length"}, [" system\ufffd\x1f", " 65_\ufffd"]),
    "embeddings_plain": (
        {**CHAT, "operation": Operation.EMBEDDINGS, "input_tokens": 5, "output_tokens": None}, []),
    "embeddings_list": (
        {**CHAT, "operation": Operation.EMBEDDINGS, "input_tokens": 12, "output_tokens": None}, []),
}  # fmt: skip


async def record(name: str, path: Path) -> tuple[Recorded, bytes, bytes]:
    """The row, what the engine was sent, and what the caller got."""
    given = golden(name)
    status = 400 if name == "anthropic_refused" else 200
    async with recording(path, replay([given.answer], kind=given.kind, status=status)) as running:
        caller = await running.ask(given.request, path=given.endpoint)
        (found,) = running.stored()
        (sent,) = running.engine.bodies
    return found, sent, caller.body


def test_each_answer_has_its_row_here() -> None:
    assert sorted(ROWS) == every_golden()


@pytest.mark.parametrize("name", sorted(ROWS))
async def test_a_real_answer_becomes_the_right_row(name: str, tmp_path: Path) -> None:
    given = golden(name)
    expected, texts = ROWS[name]
    found, _, got = await record(name, tmp_path / "results.db")
    result = found.result
    assert {field: getattr(result, field) for field in expected} == expected
    assert [output.output_text for output in result.outputs] == texts
    assert result.stream is (name in STREAM_ENDS)
    is_answer = expected["status"] == "completed"
    assert (result.ttft_ms is not None) is (name in STREAM_ENDS and is_answer)
    assert result.content.response_body == given.answer
    mark = f": committed id={result.id} seq=1\n\n".encode()
    expected_body = given.answer
    if given.kind.startswith(b"text/event-stream"):
        expected_body = given.answer[: given.end] + mark + given.answer[given.end :]
    assert got == expected_body


@pytest.mark.parametrize("name", ["anthropic_thinking_plain", "anthropic_thinking_stream"])
async def test_thinking_is_recorded_as_reasoning(name: str, tmp_path: Path) -> None:
    found, _, _ = await record(name, tmp_path / "results.db")
    (output,) = found.result.outputs
    assert output.reasoning == "a 23 412 37643434343"


async def test_a_tool_use_is_recorded_as_the_other_protocols_calls(tmp_path: Path) -> None:
    found, _, _ = await record("anthropic_tool_stream", tmp_path / "results.db")
    (output,) = found.result.outputs
    assert output.tool_calls is not None
    (call,) = msgspec.json.decode(output.tool_calls)
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "weather", "arguments": '{"rain": false}'}


@pytest.mark.parametrize("name", sorted(ROWS))
async def test_our_id_goes_only_where_the_protocol_has_a_place(name: str, tmp_path: Path) -> None:
    found, sent, _ = await record(name, tmp_path / "results.db")
    if golden(name).endpoint == "/generate":
        assert msgspec.json.decode(sent)["rid"] == found.result.id
    else:
        assert sent == golden(name).request
