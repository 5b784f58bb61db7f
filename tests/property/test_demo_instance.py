"""Instances are valid under the schemas they were made for, whatever the schema."""

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_store.engine.instance import instance_text
from edge_store.engine.pattern import matching
from edge_store.engine.schema import JSONSchema
from edge_store.errors import InvalidRequest

NAMES = st.sampled_from(["a", "b", "city", "x y", "ß"])
PATTERNS = st.sampled_from(
    [
        "^[a-z]{2,5}$",
        r"\d+-\d+",
        "^(yes|no)$",
        "[^a-z]",
        r"^\S+@\S+\.org$",
        "(?i)^AB?c*$",
        "^$|^k+$",
    ]
)
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def integers(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(-(10**20), 10**20))
    step = draw(st.integers(1, 7))
    schema: dict[str, Any] = {"type": "integer", "multipleOf": step}
    schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + 2 * step
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.floats(-1e6, 1e6))
    schema: dict[str, Any] = {"type": "number"}
    schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        high = low + draw(st.floats(0.001, 10))
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high
    return schema


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if draw(st.booleans()):
        schema["pattern"] = draw(PATTERNS)
    elif draw(st.booleans()):
        schema["format"] = draw(st.sampled_from(["date", "uuid", "email", "unheard-of"]))
    else:
        schema["minLength"] = draw(st.integers(0, 30))
        schema["maxLength"] = schema["minLength"] + draw(st.integers(0, 3))
    return schema


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if properties:
        schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    elif draw(st.booleans()):
        schema["minProperties"] = draw(st.integers(0, 5))
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": draw(inner)}
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
    schema["minItems"] = draw(st.integers(0, 4))
    schema["maxItems"] = schema["minItems"] + draw(st.integers(0, 3))
    return schema


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        objects(inner),
        arrays(inner),
        st.builds(lambda parts: {"anyOf": parts}, some),
        st.builds(lambda part, extra: {"allOf": [part, {"title": extra}]}, inner, NAMES),
        st.builds(lambda part: {"$defs": {"part": part}, "allOf": [part]}, inner),
        st.just({"anyOf": [{"type": "null"}, {"properties": {"next": {"$ref": "#"}}}]}),
    )


SCALARS = st.one_of(
    integers(),
    numbers(),
    strings(),
    st.just(True),
    st.builds(lambda value: {"const": value}, LITERALS),
    st.builds(lambda values: {"enum": values}, st.lists(LITERALS, min_size=1, max_size=3)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["null", "integer"]}, {}]),
)
SATISFIABLE = st.recursive(SCALARS, combined, max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(schema=SATISFIABLE, seed=st.integers(0, 2**32))
def test_every_satisfiable_schema_gets_an_instance_that_validates(schema: Any, seed: int) -> None:
    text = json.dumps(schema)
    made = instance_text(text, seed)
    jsonschema.Draft202012Validator(schema).validate(json.loads(made))
    assert instance_text(text, seed) == made


KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "array", "string", "integer", "number", "nothing"]),
        "minimum": st.integers(-9, 9),
        "maximum": st.floats(-9, 9),
        "multipleOf": st.sampled_from([2, 3, 0.1, 0.5]),
        "pattern": st.sampled_from(["^a", "(", "(?=x)y", "b$"]),
        "maxLength": st.integers(0, 5),
        "minItems": st.integers(0, 3),
        "uniqueItems": st.booleans(),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "minProperties": st.integers(0, 3),
        "maxProperties": st.integers(0, 3),
        "propertyNames": st.sampled_from([{"maxLength": 1}, {"pattern": "^[ab]+$"}, False]),
        "$ref": st.sampled_from(["#", "#/$defs/none", "http://127.0.0.1:9/x", "#nowhere"]),
        "unevaluatedProperties": st.just(False),
        "enum": st.lists(LITERALS, max_size=2),
    },
)


def tangled(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.builds(
        lambda plain, extra: {**plain, **extra},
        KEYWORDS,
        st.fixed_dictionaries(
            {},
            optional={
                "allOf": some,
                "anyOf": some,
                "oneOf": some,
                "not": inner,
                "if": inner,
                "then": inner,
                "else": inner,
                "items": inner,
                "contains": inner,
                "properties": st.dictionaries(NAMES, inner, max_size=2),
                "patternProperties": st.dictionaries(PATTERNS, inner, max_size=1),
                "additionalProperties": inner,
                "dependentRequired": st.just({"a": ["b"]}),
            },
        ),
    )


@settings(max_examples=150, deadline=None)
@given(schema=st.recursive(KEYWORDS | st.booleans(), tangled, max_leaves=6))
def test_any_schema_gets_a_valid_instance_or_an_invalid_request(schema: Any) -> None:
    try:
        made = instance_text(json.dumps(schema), 0)
    except InvalidRequest:
        return
    jsonschema.Draft202012Validator(schema).validate(json.loads(made))


@settings(max_examples=80, deadline=None)
@given(
    pattern=st.recursive(
        st.sampled_from(["a", "Z", "7", r"\d", r"\w", r"\s", "[a-f]", "[^a-z]", ".", r"\.", "é"]),
        lambda inner: st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, b: f"({a}|{b})", inner, inner),
            st.builds(
                lambda a, q: f"(?:{a}){q}", inner, st.sampled_from(["*", "+", "?", "{2,4}", "+?"])
            ),
        ),
        max_leaves=6,
    ),
    seed=st.integers(0, 99),
)
def test_made_texts_match_their_regex(pattern: str, seed: int) -> None:
    assert re.fullmatch(pattern, matching(pattern, lambda below: seed % below, whole=True))


REFUSED = [
    False,
    {"type": "integer", "minimum": 10, "maximum": 5},
    {"type": "banana"},
    {"$ref": "#"},
    {"$ref": "http://example.com/schema"},
    {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
    {"type": "array", "minItems": 10**9},
    {"type": "string", "minLength": 10**9},
    {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3},
    {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1},
    {"allOf": [{"anyOf": [{"const": f"{i}{j}"} for j in range(6)]} for i in range(12)]},
]


@pytest.mark.parametrize("schema", REFUSED)
def test_impossible_and_invalid_schemas_are_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"JSON|over"):
        instance_text(json.dumps(schema), 0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"const": NaN}', '{"const": 1e999}', "[" * 99999])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        instance_text(text, 0)


def test_recursion_ends_as_soon_as_the_schema_lets_it() -> None:
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "spare": {"$ref": "#/$defs/node"},
                },
                "required": ["children", "next"],
            }
        },
        "$ref": "#/$defs/node",
    }
    assert json.loads(instance_text(json.dumps(schema), 3)) == {"children": [], "next": None}


def test_a_circle_of_references_is_left_by_the_alternative_that_ends_it() -> None:
    schema = {
        "anyOf": [
            {"type": "integer", "minimum": 3, "exclusiveMaximum": 5},
            {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        ]
    }
    for seed in range(8):
        assert json.loads(instance_text(json.dumps(schema), seed)) in (3, 4, None)


@pytest.mark.parametrize("schema", ['{"if": {"$ref": "#"}}', '{"not": {"$ref": "#"}}'])
def test_schema_that_refers_to_itself_ends_at_any_depth_of_the_stack(schema: str) -> None:
    """Where Python's recursion ends inside the Rust code below jsonschema, that code panics."""

    def below(frames: int) -> bool:
        return below(frames - 1) if frames else JSONSchema(schema).allows({})

    assert not any(below(frames) for frames in range(24))
