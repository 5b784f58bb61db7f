"""A reference of a JSON Schema that leads only to itself is found before an engine meets it."""

import json
from typing import Any

import pytest

from edge_store.engine.references import (
    SCHEMA_BYTES_MAX,
    STEPS_MAX,
    endless_in_tag,
    endless_reference,
)

HERE = {"$ref": "#"}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


@pytest.mark.parametrize(
    ("schema", "reference"),
    [
        (HERE, "#"),
        ({"anyOf": [HERE, HERE]}, "#"),
        ({"allOf": [HERE]}, "#"),
        ({"type": "boolean", "$ref": "#"}, "#"),
        ({**ref("a"), "$defs": {"a": ref("b"), "b": ref("a")}}, "#/$defs/a"),
        ({"type": "array", "items": ref("a"), "$defs": {"a": ref("a")}}, "#/$defs/a"),
        ({"properties": {"a": {"oneOf": [{"$ref": "#/properties/a"}]}}}, "#/properties/a"),
        ({"properties": {"$defs": ref("a")}, "$defs": {"a": ref("a")}}, "#/$defs/a"),
        ({"prefixItems": [True, ref("a")], "$defs": {"a": {"allOf": [ref("a")]}}}, "#/$defs/a"),
    ],
)
def test_reference_to_nothing_but_itself_is_found(schema: Any, reference: str) -> None:
    assert endless_reference(json.dumps(schema)) == reference


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": HERE}},
        {"type": "object", "properties": {"next": HERE}, "required": ["next"]},
        {"type": "array", "items": HERE},
        {"anyOf": [HERE, {"type": "string"}]},
        {"anyOf": [ref("a"), {"type": "null"}], "$defs": {"a": ref("b"), "b": HERE}},
        {**ref("a"), "$defs": {"a": {"anyOf": [ref("b"), True]}, "b": ref("a")}},
        {"allOf": [ref("a")], "$defs": {"a": {"type": "string"}}},
        {"allOf": [{"type": "object"}, HERE]},
        {"type": "boolean", "$defs": {"a": ref("a")}},
        {"const": ref("a"), "$defs": {"a": ref("a")}},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#/prefixItems/0", "prefixItems": [{"$ref": "#/prefixItems/0"}]},
        {"$ref": "#anchor"},
        {"$ref": "https://example.org/schema"},
        {"properties": {"$ref": {"type": "string"}}},
    ],
)
def test_reference_that_comes_to_an_end_is_left_alone(schema: Any) -> None:
    assert endless_reference(json.dumps(schema)) is None


@pytest.mark.parametrize("text", ['{"$ref": ', '[{"$ref": 1}]', "7", "$$ANY$$", ""])
def test_what_is_no_schema_is_left_to_the_engine(text: str) -> None:
    assert endless_reference(text) is None


def test_schema_that_takes_too_long_is_left_to_the_engine() -> None:
    many = STEPS_MAX // 200
    chain = {f"{n:05}": ref(f"{n + 1:05}") for n in range(many)}
    schema = json.dumps({**ref("00000"), "$defs": {**chain, f"{many:05}": True}})
    assert len(schema) < SCHEMA_BYTES_MAX
    assert endless_reference(schema) is None
    assert endless_reference(json.dumps({**HERE, "title": "x" * SCHEMA_BYTES_MAX})) is None


def test_schema_nested_too_deeply_is_left_to_the_engine() -> None:
    deep = '{"anyOf": [' * 5000 + '{"$ref": "#"}' + "]}" * 5000
    assert endless_reference(deep) is None


@pytest.mark.parametrize(
    "tag",
    [
        {"structures": [{"begin": "<f>", "schema": HERE, "end": "</f>"}], "triggers": ["<f"]},
        {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": HERE}},
        {"format": {"tags": [{"content": {"json_schema": True}}, {"content": {"schema": HERE}}]}},
    ],
)
def test_reference_in_a_structural_tag_is_found(tag: Any) -> None:
    assert endless_in_tag(json.dumps(tag)) == "#"
    assert endless_in_tag(json.dumps(tag).replace('"#"', '"#/$defs/a"')) is None


def test_tag_that_is_none_is_sglangs_to_refuse() -> None:
    assert endless_in_tag('{"$ref"') is None
    assert endless_in_tag("[" * 100_000 + '"$ref"') is None
