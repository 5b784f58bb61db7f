"""Reads a grammar in the EBNF that SGLang's `ebnf` takes, which is xgrammar's, into a tree.

Rules `name ::= …` begin on lines of their own; there are literals, character classes, groups,
`|`, `* + ?`, `{m,n}`, `#` comments, C's escapes (xgrammar: cpp/grammar_parser.cc). What is taken
here xgrammar 0.2 takes too, and reads alike. Refused, though it takes them: macros
(`TagDispatch`, `Token`, `Regex`, …), lookahead, and the attributes of rules.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

__all__ = [
    "ROOT",
    "CharacterClass",
    "Choice",
    "GrammarRefused",
    "Literal",
    "Repeat",
    "Rule",
    "Sequence",
    "Tree",
    "endless_rule",
    "parse",
]

ROOT = "root"
CODE_POINT_MAX = 0x10FFFF
REPEAT_DIGITS_MAX = 9
PASSES_MAX = 20
MACROS = frozenset({"ExcludeToken", "Regex", "TagDispatch", "Token", "TokenTagDispatch"})
CONSTANTS = frozenset({"true", "false"})  # macros' arguments, and no rules' names
TOKEN = re.compile(
    r"""(?P<name>[A-Za-z_.-][A-Za-z0-9_.-]*) | (?P<assign>::=) | (?P<number>[0-9]+)
      | (?P<literal>"(?:[^"\\\r\n]|\\[^\r\n])*+") | (?P<class>\[(?:[^\]\\\r\n]|\\[^\r\n])*+\])
      | (?P<mark>\(=|[(){}|,*+?])""",
    re.VERBOSE,
)
BETWEEN = re.compile(r"(?:[ \t\r\n]|\#[^\r\n]*)*+")
LINE_END = re.compile(r"\r\n|\r|\n")
CHARACTER = re.compile(
    r"\\(?:x(?P<x>[0-9A-Fa-f]+)|u(?P<u>[0-9A-Fa-f]{4})|U(?P<U>[0-9A-Fa-f]{8})|(?P<one>.))|(?P<self>.)",
    re.DOTALL,
)
ESCAPES = dict(zip("'\"?/\\abfnrtv0e", "'\"?/\\\a\b\f\n\r\t\v\0\x1b", strict=True))
ESCAPES_IN_CLASS = ESCAPES | {c: c for c in "^$.*+()[]{}|-"}


class GrammarRefused(Exception):
    """The text is no grammar that can be applied here; the message says where and why."""


class Literal(NamedTuple):
    """These characters."""

    text: str


class CharacterClass(NamedTuple):
    """One character in one of the ranges of code points, ends included; or in none of them."""

    ranges: tuple[tuple[int, int], ...]
    is_negated: bool


class Rule(NamedTuple):
    """What the rule of that name says."""

    name: str


class Sequence(NamedTuple):
    """One after the other."""

    parts: tuple["Tree", ...]


class Choice(NamedTuple):
    """One of them."""

    choices: tuple["Tree", ...]


class Repeat(NamedTuple):
    """``part`` at least ``least`` times, and at most ``most``, or without a bound."""

    part: "Tree"
    least: int
    most: int | None


Tree = Literal | CharacterClass | Rule | Sequence | Choice | Repeat
QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class Token(NamedTuple):
    """``kind`` is a group of ``TOKEN``, `rule` for the name before a `::=`, or `end`."""

    kind: str
    text: str
    at: int


def parse(grammar: str) -> dict[str, Tree]:
    """The rules by name, `root` among them; every rule that is named is there.

    Raises:
        GrammarRefused: xgrammar does not take it, or it uses what cannot be checked here.
        RecursionError: its groups are nested too deeply.
    """
    return _Parser(grammar).rules()


def endless_rule(rules: dict[str, Tree]) -> str | None:
    """A rule that ``root`` leads to and no text follows, as it names itself, or others that do,
    wherever one may go; None if there is none, or it takes more passes to tell.
    """
    ends: set[str] = set()
    for _ in range(PASSES_MAX):
        before = len(ends)
        for name, tree in reversed(rules.items()):  # they mostly name those below them
            if name not in ends and _ends(tree, ends):
                ends.add(name)
        if len(ends) in (before, len(rules)):
            break
    else:
        return None
    met: set[str] = set()
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name not in met:
            met.add(name)
            waiting += _named(rules[name])
    return min(met - ends, default=None)


def _ends(tree: Tree, ends: Collection[str]) -> bool:
    """Whether a text follows it, where one follows the rules ``ends``."""
    match tree:
        case Rule(name):
            return name in ends
        case Sequence(parts):
            return all(_ends(part, ends) for part in parts)
        case Choice(choices):
            return any(_ends(choice, ends) for choice in choices)
        case Repeat(part, least):
            return least == 0 or _ends(part, ends)
        case CharacterClass(ranges, is_negated):
            return bool(ranges) or is_negated
        case Literal():
            return True


def _named(tree: Tree) -> Iterator[str]:
    match tree:
        case Rule(name):
            yield name
        case Sequence(parts) | Choice(parts):
            for part in parts:
                yield from _named(part)
        case Repeat(part):
            yield from _named(part)


def _tokens(grammar: str) -> Iterator[Token]:
    if "\0" in grammar:
        raise GrammarRefused("it holds a NUL, where C's strings end")
    at = BETWEEN.match(grammar).end()  # type: ignore[union-attr]  # it matches the empty text
    held: Token | None = None
    begins_line, held_begins_line = True, True
    while at < len(grammar):
        found = TOKEN.match(grammar, at)
        if found is None:
            raise _refusal(grammar, at, f"{grammar[at]!r} begins nothing")
        token = Token(str(found.lastgroup), found.group(), at)
        if token.kind == "assign":
            is_name = held is not None and held.kind == "name" and held.text not in CONSTANTS
            if held is None or not is_name or not held_begins_line:
                raise _refusal(grammar, at, "a `::=` has no rule's name in front on its own line")
            held = held._replace(kind="rule")
        if held is not None:
            yield held
        held, held_begins_line = token, begins_line
        at = found.end()
        gap = BETWEEN.match(grammar, at)
        assert gap is not None
        begins_line = LINE_END.search(gap.group()) is not None
        at = gap.end()
    if held is not None:
        yield held
    yield Token("end", "the end", len(grammar))


def _refusal(grammar: str, at: int, reason: str) -> GrammarRefused:
    line = len(LINE_END.findall(grammar, 0, at)) + 1
    return GrammarRefused(f"line {line}: {reason}")


class _Parser:
    """One pass over the tokens, by recursive descent."""

    def __init__(self, grammar: str) -> None:
        self._grammar = grammar
        self._tokens = list(_tokens(grammar))
        self._next = 0
        self._used: dict[str, Token] = {}

    def rules(self) -> dict[str, Tree]:
        found: dict[str, Tree] = {}
        while self._peek().kind != "end":
            name = self._take()
            if name.kind != "rule":
                raise self._refused(name, f"a rule was expected, not {name.text}")
            if name.text in found:
                raise self._refused(name, f"the rule {name.text} is defined twice")
            self._take()  # the `::=`, which has made it a rule's name
            found[name.text] = self._choices()
            if self._peek().text == "(=":
                raise self._refused(self._peek(), "lookahead is not checked here")
        for used in self._used.values():
            if used.text not in found:
                raise self._refused(used, f"the rule {used.text} is not defined")
        if ROOT not in found:
            raise GrammarRefused(f"there is no rule {ROOT}")
        return found

    def _choices(self) -> Tree:
        choices = [self._sequence()]
        while self._peek().text == "|":
            self._take()
            choices.append(self._sequence())
        return choices[0] if len(choices) == 1 else Choice(tuple(choices))

    def _sequence(self) -> Tree:
        parts = [self._repeated()]
        while not self._ends_sequence(self._peek()):
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    @staticmethod
    def _ends_sequence(token: Token) -> bool:
        return token.kind in ("rule", "end") or token.text in ("|", ")", "(=")

    def _repeated(self) -> Tree:
        part = self._element()
        mark = self._peek().text
        if mark in QUANTIFIERS:
            self._take()
            return Repeat(part, *QUANTIFIERS[mark])
        return Repeat(part, *self._range()) if mark == "{" else part

    def _range(self) -> tuple[int, int | None]:
        self._take()
        least = self._number()
        most: int | None = least
        if self._peek().text == ",":
            self._take()
            if self._peek().text in ("}", "-1"):  # -1 is how xgrammar prints an open range
                most = None
                if self._peek().text == "-1":
                    self._take()
            else:
                most = self._number()
        closing = self._take()
        if closing.text != "}":
            raise self._refused(closing, f"`}}` was expected, not {closing.text}")
        if most is not None and most < least:
            raise self._refused(closing, f"{least} to {most} is no range")
        return least, most

    def _number(self) -> int:
        token = self._take()
        if token.kind != "number":
            raise self._refused(token, f"a number was expected, not {token.text}")
        if len(token.text) > REPEAT_DIGITS_MAX:
            raise self._refused(token, f"{token.text[:20]} is too large")
        return int(token.text)

    def _element(self) -> Tree:
        token = self._take()
        if token.kind == "literal":
            inside = self._characters(token, ESCAPES)
            return Literal("".join(character for character, _ in inside))
        if token.kind == "class":
            return self._class(token)
        if token.kind == "name" and token.text in MACROS:
            raise self._refused(token, f"the macro {token.text} is not checked here")
        if token.kind == "name" and token.text not in CONSTANTS:
            self._used.setdefault(token.text, token)
            return Rule(token.text)
        if token.text != "(":
            raise self._refused(token, f"{token.text} stands where an element is expected")
        if self._peek().text == ")":
            self._take()
            return Literal("")
        group = self._choices()
        closing = self._take()
        if closing.text != ")":
            raise self._refused(closing, f"`)` was expected, not {closing.text}")
        return group

    def _class(self, token: Token) -> CharacterClass:
        is_negated = token.text.startswith("[^")
        inside = list(self._characters(token, ESCAPES_IN_CLASS, 2 if is_negated else 1))
        ranges: list[tuple[int, int]] = []
        at = 0
        while at < len(inside):
            least = most = ord(inside[at][0])
            at += 1
            if at + 1 < len(inside) and inside[at] == ("-", False):
                most = ord(inside[at + 1][0])
                at += 2
            if most < least:
                raise self._refused(token, f"a class has a range that runs backwards: {token.text}")
            ranges.append((least, most))
        return CharacterClass(tuple(ranges), is_negated)

    def _characters(
        self, token: Token, escapes: dict[str, str], begin: int = 1
    ) -> Iterator[tuple[str, bool]]:
        """The characters inside a literal or class, each with whether it was escaped."""
        for found in CHARACTER.finditer(token.text, begin, len(token.text) - 1):
            if found["self"] is not None:
                yield found["self"], False
            elif found["one"] is not None:
                if found["one"] not in escapes:
                    raise self._refused(token, f"there is no escape {found.group()}")
                yield escapes[found["one"]], True
            else:
                code = int(found["x"] or found["u"] or found["U"], 16)
                if code > CODE_POINT_MAX:
                    raise self._refused(token, f"{found.group()[:20]} is no character")
                yield chr(code), True

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _refused(self, token: Token, reason: str) -> GrammarRefused:
        return _refusal(self._grammar, token.at, reason)
