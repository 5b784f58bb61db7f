"""A whole number as whoever reads it sees it, where it is written with an exponent or a fraction of
zeros: programs that handle numbers as such write long ones so.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

from edge_store.redaction.detectors import Finder, Span

__all__ = ["seeing_numbers", "whole"]

DIGITS_MAX = 40  # nothing that is looked for has more
PLAIN = re.compile(r"-?(\d+)(?:\.0+)?", re.ASCII)
SCIENTIFIC = re.compile(r"(?<![^\W_])(?<!\.)\d++(?:\.\d++)?+[eE][+-]?\d{1,2}(?!\w)", re.ASCII)


def whole(number: str) -> str | None:
    """The digits of a JSON number that has no fraction; None for another."""
    plain = PLAIN.fullmatch(number)
    if plain:
        return plain[1]
    scientific = SCIENTIFIC.fullmatch(number.removeprefix("-"))
    if scientific is None:
        return None
    value = Decimal(scientific[0])
    is_whole = 0 <= value.adjusted() < DIGITS_MAX and value == value.to_integral_value()
    return f"{value:f}".partition(".")[0] if is_whole else None


def seeing_numbers(find: Finder) -> Finder:
    """The finder that also finds what is written with an exponent."""

    def found(text: str) -> Iterator[Span]:
        yield from find(text)
        for match in SCIENTIFIC.finditer(text):
            digits = whole(match[0])
            if digits is not None and any(end > start for start, end in find(digits)):
                yield match.span()

    return found
