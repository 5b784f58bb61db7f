"""What a text is worth as JSON, case by case."""

import json
import socket
import subprocess
import sys

import pytest

from edge_store.jsonrepair import Assessed, Wanted
from edge_store.jsonrepair.assess import assess_text
from edge_store.jsonrepair.protocol import decode_answer, decode_job, encode_job, frame
from edge_store.result import JsonState
from edge_store.sqlite import driver

CAP = 1 << 20


def assess(
    text: str, schema: object = None, *, is_truncated: bool = False, cap: int = CAP
) -> Assessed:
    schema_text = None if schema is None else json.dumps(schema)
    return assess_text(Wanted(text=text, schema=schema_text, is_truncated=is_truncated), cap)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


VALID = [
    '{"a": 1}',
    " \n[1, 2]\t",
    "42",
    "null",
    '"a sentence"',
    '{"a": 1, "a": 2}',  # the text is kept, and so are both
    f'{{"n": {10**400}}}',
    '"<think>no</think>"',
    '{"code": "```\\n[1]\\n```"}',
    '"\\ud800"',
    "{}",
    nested(300),
]

EXTRACTED = [
    ("```json\n[1, 2]\n```", "[1, 2]"),
    ("Sure!\n```\n42\n```\nAnything else?", "42"),
    ('```json\n{"a": 1}', '{"a": 1}'),
    ('Here it is: {"a": [1]} I hope that helps.', '{"a": [1]}'),
    ('As in [1] and {name}: {"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
    ('<think>{"a": 1}</think>{"b": 2}', '{"b": 2}'),
    ("<think>1</think>\n<thinking>2</thinking>\n3", "3"),
    ('so {"a": 1} it is</think>\n{"b": 2}', '{"b": 2}'),
    ('\ufeff{"a": 1}', '{"a": 1}'),
    ('{"a": 1}\n{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
    ('Take {"a": "\ud800"}', '{"a": "\\ud800"}'),
]

REPAIRED = [
    ('{"a": 1,}', {"a": 1}),
    ("{'a': True, b: None}", {"a": True, "b": None}),
    ('{"a": [1, 2], "b": "x" "c": 3}', {"a": [1, 2], "b": "x", "c": 3}),
    ("[1, 2", [1, 2]),
    ('```json\n{"a": 1,}\n```\nSee [x, y].', {"a": 1}),
    ('Here: {"a": [1, 2],}', {"a": [1, 2]}),
    ('{"a": "", "b": 1,}', {"a": "", "b": 1}),  # this '' is the caller's
    ('{"a": "\ud800",}', {"a": "\ud800"}),
]

INVALID = [
    ("", "no JSON"),
    ("plain answer", "no JSON"),
    ("I do not know [1], {name}.", "no JSON"),
    ('<think>{"a": 1}', "reasoning has no end"),
    ('[{"a":1},{"b":', "does not hold the string ''"),
    ('{"a": , "b": 2}', "does not hold the string ''"),
    ('{"a": NaN}', "NaN is not JSON"),
    ('{"a": -Infinity}', "-Infinity is not JSON"),
    ('{"a": 1e999}', "1e999 is beyond"),
    ("{a: NaN}", "does not hold the string 'NaN'"),
    ("{a: 1e999}", "not repaired: ValueError"),
    ("1e999", "beyond"),
    ("{", "nothing was left"),
    ('{"a": 1,} or [2]', "begins as a dict, the repair is a list"),
    ('{"a": 1} or {"a": 2,', "either may be the answer"),
    (nested(1001), "nested"),
    ("[" * 5000, "nested"),
    ('{"a": ' + nested(1001) + ', "a": 1}', "nested"),
    ("9" * 5000, "integer that is too long"),
]


@pytest.mark.parametrize("text", VALID)
def test_json_is_valid_and_kept_to_the_letter(text: str) -> None:
    assert assess(text) == Assessed(output_json=text, json_state=JsonState.VALID)


@pytest.mark.parametrize(("text", "output_json"), EXTRACTED)
def test_wrapped_json_is_extracted_to_the_letter(text: str, output_json: str) -> None:
    found = assess(text)
    assert (found.json_state, found.output_json) == (JsonState.EXTRACTED, output_json)
    assert found.repairer is None


@pytest.mark.parametrize(("text", "value"), REPAIRED)
def test_broken_json_is_repaired_and_says_by_what(text: str, value: object) -> None:
    found = assess(text)
    assert found.json_state is JsonState.REPAIRED
    assert found.output_json is not None
    assert json.loads(found.output_json) == value
    assert found.repairer is not None
    assert found.repairer.startswith("json-repair 0.")


@pytest.mark.parametrize(("text", "reason"), INVALID)
def test_what_is_not_json_is_invalid_and_says_why(text: str, reason: str) -> None:
    found = assess(text)
    assert (found.json_state, found.output_json) == (JsonState.INVALID, None)
    assert found.repair_log is not None
    assert reason in found.repair_log


@pytest.mark.parametrize("text", ['{"a": 1', '[{"a":1},{"b":', "", "```json\n[1]\n", "12", "1.5"])
def test_a_truncated_answer_is_never_repaired(text: str) -> None:
    assert assess(text, is_truncated=True) == Assessed(json_state=JsonState.TRUNCATED)


@pytest.mark.parametrize("text", ['{"a": 1}', "true", '"x"'])
def test_a_whole_document_is_valid_even_if_the_engine_was_cut_there(text: str) -> None:
    assert assess(text, is_truncated=True).json_state is JsonState.VALID


def test_a_long_text_is_not_repaired_but_still_valid_or_extracted() -> None:
    document = '{"a": "' + "é" * 600 + '"}'
    assert assess(document, cap=1024).json_state is JsonState.VALID
    assert assess(f"Here: {document}", cap=1024).json_state is JsonState.EXTRACTED
    broken = assess(document[:-1], cap=1024)
    assert broken.json_state is JsonState.INVALID
    assert broken.repair_log == (
        "not repaired: 1208 bytes are more than repair.input_bytes_max = 1024"
    )


def test_the_repair_log_tells_the_steps_and_is_bounded() -> None:
    found = assess("[" + "{a: 'b'}," * 2000 + "{a: b")
    assert found.json_state is JsonState.REPAIRED
    assert found.repair_log is not None
    assert "literal instead of a quote" in found.repair_log
    assert len(found.repair_log.encode()) <= 4096


def test_a_schema_is_satisfied_or_the_place_is_named() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
        "$defs": {"n": {"type": "integer"}},
    }
    assert assess('{"a": [1]}', schema).schema_valid is True
    wrong = assess('{"a": [1, "x"],}', schema)
    assert (wrong.json_state, wrong.schema_valid) == (JsonState.REPAIRED, False)
    assert wrong.schema_error == "$.a[1]: 'x' is not of type 'integer'"


def test_a_schema_of_an_older_draft_is_read_as_such() -> None:
    tuples = {"items": [{"type": "string"}]}  # positions before 2020-12; an error since
    draft_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert assess("[1]", draft_7 | tuples).schema_valid is False
    assert assess("[1]", tuples).schema_valid is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"pattern": "("},
        {"$schema": ["x"]},
        42,
    ],
)
def test_an_invalid_schema_judges_nothing_and_says_so(schema: object) -> None:
    found = assess('"x"', schema)
    assert (found.json_state, found.schema_valid) == (JsonState.VALID, None)
    assert found.schema_error is not None
    assert found.schema_error.startswith("the schema is invalid: ")


def test_a_schema_makes_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        previous = socket.getdefaulttimeout()
        socket.setdefaulttimeout(1.0)  # of a fetch, so that this fails rather than hangs
        try:
            host, port = server.getsockname()
            assert assess('"x"', {"$ref": f"http://{host}:{port}/schema.json"}).schema_valid is None
        finally:
            socket.setdefaulttimeout(previous)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_schema_that_is_no_json_or_loops_is_survived() -> None:
    for schema in ("{", "NaN", '{"$ref": "#"}'):
        found = assess_text(Wanted(text="[1]", schema=schema, is_truncated=False), CAP)
        assert (found.output_json, found.schema_valid) == ("[1]", None)
        assert found.schema_error


def test_a_schema_says_nothing_of_an_answer_that_is_not_json() -> None:
    found = assess("no", {"type": "object"})
    assert (found.schema_valid, found.schema_error) == (None, None)


def test_the_message_about_a_huge_value_is_short() -> None:
    found = assess(json.dumps(["x" * 100_000]), {"type": "object"})
    assert found.schema_error is not None
    assert len(found.schema_error) <= 1024


def test_every_output_passes_the_databases_own_check() -> None:
    connection = driver.connect(":memory:")
    texts = [*VALID, *(text for text, _ in EXTRACTED), *(text for text, _ in REPAIRED)]
    for text in texts:
        output_json = assess(text).output_json
        assert connection.execute("SELECT json_valid(?)", (output_json,)).fetchone() == (1,), text
    connection.close()


def test_jobs_and_answers_survive_the_pipe() -> None:
    for schema in (None, "{}", "\ud800"):
        wanted = Wanted(text="a\ud800\x00é", schema=schema, is_truncated=True)
        assert decode_job(encode_job(wanted)[4:]) == wanted
    answer = Assessed(output_json="[]", json_state=JsonState.VALID, schema_valid=False)
    assert decode_answer(frame(answer)[4:]) == answer


def test_the_daemon_loads_no_repair_library() -> None:
    code = (
        "import sys, edge_store.jsonrepair as _;"
        "print(*{'json_repair', 'jsonschema', 'referencing'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
