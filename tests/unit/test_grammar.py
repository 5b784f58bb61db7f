"""Texts and the grammars that they follow or do not; ``tests/engine`` asks xgrammar too."""

import pytest

from edge_store.ebnf import PASSES_MAX, GrammarRefused, endless_rule, parse
from edge_store.jsonrepair.machine import Machine

EXPRESSION = 'root ::= e\ne ::= e "+" e | "(" e ")" | [0-9]+'
LISTS = 'root ::= item | root "," item\nitem ::= "[" (root)? "]" | name\nname ::= [a-z] name | ""'

CASES = [
    ('root ::= "left" | "right"', ["left", "right"], ["", "lef", "leftright", " left"]),
    ("root ::= [a-c-]+ [^a-c\\n]*", ["a", "--x\ty", "c😀"], ["", "d", "ax\n"]),
    ('root ::= ("a" "b"?){2,3}', ["aa", "abab", "aaba"], ["a", "abb", "aaaa"]),
    ('root ::= "a"{2} "b"{1,} "c"{0}', ["aab", "aabbb"], ["ab", "aa", "aabc"]),
    ("root ::= [] | [^]", ["x", "\n", "\0"], ["", "xx"]),
    (r'root ::= "\x1F600\u00e9\"\\\n"', ['😀é"\\\n'], ["😀"]),
    ('# a comment\nroot ::= a # and one more\n  | "b"\na ::= ()', ["", "b"], ["a"]),
    (EXPRESSION, ["1", "1+(2+33)+4", "((1))"], ["", "1+", "(1", "1++2"]),
    (LISTS, ["", ",", "ab,[c,[]],d", "[,,]"], ["[", "a]", "[a"]),
    ('root ::= root "x" | root | ""', ["", "xxx"], ["y"]),
    ("root ::= root", [], ["", "x"]),
    ('root ::= a a a\na ::= "x" | ""', ["", "x", "xxx"], ["xxxx"]),
    ('root ::= ((("")*)+)* "a"', ["a"], ["", "aa"]),
    ('root ::= a{3}\na ::= "1" | b\nb ::= ("2"{2})?', ["", "1", "221", "222222"], ["2", "1111"]),
]


@pytest.mark.parametrize(("grammar", "following", "others"), CASES)
def test_a_text_follows_a_grammar_or_does_not(
    grammar: str, following: list[str], others: list[str]
) -> None:
    machine = Machine(grammar)
    assert [text for text in following if not machine.matches(text)] == []
    assert [text for text in others if machine.matches(text)] == []


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("", "there is no rule root"),
        ("root ::= a", "line 1: the rule a is not defined"),
        ('root ::= "a"\nroot ::= "b"', "line 2: the rule root is defined twice"),
        ("root ::= ", "line 1: the end stands where an element is expected"),
        ('root ::= "a" |', "the end stands where"),
        ('root ::= "a"\r\n\r\n)', "line 3: a rule was expected"),
        ('root ::= ("a"', "`)` was expected, not the end"),
        ('root ::= "a" a ::= "b"', "a `::=` has no rule's name in front on its own line"),
        ('true ::= "a"', "a `::=` has no rule's name"),
        ("root ::= 'a'", 'line 1: "\'" begins nothing'),
        ('root ::= "a', "'\"' begins nothing"),
        (r"root ::= [\w]", r"there is no escape \w"),
        (r'root ::= "\x110000"', r"\x110000 is no character"),
        ("root ::= [z-a]", "a range that runs backwards: [z-a]"),
        ('root ::= "a"{2,1}', "2 to 1 is no range"),
        ('root ::= "a"{x}', "a number was expected, not x"),
        ('root ::= "a"{1 2}', "`}` was expected, not 2"),
        ('root ::= "a"{9999999999}', "9999999999 is too large"),
        ('root ::= "a"{50000}', "it has over 50000 states"),
        ('root ::= ""{999999999}', "it has over 50000 states"),
        ('root ::= "a" (= "b")', "lookahead is not checked here"),
        ('root ::= Regex("a+")', "the macro Regex is not checked here"),
        ('root ::= "a"\0', "it holds a NUL"),
    ],
)
def test_what_is_no_grammar_says_where_and_why(grammar: str, reason: str) -> None:
    with pytest.raises(GrammarRefused) as refused:
        Machine(grammar)
    assert reason in str(refused.value)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "rule",
    ['l ::= [a-z] l | ""', 'l ::= l [a-z] | ""', 'l ::= ([a-z] | "ab")*'],
    ids=["right", "left", "loop"],
)
def test_a_long_text_takes_time_by_its_length(rule: str) -> None:
    machine = Machine("root ::= l\n" + rule)
    assert machine.matches("ab" * 10_000)
    assert not machine.matches("ab" * 10_000 + "-")


@pytest.mark.parametrize(
    ("grammar", "rule"),
    [
        ("root ::= root", "root"),
        ('root ::= "a" root', "root"),
        ("root ::= a\na ::= b | a\nb ::= (a){1,}", "a"),
        ('root ::= "x" | ("y" a)\na ::= a', "a"),
        ("root ::= []", "root"),
        ('root ::= root "a" | "b"', None),
        ('root ::= a?\na ::= "a" a | ""', None),
        ('root ::= "a"\nb ::= b', None),  # which nothing leads to
        (EXPRESSION, None),
        (LISTS, None),
    ],
)
def test_rule_that_no_text_follows_is_found(grammar: str, rule: str | None) -> None:
    assert endless_rule(parse(grammar)) == rule


def test_long_way_to_an_end_is_not_gone() -> None:
    def chain(length: int) -> str:
        rules = ["a0 ::= a0", 'b0 ::= "x"'] + [f"b{n} ::= b{n - 1}" for n in range(1, length)]
        return "\n".join([f"root ::= a0 | b{length - 1}", *rules])

    assert endless_rule(parse(chain(PASSES_MAX - 2))) == "a0"
    assert endless_rule(parse(chain(PASSES_MAX + 2))) is None
