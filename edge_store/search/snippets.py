"""The part of a text that shows best why it was found, and where in it the words are."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from edge_store.search.sought import Sought
from edge_store.search.words import FOLDS

__all__ = ["Snippet", "marked", "snippet_of"]

BEFORE, LENGTH = 40, 160  # characters: before what was found, and in all
WORD_MAX = 16  # so far a beginning is moved to that of a word
HITS_MAX = 100
LEAVES_MAX = 40
CUT = "…"


class Snippet(NamedTuple):
    """``spans``: beginnings and ends in ``text``."""

    text: str
    spans: tuple[tuple[int, int], ...]


def snippet_of(text: str, folded: str, wanted: Sequence[Sought]) -> Snippet:
    """Where the most of ``wanted`` is close together; the beginning, where nothing is. ``folded``
    is the text as it is compared.
    """
    hits = _hits(folded, wanted[:LEAVES_MAX])

    def seen_from(start: int) -> int:
        return len({n for begin, end, n in hits if start <= begin and end <= start + LENGTH})

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


def _hits(folded: str, wanted: Sequence[Sought]) -> list[tuple[int, int, int]]:
    """Beginning, end and which it is, in order; of two that overlap the first, or the longer."""
    found = sorted(
        ((begin, end, n) for n, each in enumerate(wanted)
         for begin, end in islice(each.spans(folded), HITS_MAX)),
        key=lambda hit: (hit[0], -hit[1]),
    )  # fmt: skip
    apart: list[tuple[int, int, int]] = []
    for hit in found:
        if not apart or hit[0] >= apart[-1][1]:
            apart.append(hit)
    return apart[:HITS_MAX]
