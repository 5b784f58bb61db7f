r"""Texts and the regular expressions that they match or do not, by every reading of the engines';
``tests/engine`` asks xgrammar too.
"""

import pytest

from edge_store.jsonrepair.regex import NotCheckable, holds

SPACES = "\t\n\v\f\r "
WIDE = "\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rule", [r"\s", r"[\s]", r"[^\S]", r"[\S\s]", r"[^\d\S]"])
def test_an_ascii_space_is_one_to_all(rule: str, space: str) -> None:
    assert holds(rule, space)
    assert not holds(r"\S", space)
    assert not holds(r"[^\s]", space)


@pytest.mark.parametrize("space", WIDE)
@pytest.mark.parametrize("rule", [r"\s", r"\S", r"[\s]", r"[^\s]", r"[\S]", r"a?\s+", r"[^\S ]"])
def test_a_space_beyond_ascii_that_decides_is_not_judged(rule: str, space: str) -> None:
    with pytest.raises(NotCheckable, match="in different ways"):
        holds(rule, space)


@pytest.mark.parametrize("character", ["a", "\x00", "\x1c", "\u0085", "\u180e", "\u200b", "😀"])
def test_what_is_no_space_is_none(character: str) -> None:
    for rule in (r"\S", r"[\S]", r"[^\s]", r"[\s\S]"):
        assert holds(rule, character)
    for rule in (r"\s", r"[\s]"):
        assert not holds(rule, character)


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [(r"[^\D]", "1", "a"), (r"[^\W]", "_", "-"), (r"[^\S]", " ", "a")],
)
def test_a_complement_in_a_negated_class_is_judged_of_ascii(
    rule: str, inside: str, outside: str
) -> None:
    assert holds(rule, inside)
    assert not holds(rule, outside)
    for character in ("é", "😀"):
        with pytest.raises(NotCheckable, match="in different ways"):
            holds(rule, character)


def test_a_space_beyond_ascii_that_does_not_decide_is_no_matter() -> None:
    assert holds(r"[^a\s]+|.*", "x\u00a0y")
    assert not holds(r"\s+b", "\u00a0c")
    assert holds(r"\w+\s\w+", "a b")


@pytest.mark.parametrize(
    ("rule", "matching", "other"),
    [
        ("^a$", "a", "a\n"),
        ("^a|b$", "b", "ab"),
        ("(?:^a$|^b$)", "a", "c"),
        (r"\^a\$", "^a$", "a"),
        ("[$^]+", "^$", "a"),
        (r"[a\^]", "^", "b"),
        ("a.c", "a\nc", "ac"),
        (r"\d\w", "1_", "\u0661a"),
        (r"[\w-]+", "a-b", "a b"),
        ("[^^]", "a", "^"),
        (r"a\nb", "a\nb", "anb"),
        ("", "", "a"),
    ],
)
def test_the_whole_text_matches_or_does_not(rule: str, matching: str, other: str) -> None:
    assert holds(rule, matching)
    assert not holds(rule, other)


@pytest.mark.parametrize(
    ("rule", "text"), [("a^b", "ab"), ("a$b", "ab"), ("(a$)b", "ab"), ("a$\n", "a\n")]
)
def test_an_anchor_within_a_rule_is_not_judged_where_it_decides(rule: str, text: str) -> None:
    with pytest.raises(NotCheckable, match="in different ways"):
        holds(rule, text)
    assert not holds(rule, "c")


@pytest.mark.parametrize(
    "rule",
    [r"\Aa\Z", "a$*", "^+a", "[]a]", "[^]a]", r"[\^]", r"[\^a]", r"\07", r"[\1]", r"[\01]"],
)
def test_what_engines_read_as_something_else_is_not_checked(rule: str) -> None:
    with pytest.raises(NotCheckable, match=r"read in different ways|no regular expression"):
        holds(rule, "a")


@pytest.mark.parametrize("rule", ["(", "[a", "a**", r"\p{L}", r"[a-\s]", "x{2,1}"])
def test_what_python_does_not_know_is_not_checked(rule: str) -> None:
    with pytest.raises(NotCheckable, match="no regular expression of Python's"):
        holds(rule, "a")
