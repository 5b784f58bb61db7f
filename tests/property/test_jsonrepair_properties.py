"""What holds for every text and every JSON document."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_store.jsonrepair import Wanted
from edge_store.jsonrepair.assess import assess_text
from edge_store.jsonrepair.strict import parse
from edge_store.result import JsonState
from edge_store.sqlite import driver

CAP = 1 << 16
SQLITE = driver.connect(":memory:", check_same_thread=False)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None))  # lone surrogates too
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# Text made of what the stages look for, so that they meet it in every order.
pieces = st.sampled_from(
    ["{", "}", "[", "]", '"', "'", ":", ",", "\\", "\n", " ", "```", "```json\n", "<think>",
     "</think>", "NaN", "Infinity", "1e999", "1", "true", "None", "a", "é", "\ud800", "\x00",
     '{"a": 1}', "[1]", "[x]", "//", "..."]
)  # fmt: skip
texts = st.lists(pieces, max_size=30).map("".join) | st.text(st.characters(codec=None))


def assert_storable(output_json: str) -> None:
    assert output_json not in ("", '""')
    parse(output_json)
    assert SQLITE.execute("SELECT json_valid(?)", (output_json,)).fetchone() == (1,)


@given(value=documents, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 2]))
def test_every_json_document_is_valid_and_means_the_same(
    value: Any, *, ensure_ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    found = assess_text(Wanted(text=text, schema="true", is_truncated=False), CAP)
    assert (found.json_state, found.schema_valid) == (JsonState.VALID, True)
    assert found.output_json is not None
    assert json.loads(found.output_json) == value
    assert SQLITE.execute("SELECT json_valid(?)", (found.output_json,)).fetchone() == (1,)


@given(value=documents.filter(lambda value: isinstance(value, dict | list)))
def test_every_document_is_found_inside_prose_and_fences(value: Any) -> None:
    text = json.dumps(value)
    for wrapped in (f"Sure:\n```json\n{text}\n```\nBye.", f"Sure: {text} Bye.", f"<think>x</think>{text}"):  # fmt: skip # noqa: E501
        found = assess_text(Wanted(text=wrapped, schema=None, is_truncated=False), CAP)
        # [1] is what a footnote looks like: without a fence nobody can tell
        if found.json_state is JsonState.EXTRACTED:
            assert found.output_json == text
        else:
            assert wrapped.startswith("Sure: [")
            assert not any(mark in text for mark in ',"{')
            assert found.output_json is None


@settings(max_examples=400)
@given(text=texts, is_truncated=st.booleans(), schema=st.sampled_from([None, "true", '{"type":"object"}']))  # fmt: skip # noqa: E501
def test_any_text_has_an_outcome_and_no_output_is_empty_or_not_json(
    text: str, *, is_truncated: bool, schema: str | None
) -> None:
    found = assess_text(Wanted(text=text, schema=schema, is_truncated=is_truncated), CAP)
    assert found.json_state is not JsonState.TEXT
    has_output = found.json_state in (JsonState.VALID, JsonState.EXTRACTED, JsonState.REPAIRED)
    assert (found.output_json is not None) == has_output
    if is_truncated:
        assert found.json_state in (JsonState.VALID, JsonState.TRUNCATED)
    if found.output_json is not None and found.json_state is not JsonState.VALID:
        assert_storable(found.output_json)
    if found.json_state is JsonState.REPAIRED:
        assert found.output_json is not None
        assert found.output_json[0] in "{["
    for note in (found.repair_log, found.schema_error):
        assert note is None or len(note.encode()) <= 4096


@given(sentence=st.text(st.characters(exclude_characters='{}[]"`<0123456789', codec="utf-8")))
def test_a_plain_sentence_never_becomes_json(sentence: str) -> None:
    text = f"The answer is {sentence}"
    found = assess_text(Wanted(text=text, schema=None, is_truncated=False), CAP)
    assert (found.json_state, found.output_json) == (JsonState.INVALID, None)
