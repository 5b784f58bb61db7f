"""What is wrong with a body is said in JSON's words, with what it can be."""

import json
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from edge_store.api.batches import Asked as BatchAsked
from edge_store.api.query import Query
from edge_store.errors import InvalidRequest
from edge_store.faults import UNFIT, refusal_of
from edge_store.responses.ask import read_ask

BASE = {"model": "m", "input": "x"}


@pytest.mark.parametrize(
    ("changed", "param", "words"),
    [
        (
            {"tools": [{"type": "web_search"}]},
            "tools[0].type",
            "'web_search' is not supported here: it can be function",
        ),
        ({"tools": {"a": 1}}, "tools", "must be an array, not an object"),
        (
            {"tools": [{"type": "function", "name": "a", "strict": 1}]},
            "tools[0].strict",
            "must be true or false or null, not a whole number",
        ),
        ({"input": 5}, "input", "must be a string or an array, not a whole number"),
        (
            {"input": [{"type": "image"}]},
            "input[0].type",
            "it can be function_call, function_call_output, message, reasoning",
        ),
        (
            {"input": [{"role": "robot", "content": "x"}]},
            "input[0].role",
            "it can be assistant, developer, system, user",
        ),
        ({"input": [3]}, "input[0]", "must be an object, not a whole number"),
        ({"temperature": "hot"}, "temperature", "must be a number or null, not a string"),
        ({"temperature": 3}, "temperature", "must be a number, at most 2.0"),
        ({"max_output_tokens": 0}, "max_output_tokens", "must be a whole number, at least 1"),
        ({"metadata": {"a": 1}}, "metadata[...]", "must be a string, not a whole number"),
        ({"foo": 1}, "foo", "is not a parameter that is supported here"),
        ({"model": None}, "model", "is required"),
        ({"truncation": "auto"}, "truncation", "'auto' is not supported here: it can be disabled"),
        (
            {"text": {"format": {"type": "xml"}}},
            "text.format.type",
            "it can be json_object, json_schema, text",
        ),
        ({"tool_choice": "some"}, "tool_choice", "it can be auto, none, required"),
        (
            {"metadata": {"k" * 65: "v"}},
            f"metadata.{'k' * 64}",
            "has 65 characters in its key; 64 are allowed",
        ),
    ],
)
def test_each_fault_is_named_with_its_path_and_what_can_be(
    changed: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_ask(json.dumps({**BASE, **changed}).encode())
    assert refused.value.param == param
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"`{param}` ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a":"\\ud800x"}', "half of a surrogate pair"),
        (b'{"a":"\\udc00"}', "half of a surrogate pair"),
        (b'{"a":"\\ud800\\ud800"}', "half of a surrogate pair"),
        (b'{"a":"\\ud83d\\ude00', "it ends too early"),
        (b'{"a', "it ends too early"),
        (b" ", "it is empty"),
        (b"{a:1}", "object keys must be strings (byte 1)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model":"m","input":"\xff"}', "the body is not UTF-8: byte 22 is 0xff"),
        (b"[1]", "must be an object, not an array"),
    ],
)
def test_what_is_no_json_is_told_by_its_fault(body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_ask(body)
    assert words in str(refused.value)
    assert "truncated" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (
            Query,
            {"sql": "select 1", "rows_max": 0},
            "`rows_max` must be a whole number, at least 1",
        ),
        (Query, {"sql": "select 1", "timeout_s": 31}, "`timeout_s` must be a number, at most 30.0"),
        (Query, {"rows": 1}, "`rows` is not a parameter that is supported here"),
        (BatchAsked, {"input_file_id": 3}, "`input_file_id` must be a string, not a whole number"),
        (dict[str, str], [], "the body must be an object, not an array"),
    ],
)
def test_no_word_of_python_is_in_a_message(kind: Any, value: Any, words: str) -> None:
    body = json.dumps(value).encode()
    with pytest.raises(UNFIT) as caught:
        msgspec.json.decode(body, type=kind)
    refusal = refusal_of(caught.value, kind, body=body)
    assert str(refusal) == words


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Annotated[list[int], Meta(max_length=1)], [1, 2], "must have at most 1 element"),
        (Annotated[str, Meta(min_length=1)], "", "must have at least 1 character"),
        (Annotated[dict[str, int], Meta(max_length=0)], {"a": 1}, "must have at most 0 entries"),
        (Annotated[float, Meta(lt=7)], 7, "must be a number, less than 7.0"),
        (float, True, "must be a number, not true or false"),
        (list[int], None, "must be an array, not null"),
    ],
)
def test_bounds_are_said_in_the_units_of_their_kind(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, kind)
    assert str(refusal_of(caught.value, kind)) == f"the body {words}"


def test_a_value_without_a_name_is_not_called_by_dots() -> None:
    body = b'{"seed": 1e400}'
    with pytest.raises(UNFIT) as caught:
        msgspec.json.decode(body, type=dict[str, Any])
    refusal = refusal_of(caught.value, body=body)
    said = "a value in the body does not fit: number out of range"
    assert (refusal.param, str(refusal)) == (None, said)


class Named(msgspec.Struct):
    names: dict[Annotated[str, Meta(max_length=2)], int] = {}
    some: Annotated[dict[str, int], Meta(max_length=1)] = {}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b'{"names": {"abc": 1}}', "names[...]", "has a key that must have at most 2 characters"),
        (b'{"some": {"a": 1, "b": 2}}', "some", "must have at most 1 entry"),
    ],
)
def test_a_fault_of_a_key_is_where_the_key_is(body: bytes, param: str, said: str) -> None:
    with pytest.raises(UNFIT) as caught:
        msgspec.json.decode(body, type=Named)
    refusal = refusal_of(caught.value, Named, body=body)
    assert (refusal.param, str(refusal)) == (param, f"`{param}` {said}")
