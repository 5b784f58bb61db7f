"""A text as whoever reads its escapes sees it, and where in the text each of its parts is.

JSON within JSON, as the arguments of a tool call are, hides from a rule what it finds in the plain
text; so does JSON that is cut, or stands between other words. So a rule is applied to the text, to
what its escapes say, to what the escapes in that say, and so on.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache

from edge_store.redaction.detectors import Finder, Span

__all__ = ["seeing_through"]

DEPTH_MAX = 6  # JSON in JSON: each level doubles the backslashes of the one before
ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([\"'\\/bfnrt]))"
)
LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class View:
    """``text`` is what the escapes of another text say."""

    def __init__(self, escaped: str) -> None:
        pieces: list[str] = []
        # where, in both, each run of characters begins that stand for themselves or for an escape
        self._here: list[int] = []
        self._there: list[int] = []
        self._escapes: dict[int, int] = {}  # place of an escape in `_here`: where it ends there
        at = length = 0
        for match in ESCAPE.finditer(escaped):
            if match.start() > at:
                self._here.append(length)
                self._there.append(at)
                pieces.append(escaped[at : match.start()])
                length += match.start() - at
            self._escapes[len(self._here)] = match.end()
            self._here.append(length)
            self._there.append(match.start())
            pieces.append(_said(match))
            length += 1
            at = match.end()
        if at < len(escaped):
            self._here.append(length)
            self._there.append(at)
            pieces.append(escaped[at:])
        self.text = "".join(pieces)
        self.is_other = bool(self._escapes)

    def span(self, start: int, end: int) -> Span:
        """Where the characters from ``start`` to ``end`` are in the escaped text."""
        return self._place(start)[0], self._place(end - 1)[1]

    def _place(self, index: int) -> Span:
        run = bisect_right(self._here, index) - 1
        begins = self._there[run]
        if run in self._escapes:
            return begins, self._escapes[run]
        begins += index - self._here[run]
        return begins, begins + 1


def _said(match: re.Match[str]) -> str:
    high, low, unit, byte, letter = match.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if letter:
        return LETTERS.get(letter, letter)
    return chr(int(unit or byte, 16))


@lru_cache(maxsize=DEPTH_MAX)  # each finder asks for the same ones, one after the other
def _view(text: str) -> View:
    return View(text)


def seeing_through(find: Finder) -> Finder:
    """The finder that also finds what escapes hide."""

    def found(text: str, depth: int = DEPTH_MAX) -> Iterator[Span]:
        yield from find(text)
        if depth and "\\" in text:
            view = _view(text)
            if view.is_other:
                for start, end in found(view.text, depth - 1):
                    if end > start:
                        yield view.span(start, end)

    return found
