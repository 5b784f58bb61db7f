"""The same text as others spell it: percent-encoded, as a string of JSON or of Python, in HTML, and
any of these within another. ``readings`` undoes one layer after the other, and knows of each
character where it stands in the text as it was.
"""

import re
from array import array
from base64 import b64encode
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from html import unescape
from string import ascii_letters, digits
from typing import NamedTuple

__all__ = ["Reading", "base64_around", "base64_cores", "orders", "readings", "spelled_out"]

LAYERS_MAX = 8  # a URL in a value of a URL in a string of JSON in a line of a log has five
READINGS_MAX = 64  # of one line, in which kinds of escapes may lie within each other in any order
PERCENT = r"(?P<percent>(?:%[0-9A-Fa-f]{2})+)"
BACKSLASH = (
    r"(?P<pair>\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2})"
    r"|\\u(?P<four>[0-9A-Fa-f]{4})|\\x(?P<two>[0-9A-Fa-f]{2})|\\(?P<one>[\\/\"'bfnrt])"
)
HTML = r"(?P<html>&(?:\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6}|amp|lt|gt|quot|apos|equals|colon|sol);)"
ESCAPES = re.compile(f"{PERCENT}|{BACKSLASH}|{HTML}")
KINDS = tuple(map(re.compile, (PERCENT, BACKSLASH, HTML)))
BASE64 = frozenset(f"{ascii_letters}{digits}+/-_=")
URL_SAFE = str.maketrans("+/", "-_")
CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Reading(NamedTuple):
    """``starts``: where each character begins in the text as it was, and where that ends."""

    text: str
    starts: "array[int] | range"

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where text[start:end] stands in the text as it was, with all of what spells its ends."""
        if start >= end:
            return self.starts[start], self.starts[start]
        last = self.starts[end - 1]
        return self.starts[start], self.starts[bisect_right(self.starts, last, lo=end - 1)]


def readings(text: str) -> Iterator[Reading]:
    """As it is, and with each layer undone, at most ``LAYERS_MAX``: the last has none left."""
    reading = Reading(text, range(len(text) + 1))
    for _ in range(LAYERS_MAX):
        yield reading
        undone = _undone(reading, ESCAPES)
        if undone is None:
            return
        reading = undone
    yield reading


def orders(line: str) -> Iterator[Reading]:
    """A line with one kind of escapes undone at a time, in every order: what one kind leaves may
    look like the beginning of another, together with what stands behind it.
    """
    first = Reading(line, range(len(line) + 1))
    seen, waiting = {line}, deque([first])
    while waiting and len(seen) < READINGS_MAX:
        reading = waiting.popleft()
        for kind in KINDS:
            undone = _undone(reading, kind)
            if undone is not None and undone.text not in seen:
                seen.add(undone.text)
                waiting.append(undone)
                yield undone


def spelled_out(text: str) -> list[str]:
    """The text of each reading."""
    return [reading.text for reading in readings(text)]


def base64_cores(text: str) -> Iterator[str]:
    """What of its base64 is the same whatever stands before and behind it, as in ``user:text``."""
    octets = text.encode(errors="replace")
    for before in range(3):
        encoded = b64encode(b"\0" * before + octets).decode()
        core = encoded[(8 * before + 5) // 6 : 8 * (before + len(octets)) // 6]
        yield core
        yield core.translate(URL_SAFE)


def base64_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The whole of the base64 that text[start:end] is a part of."""
    while start and text[start - 1] in BASE64:
        start -= 1
    while end < len(text) and text[end] in BASE64:
        end += 1
    return start, end


def _undone(reading: Reading, escapes: re.Pattern[str]) -> Reading | None:
    """With one layer less; None where there is none."""
    text, before = reading
    parts: list[str] = []
    starts = array("Q")
    end = 0
    for found in escapes.finditer(text):
        parts.append(text[end : found.start()])
        starts.extend(before[end : found.start()])
        if found[0].startswith("%"):
            _unquote(found, before, parts, starts)
        else:
            parts.append(_meant(found))
            starts.extend([before[found.start()]] * len(parts[-1]))
        end = found.end()
    if not parts:
        return None
    parts.append(text[end:])
    starts.extend(before[end:])
    return Reading("".join(parts), starts)


def _unquote(
    found: re.Match[str], before: "array[int] | range", parts: list[str], starts: "array[int]"
) -> None:
    """Each character stands where its first byte does."""
    octets = bytes.fromhex(found[0].replace("%", ""))
    place = 0
    while place < len(octets):
        size = 1
        if octets[place] >= 0x80:  # as long as UTF-8 says; what is none is a character for itself
            size = next((n for n in (2, 3, 4) if _is_utf8(octets[place : place + n])), 1)
        parts.append(octets[place : place + size].decode(errors="replace"))
        starts.append(before[found.start() + 3 * place])
        place += size


def _is_utf8(octets: bytes) -> bool:
    try:
        return len(octets.decode()) == 1
    except UnicodeDecodeError:
        return False


def _meant(found: re.Match[str]) -> str:
    if found[0].startswith("&"):
        return unescape(found[0])
    if number := found["four"] or found["two"]:
        return chr(int(number, 16))
    if found["pair"]:
        high, low = int(found["pair"][2:6], 16), int(found["pair"][8:], 16)
        return chr(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00)
    return CONTROLS.get(found["one"], found["one"])
