"""The part of a text that shows best why it was found, and where in it the words are."""

import re
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from edge_store.search.asked import TRIGRAM, Leaf
from edge_store.search.words import FOLDS, LETTERS, NOT_IN_PARTS, TOKEN, fold

__all__ = ["Snippet", "marked", "snippet_of"]

BEFORE, LENGTH = 40, 160  # characters: before what was found, and in all
WORD_MAX = 16  # so far a beginning is moved to that of a word
HITS_MAX = 100
LEAVES_MAX = 40
CUT = "…"
GAP = r"[\W_]"


class Snippet(NamedTuple):
    """``spans``: beginnings and ends in ``text``."""

    text: str
    spans: tuple[tuple[int, int], ...]


def snippet_of(text: str, wanted: Sequence[Leaf], *, in_parts: bool) -> Snippet:
    """Where the most of ``wanted`` is close together; the beginning, where nothing is."""
    folded = fold(text)
    pattern = _pattern(wanted[:LEAVES_MAX], in_parts=in_parts)
    hits = [
        (found.start(), found.end(), found.lastgroup)
        for found in islice(pattern.finditer(folded), HITS_MAX)
        if found.end() > found.start()
    ]

    def seen_from(start: int) -> int:
        return len({name for begin, end, name in hits if start <= begin and end <= start + LENGTH})

    best = max((begin for begin, _, _ in hits), key=seen_from, default=0)  # the first of equals
    begin = max(0, best - BEFORE)
    if begin:
        space = folded.find(" ", begin, min(begin + WORD_MAX, best))
        begin = space + 1 if space >= 0 else begin
    end = min(len(folded), begin + LENGTH)
    places = _places(text, folded)
    first, last = places(begin), places(end)
    before = CUT if begin else ""
    spans = [
        (places(a) - first + len(before), places(min(b, end)) - first + len(before))
        for a, b, _ in hits
        if begin <= a < end
    ]
    shown = "".join(" " if each.isspace() else each for each in text[first:last])
    return Snippet(before + shown + (CUT if end < len(folded) else ""), tuple(spans))


def marked(snippet: Snippet, before: str, after: str) -> str:
    """The text with something before and after each of its spans."""
    parts, place = [], 0
    for begin, end in snippet.spans:
        parts += [snippet.text[place:begin], before, snippet.text[begin:end], after]
        place = end
    return "".join([*parts, snippet.text[place:]])


def _places(text: str, folded: str) -> Callable[[int], int]:
    """From a place in the folded text to that in the text: characters are only ever left out."""
    if len(text) == len(folded):
        return lambda place: place
    kept = [n for n, each in enumerate(text) if FOLDS[ord(each)] is not None]
    return lambda place: kept[place] if place < len(kept) else len(text)


def _pattern(wanted: Sequence[Leaf], *, in_parts: bool) -> re.Pattern[str]:
    return re.compile(
        "|".join(f"(?P<l{n}>{_of(leaf, in_parts=in_parts)})" for n, leaf in enumerate(wanted))
        or "(?!)"
    )


def _of(leaf: Leaf, *, in_parts: bool) -> str:
    if leaf.is_code or (in_parts and len(leaf.text) >= TRIGRAM):
        return re.escape(leaf.text)
    pieces = [found[0] for found in TOKEN.finditer(leaf.text)]
    text = re.escape(pieces[0])
    for last, piece in pairwise(pieces):
        is_apart = not (NOT_IN_PARTS.match(last) or NOT_IN_PARTS.match(piece))
        text += f"{GAP}{'+' if is_apart else '*'}{re.escape(piece)}"
    if not NOT_IN_PARTS.match(pieces[0]):
        text = f"(?<!{LETTERS}){text}"
    if not (leaf.is_prefix or NOT_IN_PARTS.match(pieces[-1])):
        text += f"(?!{LETTERS})"
    return text
