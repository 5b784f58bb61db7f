"""Where in a folded text a word or a phrase is: what ranks and snippets go by.

A text is not taken apart for it: ``str.find`` goes to where the first word may be, at the speed of
memory, and only there it is looked at what comes before and behind.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from edge_store.search.asked import Leaf, is_found_in_parts
from edge_store.search.words import begins_with_run, is_letter, pieces_of

__all__ = ["Sought", "sought_of"]

COUNT_MAX = 64  # BM25 hardly tells more from these: 64 / (64 + 1.2) is 0.98
GAP = r"[\W_]"


class Sought:
    """One leaf, to be looked for in many texts. ``in_parts``: within words, too."""

    def __init__(self, leaf: Leaf, *, in_parts: bool) -> None:
        is_whole = leaf.is_code or (in_parts and is_found_in_parts(leaf))
        pieces = [leaf.text] if is_whole else pieces_of(leaf.text)
        self._first = pieces[0]
        self._rest = re.compile(_joined(pieces)) if len(pieces) > 1 else None
        self._is_open_before = is_whole or begins_with_run(pieces[0])
        self._is_open_behind = is_whole or leaf.is_prefix or begins_with_run(pieces[-1])

    def spans(self, folded: str) -> Iterator[tuple[int, int]]:
        """Beginnings and ends, in order; none within another."""
        at = folded.find(self._first)
        while at >= 0:
            end = self._end(folded, at)
            if end is not None:
                yield at, end
            at = folded.find(self._first, at + 1 if end is None else end)

    def count(self, folded: str) -> int:
        """How often it is there, up to ``COUNT_MAX``."""
        return sum(1 for _ in islice(self.spans(folded), COUNT_MAX))

    def _end(self, folded: str, at: int) -> int | None:
        if not self._is_open_before and at and is_letter(folded[at - 1]):
            return None
        end = at + len(self._first)
        if self._rest is not None:
            rest = self._rest.match(folded, end)
            if rest is None:
                return None
            end = rest.end()
        if not self._is_open_behind and end < len(folded) and is_letter(folded[end]):
            return None
        return end


def sought_of(leaves: Sequence[Leaf], *, in_parts: bool) -> list[Sought]:
    """Each of them."""
    return [Sought(leaf, in_parts=in_parts) for leaf in leaves]


def _joined(pieces: Sequence[str]) -> str:
    """What comes behind the first: between words there is something, beside a run there may be."""
    return "".join(
        f"{GAP}{'*' if begins_with_run(last) or begins_with_run(piece) else '+'}{re.escape(piece)}"
        for last, piece in pairwise(pieces)
    )
