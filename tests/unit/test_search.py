"""What is asked for is found, in any script, as the index has it and as the texts have it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.searching import Searched

from edge_store.errors import QueryRefused
from edge_store.result import Status
from edge_store.search import find
from edge_store.search.asked import leaves, parse
from edge_store.search.find import Place
from edge_store.search.snippets import marked
from edge_store.search.sought import sought_of
from edge_store.search.words import fold, words
from edge_store.selection import Selection

TEXTS = {
    "printer": ("What of the printer?", "The printer on floor 3 answers again."),
    "german": ("Wie war die Prüfung?", "Die Prüfung könnte besser sein."),
    "chinese": ("今天天气怎么样", "北京今天晴。气温二十五度。"),
    "japanese": ("東京タワー", "東京タワーは日本語のAPIで説明します。"),
    "korean": ("서울에서", "한국어로 답합니다"),
    "arabic": ("مَرْحَبًا بالعالم", "أهلا وسهلا"),
    "hindi": ("नमस्ते", "हिन्दी में उत्तर"),
    "emoji": ("party", "great🎉work 👩‍💻 and ❤️"),
    "code": ("C++ or C?", 'use std::vector<int> v; a->b = x[1]; if (n == 0) say("hi");'),
    "hyphens": ("state-of-the-art", "user_name@example.com at 10.0.0.1"),
    "c": ("only C here", "plain C"),
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    searched = Searched(tmp_path_factory.mktemp("searched"))
    for prompt, answer in TEXTS.values():
        searched.add(prompt, answer)
    searched.follow()
    yield searched
    searched.close()


def names(box: Searched, text: str, **wanted: object) -> set[str]:
    return {list(TEXTS)[seq - 1] for seq in box.found(text, **wanted)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PRINTER", "printer"),
        ("prufung", "german"),
        ("Prüfung besser", "german"),
        ("天气", "chinese"),
        ("晴", "chinese"),
        ("气温二十五度", "chinese"),
        ("東京", "japanese"),
        ("タワー", "japanese"),
        ("日本語のAPI", "japanese"),
        ("API", "japanese"),
        ("한국", "korean"),
        ("مرحبا", "arabic"),
        ("اهلا", "arabic"),
        ("नमस्ते", "hindi"),
        ("🎉", "emoji"),
        ("great work", "emoji"),
        ("👩‍💻", "emoji"),
        ("❤", "emoji"),
        ("C++", "code"),
        ("std::vector<int>", "code"),
        ("ector<in", "code"),
        ("a->b", "code"),
        ("==", "code"),
        ('say("hi")', "code"),
        ("state of the art", "hyphens"),
        ("state-of-the-art", "hyphens"),
        ("example.com", "hyphens"),
        ("user_name@example.com", "hyphens"),
        ("10.0.0.1", "hyphens"),
        ('5" printer floor OR party', "emoji"),
        ("rinte", "printer"),
        ("swers aga", "printer"),
        ('"floor 3 answers"', "printer"),
        ('"swers aga"', "printer"),
        ("ans*", "printer"),
        ('"floor 3 ans"*', "printer"),
        ("printer NOT party", "printer"),
        ("(party OR printer) AND floor", "printer"),
        ("party NOT (printer OR floor)", "emoji"),
    ],
)
def test_it_is_found(box: Searched, text: str, expected: str) -> None:
    assert names(box, text) == {expected}


@pytest.mark.parametrize(
    "text", ["floor printer absent", '"floor printer"', "天度", "std::list", "->>"]
)
def test_what_is_nowhere_is_not_found(box: Searched, text: str) -> None:
    assert names(box, text) == set()


def test_one_letter_is_a_word_and_a_sign_behind_it_is_asked_for(box: Searched) -> None:
    assert names(box, "C") == {"code", "c"}
    assert names(box, "C++") == {"code"}


def test_prompt_and_answer_are_told_apart(box: Searched) -> None:
    assert names(box, "printer", place=Place.PROMPT) == {"printer"}
    assert names(box, "floor", place=Place.PROMPT) == set()
    assert names(box, "floor", place=Place.ANSWER) == {"printer"}
    assert names(box, "loo", place=Place.PROMPT) == set()
    assert names(box, "what floor") == {"printer"}, "each word may be in either"


@pytest.mark.parametrize(
    "text",
    ["", "  ", '""', "AND", "NOT", "NOT a", "a AND", "OR a", "a AND OR b", "(a OR b", "a OR NOT b",
     "a AND ()", "x" * 10_001, "(" * 60 + "a AND b" + ")" * 60, "\udcff"],
)  # fmt: skip
def test_what_is_no_search_is_refused_in_our_own_words(text: str) -> None:
    with pytest.raises(QueryRefused) as refused:
        parse(text)
    assert "fts5" not in str(refused.value).lower()


@pytest.mark.parametrize(
    "text",
    ['say "hi', 'a"b', "foo(bar)", "((", "it's", "-x", "x=1", "*", "a*b", "^a", "{a}", "a:b",
     "NEAR(a b)", "'; DROP TABLE", "%", "\\", "`a`", "#!", "~", "a AND b:c", 'x" OR "y'],
)  # fmt: skip
def test_any_plain_text_may_be_asked_for(box: Searched, text: str) -> None:
    box.ask(text)


def test_whole_words_come_before_parts_and_more_before_less(tmp_path: Path) -> None:
    box = Searched(tmp_path)
    whole = box.add("toner", "one toner")
    part = box.add("", "tonerless")
    often = box.add("toner toner", "toner toner toner")
    box.add("", "nothing of it")
    box.follow()
    assert box.found("toner") == [often, whole, part]
    assert box.found("toner", is_newest=True) == [often, part, whole]
    assert box.found("toner", limit=1) == [often]
    box.close()


def test_filters_narrow_what_is_found(tmp_path: Path) -> None:
    box = Searched(tmp_path)
    mine = box.add("toner", tenant="a")
    box.add("toner", tenant="b")
    failed = box.add("toner", tenant="a", status=Status.FAILED)
    box.follow()
    assert box.found("toner", selection=Selection(tenant="a")) == [failed, mine]
    both = Selection(tenant="a", status=Status.COMPLETED)
    assert box.found("toner", selection=both) == [mine]
    assert box.found("tone", selection=both) == [mine]
    box.close()


def test_what_the_index_has_not_got_yet_is_found(box: Searched, tmp_path: Path) -> None:
    box = Searched(tmp_path)
    box.add("toner")
    box.follow()
    late = box.add("a late toner")
    assert late in box.found("toner")
    box.close()


def test_newest_that_are_passed_over_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "UNINDEXED_MAX", 1)
    box = Searched(tmp_path)
    box.add("toner")
    box.follow()
    for _ in range(2):
        box.add("toner")
    answer = box.ask("toner")
    assert ([each.seq for each in answer.found], answer.unindexed) == ([1], 2)
    box.close()


def test_parts_of_words_are_looked_for_without_end_only_where_no_word_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "TRIED_MAX", 2)
    box = Searched(tmp_path)
    part = box.add("", "toners")
    for _ in range(4):
        box.add("ton one ner", "its trigrams, and not itself")
    box.follow()
    answer = box.ask("toner")
    assert ([each.seq for each in answer.found], answer.is_cut) == ([part], False)
    word = box.add("toner")
    box.follow()
    answer = box.ask("toner")
    assert ([each.seq for each in answer.found], answer.is_cut) == ([word], True)
    box.close()


def test_what_is_too_short_to_be_a_part_is_not_looked_for_in_all_texts(tmp_path: Path) -> None:
    box = Searched(tmp_path)
    box.add("bat")
    box.follow()
    statements: list[str] = []
    box.reader.set_trace_callback(statements.append)
    wanted = find.Wanted(text=parse("ba"))
    assert find.search(box.reader, [box.index_path], wanted).found == ()
    assert not any("NOT INDEXED" in text and "r.seq > 0" in text for text in statements)
    box.close()


def test_a_word_is_counted_wherever_it_stands(tmp_path: Path) -> None:
    (jam,) = sought_of(leaves(parse('"paper jam"')), in_parts=False)
    assert jam.count("paper jam, paper-jam; newspaper jam, paper jams, paper\njam") == 3
    (begun,) = sought_of(leaves(parse("jam*")), in_parts=False)
    assert list(begun.spans("jam jams jjam 3jam _jam_")) == [(0, 3), (4, 7), (20, 23)]
    (run,) = sought_of(leaves(parse("天気")), in_parts=False)
    assert run.count("今日の天気は天気図で") == 2
    (part,) = sought_of(leaves(parse("rin")), in_parts=True)
    assert part.count("printer ring") == 2


def test_a_search_ends_at_its_time(box: Searched) -> None:
    answer = box.ask("printer", by_index=False, timeout_s=1e-9)
    assert answer.is_out_of_time


def test_a_snippet_shows_where_it_is(box: Searched) -> None:
    def shown(text: str) -> str:
        (found,) = box.ask(text).found
        return marked(found.snippet, "[", "]")

    assert shown("floor printer") == "The [printer] on [floor] 3 answers again."
    assert shown("prufung konnte") == "Die [Prüfung] [könnte] besser sein."
    assert shown("مرحبا") == "[مَرْحَبًا] بالعالم"
    assert shown("天气") == "今天[天气]怎么样"
    assert shown("rinte AND floor").startswith("The p[rinte]r")


def test_a_snippet_of_a_long_text_is_cut_at_words(tmp_path: Path) -> None:
    box = Searched(tmp_path)
    box.add("", "Grüße " * 500 + "the needle is here " + "padding " * 500)
    box.follow()
    (found,) = box.ask("needle").found
    assert marked(found.snippet, "[", "]").startswith("…Grüße ")
    assert "the [needle] is here" in marked(found.snippet, "[", "]")
    assert len(found.snippet.text) <= 162
    box.close()


def test_each_character_folds_by_itself_and_for_good() -> None:
    for code in range(0x20000):  # nothing beyond has a case or a decomposition, but variants of Han
        if not 0xD800 <= code < 0xE000:
            folded = fold("é" + chr(code))[1:]  # never by the short way of ASCII
            assert len(folded) <= 1
            assert fold(folded) == folded
            assert code > 0x7F or folded == fold(chr(code))


def test_a_run_is_its_pairs_and_its_last_character() -> None:
    assert list(words("日本語 api東京")) == ["日本", "本語", "語", "api", "東京", "京"]
    assert list(words("日本語", is_open=True)) == ["日本", "本語"]
