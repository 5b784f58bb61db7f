"""What somebody asks a search for: words, "phrases", prefix*, AND, OR, NOT and brackets, as FTS5
understands them, and as a text can be tried for them.

Only these are signs of ours: a quotation mark that opens before a word and closes behind one, a
star behind a word, the three operators in capital letters between spaces, and, where there is an
operator, brackets around what it joins. Everything else is text: code, hyphens, a lone quotation
mark. What holds signs that belong to code, as C++ or a->b, is looked for as it is written.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from edge_store.errors import QueryRefused
from edge_store.search.words import begins_with_run, fold, for_parts, is_run_of_one, words

__all__ = [
    "Leaf",
    "Node",
    "Text",
    "holds",
    "inner_match",
    "is_found_in_parts",
    "leaves",
    "parse",
    "parts_match",
    "words_match",
]

TEXT_CHARS_MAX = 10_000
DEPTH_MAX = 50
TRIGRAM = 3
OPERATORS = ("AND", "OR", "NOT")
# Signs that no word depends on: white space and what ends, joins or quotes words in any script.
PROSE = re.compile(
    r"""[\s'".,!?;:()*_-]|[\u2010-\u2015\u2018-\u201e\u2026\u3001\u3002\u300c-\u300f\xab\xbb\xbf\xa1]"""
    r"|[\u060c\u061b\u061f\uff01\uff0c\uff1a\uff1b\uff1f]"
)
CHUNK = re.compile(
    r'(?P<open>\()|"(?P<phrase>(?:[^"]|"")*)"(?P<star>\*)?(?=[\s)]|$)|(?P<plain>\S+)'
)
QUOTE_IT = 'put in quotation marks what is to be found as it is: "AND"'


class Leaf(NamedTuple):
    """One word or phrase, folded. ``is_code``: it is looked for as it is written only."""

    text: str
    words: tuple[str, ...]
    is_prefix: bool
    is_code: bool


class Every(NamedTuple):
    """All of them hold."""

    parts: tuple["Node", ...]


class Some(NamedTuple):
    """At least one of them holds."""

    parts: tuple["Node", ...]


class No(NamedTuple):
    """It does not hold: within ``Every``, and not the first there."""

    part: "Node"


Node = Leaf | Every | Some | No


class Text:
    """A prompt or an answer, to be tried."""

    def __init__(self, text: str) -> None:
        self.folded = fold(text)

    @cached_property
    def words(self) -> str:
        """Its words, a space before and after each."""
        return f" {' '.join(words(self.folded))} "

    def count(self, leaf: Leaf, *, in_parts: bool) -> int:
        """How often it has that. ``in_parts``: within words, too, if it is no shorter than what
        the trigrams tell apart.
        """
        if leaf.is_code or (in_parts and is_found_in_parts(leaf)):
            return self.folded.count(leaf.text)
        if not leaf.words:
            return 0
        return self.words.count(f" {' '.join(leaf.words)}{'' if leaf.is_prefix else ' '}")


def is_found_in_parts(leaf: Leaf) -> bool:
    """Whether it may be found otherwise than as words: as it is written, or within words."""
    return leaf.is_code or len(leaf.text) >= TRIGRAM


def leaf_of(text: str, *, is_prefix: bool) -> Leaf | None:
    """None of what holds nothing."""
    folded = fold(text)
    bare = folded.strip()
    if not folded or not bare:
        return None
    found = tuple(words(bare, is_open=True))
    ends_in_one = bool(found) and is_run_of_one(found[-1]) and bare.endswith(found[-1])
    code = PROSE.sub("", bare)
    is_code = not found or any(not each.isalnum() for each in code if not _is_of(each, found))
    return Leaf(
        text=folded,
        words=found,
        is_prefix=is_prefix or ends_in_one,  # it may go on
        is_code=is_code,
    )


def _is_of(character: str, found: Sequence[str]) -> bool:
    return any(character in each for each in found)


def parse(text: str) -> Node:
    """What is asked for.

    Raises:
        QueryRefused: nothing is, or an operator has nothing to join.
    """
    if len(text) > TEXT_CHARS_MAX:
        raise QueryRefused(f"the search has {len(text)} characters; {TEXT_CHARS_MAX} are allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QueryRefused("the search is not a text in UTF-8") from None
    signs = list(_signs(text))
    if not signs:
        raise QueryRefused("the text to search for is empty", hint="give some words of it")
    reading = Reading(signs)
    node = reading.some()
    if reading.next is not None:
        raise QueryRefused(f"{reading.next!r} closes nothing", hint=QUOTE_IT)
    return node


def _signs(text: str) -> Iterator[Leaf | str]:
    """Words and phrases, operators and brackets. Brackets only where there is an operator."""
    has_operators = any(
        found["plain"] in OPERATORS for found in CHUNK.finditer(text) if found["plain"]
    )
    place, open_count = 0, 0
    while found := re.compile(r"\s*").match(text, place):
        place = found.end()
        chunk = CHUNK.match(text, place)
        if chunk is None:
            return
        place = chunk.end()
        if chunk["open"] and has_operators:
            open_count += 1
            yield "("
            continue
        if chunk["phrase"] is not None:
            if leaf := leaf_of(chunk["phrase"].replace('""', '"'), is_prefix=bool(chunk["star"])):
                yield leaf
        else:
            plain = re.compile(r"\S+").match(text, chunk.start())
            assert plain is not None
            closing = _closing(plain[0]) if has_operators and open_count else 0
            closing = min(closing, open_count)
            whole = plain[0][: len(plain[0]) - closing]
            place = plain.end() - closing
            if whole in OPERATORS:
                yield whole
            elif leaf := leaf_of(
                whole[:-1] if (is_prefix := len(whole) > 1 and whole.endswith("*")) else whole,
                is_prefix=is_prefix,
            ):
                yield leaf
        while open_count and text[place : place + 1] == ")":
            open_count -= 1
            place += 1
            yield ")"


def _closing(chunk: str) -> int:
    """Brackets at the end that nothing in the chunk has opened."""
    at_end = len(chunk) - len(chunk.rstrip(")"))
    return max(0, min(at_end, chunk.count(")") - chunk.count("(")))


class Reading:
    """The signs, from left to right: OR binds least, then AND, which is also between two words."""

    def __init__(self, signs: Sequence[Leaf | str]) -> None:
        self._signs = signs
        self._place = 0
        self._depth = 0

    @property
    def next(self) -> Leaf | str | None:
        """None at the end."""
        return self._signs[self._place] if self._place < len(self._signs) else None

    def some(self) -> Node:
        """Alternatives."""
        found = [self._every()]
        while self.next == "OR":
            self._place += 1
            found.append(self._every())
        return found[0] if len(found) == 1 else Some(tuple(found))

    def _every(self) -> Node:
        wanted: list[Node] = []
        unwanted: list[Node] = []
        last = ""
        while (sign := self.next) not in (None, "OR", ")") or last:
            if sign == "AND" and not last and (wanted or unwanted):
                last = "AND"
                self._place += 1
                continue
            is_no = sign == "NOT"
            if is_no:
                self._place += 1
                last = "NOT"
            (unwanted if is_no else wanted).append(self._one(last))
            last = ""
        if not wanted:
            if unwanted:
                raise QueryRefused(
                    "NOT needs something before it: what is to be found",
                    hint='as in: printer NOT toner. To find the word itself: "NOT"',
                )
            raise self._missing("OR")
        parts = (*wanted, *map(No, unwanted))
        return parts[0] if len(parts) == 1 else Every(parts)

    def _one(self, before: str) -> Node:
        sign = self.next
        if isinstance(sign, Leaf):
            self._place += 1
            return sign
        if sign != "(":
            raise self._missing(before or "OR")
        self._place += 1
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise QueryRefused(f"more than {DEPTH_MAX} brackets are in each other")
        found = self.some()
        if self.next != ")":
            raise QueryRefused("a bracket is not closed", hint=QUOTE_IT)
        self._place += 1
        self._depth -= 1
        return found

    def _missing(self, operator: str) -> QueryRefused:
        where = f"before {self.next}" if isinstance(self.next, str) else "at the end"
        return QueryRefused(
            f"something is missing {where}: {operator} joins two things", hint=QUOTE_IT
        )


def leaves(node: Node) -> list[Leaf]:
    """What is to be there: not what may not."""
    match node:
        case Leaf():
            return [node]
        case Every(parts) | Some(parts):
            return [leaf for part in parts for leaf in leaves(part)]
        case No():
            return []


def holds(node: Node, texts: Sequence[Text], *, in_parts: bool) -> bool:
    """Whether the texts of one result are what is asked for: each word in any of them."""
    match node:
        case Leaf():
            return any(text.count(node, in_parts=in_parts) for text in texts)
        case Every(parts):
            return all(holds(part, texts, in_parts=in_parts) for part in parts)
        case Some(parts):
            return any(holds(part, texts, in_parts=in_parts) for part in parts)
        case No(part):
            return not holds(part, texts, in_parts=False)


def words_match(node: Node) -> str | None:
    """For the table of words; None where they cannot tell."""
    match node:
        case Leaf():
            if node.is_code:
                return None
            return f'"{" ".join(node.words)}"{" *" if node.is_prefix else ""}'
        case Every(parts):
            wanted = [words_match(part) for part in parts if not isinstance(part, No)]
            unwanted = [words_match(part.part) for part in parts if isinstance(part, No)]
            if None in (*wanted, *unwanted):
                return None
            text = " AND ".join(f"({each})" for each in wanted)
            return f"(({text}) NOT ({' OR '.join(map(str, unwanted))}))" if unwanted else text
        case Some(parts):
            found = [words_match(part) for part in parts]
            return None if None in found else " OR ".join(f"({each})" for each in found)
        case No():
            raise AssertionError("NOT is within AND")


def parts_match(node: Node) -> str | None:
    """For the table of trigrams: what any text that holds it has; None where that is nothing."""
    match node:
        case Leaf():
            found = list(dict.fromkeys(_trigrams(node.text)))
            return " AND ".join('"{}"'.format(each.replace('"', '""')) for each in found) or None
        case Every(parts):
            each = [match for part in parts if (match := parts_match(part)) is not None]
            return " AND ".join(f"({part})" for part in each) or None
        case Some(parts):
            any_of = [parts_match(part) for part in parts]
            return None if None in any_of else " OR ".join(f"({part})" for part in any_of)
        case No():
            return None


def inner_match(node: Node) -> str | None:
    """For the table of words: what any text that holds it within words has, where its trigrams are
    too short for that; None where that is nothing. A first word may be the end of a longer one, and
    a last one the beginning.
    """
    match node:
        case Leaf():
            first = 0 if not node.words or begins_with_run(node.words[0]) else 1
            inner = node.words[first:]
            is_open = node.is_prefix or not (inner and begins_with_run(inner[-1]))
            return f'"{" ".join(inner)}"{" *" if is_open else ""}' if inner else None
        case Every(parts):
            each = [match for part in parts if (match := inner_match(part)) is not None]
            return " AND ".join(f"({part})" for part in each) or None
        case Some(parts):
            any_of = [inner_match(part) for part in parts]
            return None if None in any_of else " OR ".join(f"({part})" for part in any_of)
        case No():
            return None


def _trigrams(text: str) -> Iterator[str]:
    """As few as cover it."""
    for piece in for_parts(text):
        if len(piece) >= TRIGRAM:
            last = len(piece) - TRIGRAM
            for place in (*range(0, last, TRIGRAM), last):
                yield piece[place : place + TRIGRAM]
