"""Whatever part of three characters, and whatever word, of a stored text is asked for finds it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.searching import Searched, phrase

from edge_store.errors import QueryRefused
from edge_store.search.asked import parse
from edge_store.search.words import fold, words

LIMIT = 10_000
SCRIPTS = (
    "ab AB 1_.-\"*()'e\u0301\u00df"
    "\u65e5\u672c\u8a9e\u304b\u30ac\ud55c\u0627\u0628\u064e\u0915\u093f\U0001f389\u200d\0\n"
)
texts = st.text(st.sampled_from(SCRIPTS), min_size=1, max_size=24) | st.text(max_size=40)
asks = st.text(st.sampled_from('ab "*()ANDORT日本🎉.-+'), max_size=24) | st.text(max_size=30)


@pytest.fixture(scope="module")
def box() -> Iterator[Searched]:
    with tempfile.TemporaryDirectory() as folder:
        searched = Searched(Path(folder))
        yield searched
        searched.close()


@settings(max_examples=20)
@given(texts, texts, st.data())
@example("xab日本x", "", None)
@example("1ガ1", "", None)
@example("  1ガ11", "", None)
@example("a\0b11", "", None)
def test_a_part_of_a_stored_text_finds_it(
    box: Searched, prompt: str, answer: str, data: st.DataObject | None
) -> None:
    seq = box.add(prompt, answer)
    box.follow()
    text = data.draw(st.sampled_from([prompt, answer])) if data else prompt
    assume(len(text) >= 3)
    begin = data.draw(st.integers(0, len(text) - 3)) if data else 2
    end = data.draw(st.integers(begin + 3, len(text))) if data else 5
    part = text[begin:end]
    assume(fold(part).strip())  # else nothing is asked for
    assume(len(fold(part)) >= 3)  # as it is compared
    found = box.ask(phrase(part), limit=LIMIT, is_newest=True)
    assert found.has_index
    assert seq in [each.seq for each in found.found]


@settings(max_examples=15)
@given(texts, st.data())
def test_a_word_of_a_stored_text_finds_it(box: Searched, text: str, data: st.DataObject) -> None:
    seq = box.add(text)
    box.follow()
    found = list(words(fold(text)))
    assume(found)
    word = data.draw(st.sampled_from(found))
    assert seq in [each.seq for each in box.ask(phrase(word), limit=LIMIT, is_newest=True).found]


@settings(max_examples=20)
@given(asks)
def test_whatever_is_asked_is_answered_or_refused(box: Searched, text: str) -> None:
    try:
        parse(text)
    except QueryRefused:
        return
    by_index = {each.seq for each in box.ask(text, limit=LIMIT, is_newest=True).found}
    through = {each.seq for each in box.ask(text, by_index=False, limit=LIMIT).found}
    assert by_index <= through
