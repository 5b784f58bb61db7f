"""Every choice says what it is worth: as JSON, under a regex, as the calls of tools."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.scripted import CHAT, Recording, chat_body, chat_chunk, event, recording, replay

from edge_store.config import RepairSection
from edge_store.errors import InvalidRequest
from edge_store.jsonrepair import JsonWorkers
from edge_store.jsonrepair.assess import REPAIRER
from edge_store.recorder.structured import replaced
from edge_store.recorder.transcript import Shape
from edge_store.result import JsonState, Output

GENERATE = "/generate"
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
AS_JSON = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
REPAIRED = [(b"x-edge-store-json", b"repaired")]
BROKEN = 'Here you are: {"a": 1, "b": [2, 3'
FAST = RepairSection(deadline_s=3.0)  # what is to be killed is waited for so long


@pytest.fixture
async def workers() -> AsyncIterator[JsonWorkers]:
    async with JsonWorkers(FAST) as running:
        yield running


def generated(*texts: str, finish: str = "stop") -> bytes:
    pieces = [{"text": t, "meta_info": {"finish_reason": {"type": finish}}} for t in texts]
    return json.dumps(pieces if len(pieces) > 1 else pieces[0]).encode()


def called(*arguments: str, name: str = "f", finish: str = "tool_calls") -> bytes:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": text}}
        for n, text in enumerate(arguments)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"id": "engine", "model": "m", "choices": [choice]}).encode()


async def outputs_of(
    path: Path, workers: JsonWorkers, answer: bytes, request: dict[str, Any], endpoint: str = CHAT
) -> tuple[Output, ...]:
    async with recording(path, replay([answer]), json_workers=workers) as running:
        caller = await running.ask(request, path=endpoint)
        assert caller.status == 200
        assert caller.body == answer
        (recorded,) = running.stored()
    return recorded.result.outputs


@pytest.mark.parametrize(
    ("rule", "text", "holds"),
    [
        (r"\d+-\d+", "12-34", True),
        (r"\d+-\d+", "12-34 ", False),
        (r"^(yes|no)$", "yes\n", False),
        (r"a.c", "a\nc", True),  # as SGLang's grammars: a dot is any character
        (r"\d", "\u0663", False),
    ],
)
async def test_the_row_says_whether_a_regex_holds(
    tmp_path: Path, workers: JsonWorkers, rule: str, text: str, *, holds: bool
) -> None:
    asked = {"messages": HELLO, "regex": rule}
    (output,) = await outputs_of(tmp_path / "db", workers, chat_body(text), asked)
    assert (output.constraint_kind, output.constraint_holds) == ("regex", holds)
    assert (output.constraint_error, output.json_state) == (None, JsonState.TEXT)


@pytest.mark.parametrize(("text", "holds"), [("left", True), ("left ", False), ("", False)])
async def test_the_row_says_whether_a_grammar_holds(
    tmp_path: Path, workers: JsonWorkers, text: str, *, holds: bool
) -> None:
    asked = {"messages": HELLO, "ebnf": 'root ::= "left" | "right"'}
    (output,) = await outputs_of(tmp_path / "db", workers, chat_body(text), asked)
    assert (output.constraint_kind, output.constraint_holds) == ("ebnf", holds)
    assert (output.constraint_error, output.json_state) == (None, JsonState.TEXT)


async def test_an_empty_constraint_is_none(tmp_path: Path, workers: JsonWorkers) -> None:
    asked = {"messages": HELLO, "ebnf": "", "regex": ""}
    (output,) = await outputs_of(tmp_path / "db", workers, chat_body("x"), asked)
    assert (output.constraint_kind, output.constraint_holds) == (None, None)


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        ({"ebnf": "root ::= left"}, "not checked: line 1: the rule left is not defined"),
        ({"ebnf": "root ::= " + "(" * 4000 + ")" * 4000}, "not checked: "),
        ({"ebnf": 'root ::= a\na ::= a a a | [^x] | ""'}, "killed: it took longer than"),
        ({"regex": "("}, "it is no regular expression of Python's"),
        ({"regex": r'\{"a": "(a|aa)+X'}, "killed: it took longer than"),
    ],
)
async def test_what_cannot_be_checked_says_why(
    tmp_path: Path, workers: JsonWorkers, constraint: dict[str, Any], reason: str
) -> None:
    asked = {"messages": HELLO, **constraint, "response_format": {"type": "json_object"}}
    text = json.dumps({"a": "a" * 1000})
    (output,) = await outputs_of(tmp_path / "db", workers, chat_body(text), asked)
    assert output.constraint_holds is None
    assert reason in (output.constraint_error or "")
    assert (output.json_state, output.output_json) == (JsonState.VALID, text)  # known before


async def test_each_input_has_its_own_form(tmp_path: Path, workers: JsonWorkers) -> None:
    sampling = [{"regex": "x+"}, {"json_schema": json.dumps(SCHEMA)}, {}]
    request = {"text": ["p", "q", "r"], "sampling_params": sampling}
    answer = generated("xx", '{"a": "b"}', "free")
    first, second, third = await outputs_of(
        tmp_path / "db", workers, answer, request, endpoint=GENERATE
    )
    assert (first.constraint_holds, first.json_state) == (True, JsonState.TEXT)
    assert (second.constraint_kind, second.schema_valid) == (None, False)
    assert (third.json_state, third.constraint_kind) == (JsonState.TEXT, None)


async def test_any_json_of_sglang_is_no_schema(tmp_path: Path, workers: JsonWorkers) -> None:
    request = {"text": "p", "sampling_params": {"json_schema": "$$ANY$$"}}
    (output,) = await outputs_of(
        tmp_path / "db", workers, generated("[1]"), request, endpoint=GENERATE
    )
    assert (output.json_state, output.schema_valid) == (JsonState.VALID, None)


@pytest.mark.parametrize(
    ("arguments", "state", "output_json", "schema_valid"),
    [
        (('{"a": 1}',), "valid", [{"a": 1}], True),
        (('{"a": 1}', '{"a": "x"}'), "valid", [{"a": 1}, {"a": "x"}], False),
        (('{"a": 1}', '{"a": 2,'), "repaired", [{"a": 1}, {"a": 2}], True),
        (('{"a": 1}', ""), "invalid", [{"a": 1}, None], True),
    ],
)
async def test_the_arguments_of_tool_calls_are_judged_together(
    tmp_path: Path,
    workers: JsonWorkers,
    arguments: tuple[str, ...],
    state: str,
    output_json: Any,
    *,
    schema_valid: bool,
) -> None:
    asked = {"messages": HELLO, "tools": TOOLS}
    (output,) = await outputs_of(tmp_path / "db", workers, called(*arguments), asked)
    assert (output.json_state, output.schema_valid) == (state, schema_valid)
    assert json.loads(output.output_json or "null") == output_json
    assert output.repairer == (REPAIRER if state == "repaired" else None)
    assert [c["function"]["arguments"] for c in json.loads(output.tool_calls or "")] == [*arguments]
    if not schema_valid:
        assert (output.schema_error or "").startswith("call 1 (f): $.a: ")


async def test_a_call_of_a_tool_that_was_not_given_is_not_valid(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    asked = {"messages": HELLO, "tools": TOOLS}
    (output,) = await outputs_of(tmp_path / "db", workers, called("{}", name="g"), asked)
    assert (output.json_state, output.schema_valid) == (JsonState.VALID, False)
    assert output.schema_error == "call 0 (g): the request has no such tool"


async def test_cut_arguments_are_truncated(tmp_path: Path, workers: JsonWorkers) -> None:
    asked = {"messages": HELLO, "tools": TOOLS}
    answer = called('{"a": 1}', '{"a": ', finish="length")
    (output,) = await outputs_of(tmp_path / "db", workers, answer, asked)
    assert (output.json_state, output.output_json) == (JsonState.TRUNCATED, '[{"a": 1},null]')


async def asked_for_json(running: Recording, request: dict[str, Any], **more: Any) -> Any:
    return await running.ask(request, headers=REPAIRED, **more)


@pytest.mark.parametrize(
    ("text", "state", "given"),
    [
        ('{"a": 1}', "valid", '{"a": 1}'),
        ('Here: {"a": 1}', "extracted", '{"a": 1}'),
        (BROKEN, "repaired", '{"a": 1, "b": [2, 3]}'),
        ("no JSON at all", "invalid", "no JSON at all"),
    ],
)
async def test_who_asks_for_it_gets_the_json_and_the_row_has_the_engines_bytes(
    tmp_path: Path, workers: JsonWorkers, text: str, state: str, given: str
) -> None:
    answer = chat_body(text)
    async with recording(tmp_path / "db", replay([answer]), json_workers=workers) as running:
        caller = await asked_for_json(running, {"messages": HELLO})
        (recorded,) = running.stored()
    assert caller.headers["x-edge-store-json"] == state
    assert caller.headers["content-length"] == str(len(caller.body))
    got = json.loads(caller.body)
    assert got["choices"][0]["message"]["content"] == given
    got["choices"][0]["message"]["content"] = text
    assert got == json.loads(answer)
    assert recorded.result.content.response_body == answer
    assert recorded.result.outputs[0].output_text == text
    assert recorded.result.outputs[0].json_state == state


async def test_tool_arguments_and_generate_are_given_as_json_too(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    answer = called('{"a": 1,', "nothing")
    async with recording(tmp_path / "db", replay([answer]), json_workers=workers) as running:
        caller = await asked_for_json(running, {"messages": HELLO, "tools": TOOLS})
    calls = json.loads(caller.body)["choices"][0]["message"]["tool_calls"]
    assert [c["function"]["arguments"] for c in calls] == ['{"a": 1}', "nothing"]
    assert caller.headers["x-edge-store-json"] == "invalid"
    answer = generated(BROKEN, "[1]")
    async with recording(tmp_path / "db2", replay([answer]), json_workers=workers) as running:
        caller = await asked_for_json(running, {"text": ["p", "q"]}, path=GENERATE)
    assert [p["text"] for p in json.loads(caller.body)] == ['{"a": 1, "b": [2, 3]}', "[1]"]


async def test_without_the_header_no_byte_is_altered(tmp_path: Path, workers: JsonWorkers) -> None:
    asked = {"messages": HELLO, "response_format": AS_JSON}
    (output,) = await outputs_of(tmp_path / "db", workers, chat_body(BROKEN), asked)
    assert (output.json_state, output.schema_valid) == (JsonState.REPAIRED, True)


async def test_an_answer_that_is_given_again_is_given_as_asked_for(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    answer, key = chat_body(BROKEN), (b"idempotency-key", b"k")
    async with recording(tmp_path / "db", replay([answer]), json_workers=workers) as running:
        raw = await running.ask({"messages": HELLO}, headers=[key])
        again = await running.ask({"messages": HELLO}, headers=[key, *REPAIRED])
        assert len(running.stored()) == 1
    assert raw.body == answer
    assert (again.headers["idempotency-replayed"], again.headers["x-edge-store-json"]) == (
        "true",
        "repaired",
    )
    content = json.loads(again.body)["choices"][0]["message"]["content"]
    assert json.loads(content) == {"a": 1, "b": [2, 3]}


@pytest.mark.parametrize(
    ("request_", "path", "value"),
    [
        ({"messages": HELLO, "stream": True}, CHAT, b"repaired"),
        ({"messages": HELLO}, CHAT, b"valid"),
        ({"messages": HELLO, "max_tokens": 1}, "/v1/messages", b"repaired"),
        ({"input": "x"}, "/v1/embeddings", b"repaired"),
    ],
)
async def test_json_that_cannot_be_given_is_refused(
    tmp_path: Path, request_: dict[str, Any], path: str, value: bytes
) -> None:
    stream = replay([event(chat_chunk("x", finish="stop"))], streamed=True)
    async with recording(tmp_path / "db", stream) as running:
        with pytest.raises(InvalidRequest, match=r"(?i)json"):
            await running.ask(request_, path=path, headers=[(b"x-edge-store-json", value)])
        assert running.stored() == []


def test_what_is_not_replaced_keeps_its_bytes() -> None:
    body = (
        b'{"big": 12345678901234567890123, "f": 1.0000, "choices": [{"text": "x [1]", "n": 1e2}]}'
    )
    output = Output(
        choice_index=0, output_text="x [1]", output_json="[1]", json_state=JsonState.EXTRACTED
    )
    found = replaced(Shape.CHOICES, body, [output])
    assert found == (
        b'{"big":12345678901234567890123,"f":1.0000,"choices":[{"text":"[1]","n":1e2}]}'
    )
    untouched = msgspec.structs.replace(output, json_state=JsonState.VALID)
    assert replaced(Shape.CHOICES, body, [untouched]) is body
