"""A text is said to follow an `ebnf` where xgrammar, by which SGLang generates, says so too."""

import importlib
import warnings
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_store.ebnf import GrammarRefused
from edge_store.jsonrepair.machine import Machine
from edge_store.jsonrepair.regex import NotCheckable, holds

pytestmark = pytest.mark.sglang

NAMES = ("root", "a-b", "c.d")
TEXTS = ["".join(letters) for length in range(5) for letters in product("ab", repeat=length)] + [
    "-",
    "a-b",
    "é",
    "a\n",
    "\n",
    "\0",
    "c",
    "]",
    "😀",
    "\x7f",
    "^",
    "\\",
    '"',
]
ATOMS = st.one_of(
    st.sampled_from(['"a"', '"b"', '"ab"', '""', "[ab]", "[^a]", "[]", "[^]", "()", *NAMES]),
    st.sampled_from(
        [r'"\x61"', r'"\u0062\n"', r"[\x61-\x62]", "[a-]", "[--a]", r"[\-\]^]", r'"\\"', '"é"']
    ),
)
MARKS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,1}", "{1,}", "{0}", "{ 1 , 3 }"])
SPACES = st.sampled_from([" ", "  ", "\n ", " # and\n "])


def marked_with(part: str, mark: str) -> str:
    """xgrammar 0.2.7 takes `a` for `("a"{2}){0,1}`: it gets no range inside a range."""
    return part + ("*" if "{" in part and "{" in mark else mark)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    marked = st.builds(marked_with, inner, MARKS)
    sequence = st.builds(" ".join, st.lists(marked, min_size=1, max_size=3))
    choice = st.builds(" | ".join, st.lists(sequence, min_size=1, max_size=3))
    return st.builds("({})".format, choice)


BODIES = st.builds(
    lambda group, space: group[1:-1].replace(" | ", f"{space}| "),
    grown(st.recursive(ATOMS, grown, max_leaves=6)),
    SPACES,
)
GRAMMARS = st.builds(
    lambda bodies, end: (
        "\n".join(f"{name} ::= {body}" for name, body in zip(NAMES, bodies, strict=True)) + end
    ),
    st.tuples(BODIES, BODIES, BODIES),
    st.sampled_from(["", "\n", "\r\n# the end"]),
)
JSON = r"""
root ::= ws value ws
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? "}"
pair ::= string ws ":" ws value ws
array ::= "[" ws (value ws ("," ws value ws)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
ws ::= [ \t\n\r] ws | ""
"""


DEEP = '{"a": [1, -2.5e+3, {"b": "\\u00e9\\n"}], "c": null}'
REFUSED = [
    "",
    'root = "a"',
    "root ::= b",
    "root ::=",
    'root ::= "a" |',
    "root ::= true",
    'true ::= "a"\nroot ::= "a"',
    'root ::= "a"**',
    'root ::= "a"{2}{3}',
    'root ::= "a"{3,2}',
    'root ::= "a"{,2}',
    "root ::= [b-a]",
    r"root ::= [\d]",
    r'root ::= "\d"',
    r'root ::= "\u12"',
    'root ::= "a',
    'root ::= "a\nb"',
    "root ::= [a",
    'root ::= ("a"',
    'root ::= "a")',
    'root ::= "a" b ::= "c"',
    'root ::= "a"\nroot ::= "b"',
    "root ::= 'a'",
]


def engine(name: str = "xgrammar") -> Any:
    """A module of xgrammar, which is there only where SGLang is. A warning that becomes an error
    inside its libraries' start ends Python with a fault.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def differences(grammar: str, texts: list[str]) -> list[tuple[str, bool]]:
    """The texts of which xgrammar says something else, with what it says."""
    accepts = engine("xgrammar.testing")._is_grammar_accept_string
    machine, rules = Machine(grammar), engine().Grammar.from_ebnf(grammar)
    said = [(text, bool(accepts(rules, text))) for text in texts]
    return [(text, holds) for text, holds in said if machine.matches(text) != holds]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(GRAMMARS)
def test_random_grammars_hold_where_xgrammar_says_so(grammar: str) -> None:
    assert differences(grammar, TEXTS) == []


def test_every_cut_and_every_slip_of_a_json_text_is_judged_alike() -> None:
    cut = [DEEP[:n] for n in range(len(DEEP) + 1)]
    slipped = [DEEP[:n] + c + DEEP[n + 1 :] for n in range(len(DEEP)) for c in ('"', "]", " ", "1")]
    assert differences(JSON, [*cut, *slipped]) == []


@pytest.mark.parametrize("escape", [chr(code) for code in range(33, 127)])
@pytest.mark.parametrize("form", ['"{}"', "[{}]"], ids=["literal", "class"])
def test_every_escape_is_read_alike(form: str, escape: str) -> None:
    grammar = "root ::= " + form.format("\\" + escape)
    assert is_taken(grammar) == is_checked(grammar)
    if is_checked(grammar):
        assert differences(grammar, [chr(code) for code in range(256)]) == []


@pytest.mark.parametrize("grammar", REFUSED)
def test_what_xgrammar_refuses_is_not_checked(grammar: str) -> None:
    assert (is_taken(grammar), is_checked(grammar)) == (False, False)


PIECES = st.sampled_from(
    [
        *(
            "a",
            "b",
            "-",
            "]",
            ".",
            "^",
            "$",
            "[ab]",
            "[^a]",
            "[a-c]",
            "[-a]",
            "[a^]",
            "[$]",
            "[^^]",
        ),
        *(r"\s", r"\S", r"\d", r"\w", r"\W", r"\D", r"\.", r"\-", r"\^", r"\$", r"\n", r"\x61"),
        *(r"\u0062", r"\\", r"\/", r"[^\s]", r"[\S\s]", r"[\w-]", r"[a\-c]", r"[\]]", r"[^\S ]"),
        *(r"[\d\s]", r"[\^]", r"[a\^]", "[]a]", "[^]", r"\A", r"\0", r"\07", r"[^\D]", r"[^\W_]"),
    ]
)
TIMES = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?", "+?", "{,2}"])
MARKS_ALONE = st.sampled_from(["", "*", "+", "?", "*?"])
REGEXES = st.recursive(
    st.builds("{}{}".format, PIECES, TIMES),
    lambda inner: st.one_of(
        st.builds("({}){}".format, inner, MARKS_ALONE),  # see marked_with
        st.builds("{}|{}".format, inner, inner),
        st.builds("{}{}".format, inner, inner),
    ),
    max_leaves=5,
)
SUBJECTS = st.lists(
    st.text("abc-^$]\n\t 1_\\é\u00a0\u2028\ufeffAZ", max_size=4), min_size=20, max_size=20
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(REGEXES, SUBJECTS)
def test_random_regexes_hold_where_xgrammar_says_so(rule: str, texts: list[str]) -> None:
    accepts = engine("xgrammar.testing")._is_grammar_accept_string
    try:
        taken = engine().Grammar.from_regex(rule)
    except RuntimeError:
        return  # there is no answer to such a request
    for text in texts:
        with suppress(NotCheckable):
            assert holds(rule, text) == bool(accepts(taken, text)), text


def is_taken(grammar: str) -> bool:
    try:
        engine().Grammar.from_ebnf(grammar)
    except RuntimeError:
        return False
    return True


def is_checked(grammar: str) -> bool:
    try:
        Machine(grammar)
    except GrammarRefused:
        return False
    return True
