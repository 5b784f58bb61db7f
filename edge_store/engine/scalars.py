"""Strings and numbers within the bounds of a JSON Schema."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from edge_store.engine.pattern import TEXT_CHARS_MAX, Pick, matching
from edge_store.engine.schema import Impossible
from edge_store.errors import InvalidRequest

__all__ = ["numbers", "strings"]

WORDS = ("demo", "sample", "alpha", "bravo", "amber", "cedar", "delta", "north")
SPREAD = 100  # how far from a bound numbers are looked for
FORMATS = {
    "date": "2024-{:02}-{:02}",
    "date-time": "2024-{:02}-{:02}T12:00:00Z",
    "duration": "P{}DT{}H",
    "email": "demo{}.{}@example.com",
    "hostname": "demo{}-{}.example.com",
    "idn-email": "demo{}.{}@example.com",
    "idn-hostname": "demo{}-{}.example.com",
    "ipv4": "192.0.{}.{}",
    "ipv6": "2001:db8::{}:{}",
    "iri": "https://example.com/demo/{}/{}",
    "iri-reference": "/demo/{}/{}",
    "json-pointer": "/demo/{}/{}",
    "regex": "^demo{}-{}$",
    "relative-json-pointer": "{}/demo/{}",
    "time": "{:02}:{:02}:00Z",
    "uri": "https://example.com/demo/{}/{}",
    "uri-reference": "/demo/{}/{}",
    "uri-template": "https://example.com/demo/{}/{}/{{name}}",
    "uuid": "00000000-0000-4000-8000-0000000{:02}0{:02}",
}


def strings(plain: dict[str, Any], pick: Pick, distinct: int) -> Iterator[str]:
    """Strings for a schema without combinators. Raises ``Impossible``."""
    shortest = max(int(plain.get("minLength", 0)), 0)
    longest = int(plain.get("maxLength", TEXT_CHARS_MAX))
    if shortest > TEXT_CHARS_MAX:
        raise InvalidRequest(f"a string of {shortest} characters is over {TEXT_CHARS_MAX}")
    if shortest > longest:
        raise Impossible(f"no string has at least {shortest} and at most {longest} characters")
    if "pattern" in plain:
        for _ in range(2):
            try:
                yield matching(
                    plain["pattern"], pick, whole=False, shortest=shortest, longest=longest
                )
            except InvalidRequest as exc:
                raise Impossible(str(exc)) from exc
        return
    template = FORMATS.get(plain.get("format", ""))
    if template is not None:
        yield template.format(1 + pick(12), 1 + pick(23))
    start = pick(len(WORDS))
    for turn in range(len(WORDS)):
        word = WORDS[(start + turn) % len(WORDS)]
        if distinct:
            word = _letters(distinct, longest) or f"{word}{distinct}"
        yield (word + " demo" * (shortest // 5 + 1))[: max(shortest, min(len(word), longest))]


def _letters(number: int, longest: int) -> str:
    """The number in letters, where there is room for little more."""
    if longest > 8:
        return ""
    text = ""
    while number:
        number, letter = divmod(number, 26)
        text = chr(ord("a") + letter) + text
    return text


def numbers(plain: dict[str, Any], pick: Pick, *, is_integer: bool) -> Iterator[int | float]:
    """Numbers for a schema without combinators. Raises ``Impossible``."""
    low, high = _bounds(plain)
    step = plain.get("multipleOf")
    if is_integer or step is not None:
        size = Fraction(str(step)) if step is not None else Fraction(1)
        if is_integer:
            size = Fraction(size.numerator)  # the least integer that is a multiple
        yield from _multiples(size, low, high, pick)
        return
    yield from _multiples(Fraction(1), low, high, pick, may_be_none=True)
    if low is not None and high is not None and low <= high:
        yield float((low + high) / 2)
    for bound, towards in ((low, math.inf), (high, -math.inf)):
        if bound is not None:
            yield int(bound) if bound.denominator == 1 else float(bound)
            yield math.nextafter(float(bound), towards)


def _bounds(plain: dict[str, Any]) -> tuple[Fraction | None, Fraction | None]:
    lows = [Fraction(plain[k]) for k in ("minimum", "exclusiveMinimum") if k in plain]
    highs = [Fraction(plain[k]) for k in ("maximum", "exclusiveMaximum") if k in plain]
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and low > high:
        raise Impossible(f"no number is at least {float(low)} and at most {float(high)}")
    return low, high


def _multiples(
    size: Fraction,
    low: Fraction | None,
    high: Fraction | None,
    pick: Pick,
    *,
    may_be_none: bool = False,
) -> Iterator[int | float]:
    """Multiples within the bounds (their ends included): one picked, then from the low end up."""
    first = None if low is None else math.ceil(low / size)
    last = None if high is None else math.floor(high / size)
    if first is None:
        first = 0 if last is None or last >= 0 else last - SPREAD
    last = first + SPREAD if last is None else min(last, first + SPREAD)
    if first > last:
        if may_be_none:
            return
        raise Impossible(f"no multiple of {float(size)} is within the bounds")
    picked = first + pick(last - first + 1)
    for factor in (picked, *range(first, last + 1)):
        number = factor * size
        yield int(number) if number.denominator == 1 else float(number)
