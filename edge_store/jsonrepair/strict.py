"""What counts as JSON here: RFC 8259, and nothing that SQLite or a reader elsewhere would refuse.

So no NaN or Infinity, no number beyond the range of a double, at most 1000 levels. Duplicate keys
are JSON; the text is kept as it is written, and the last one counts where a value is needed.
"""

import json
import math
import re
from typing import Any, NoReturn

__all__ = ["NotJson", "Unstorable", "is_too_deep", "parse", "parse_at", "storable"]

DEPTH_MAX = 1000  # sqlite.org/json1.html: json_valid() refuses more
STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")


class NotJson(Exception):
    """The text is not JSON; the message says why."""


class Unstorable(NotJson):
    """It is written as JSON, but holds what no store takes: a repair would have to invent."""


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Unstorable(f"{digits[:40]} is beyond the range of a double")
    return number


def _constant(name: str) -> NoReturn:
    raise Unstorable(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_constant)


def parse(text: str) -> Any:
    """The value of a text that is JSON from its first character to its last.

    Raises:
        NotJson: it is not; ``Unstorable`` when a repair cannot mend that.
    """
    begin = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = parse_at(text, begin)
    rest = text[end:].lstrip(" \t\r\n")
    if rest:
        raise NotJson(f"more text follows the JSON, at character {len(text) - len(rest)}")
    return value


def parse_at(text: str, begin: int) -> tuple[Any, int]:
    """The JSON value that begins at ``begin``, and where it ends.

    Raises:
        NotJson: as for ``parse``.
    """
    try:
        value, end = _decoder.raw_decode(text, begin)
    except json.JSONDecodeError as exc:
        raise NotJson(f"{exc.msg} at character {exc.pos}") from exc
    except RecursionError as exc:
        raise Unstorable("it is nested too deeply") from exc
    except ValueError as exc:  # int() refuses to read that many digits
        raise Unstorable(f"it holds an integer that is too long: {exc}") from exc
    if is_too_deep(text[begin:end]):
        raise Unstorable(f"it is nested more than {DEPTH_MAX} levels deep")
    return value, end


def storable(text: str) -> str:
    """The same JSON text, with lone surrogates (which UTF-8 cannot hold) written as escapes."""
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_too_deep(text: str) -> bool:
    """Whether a JSON text is nested more than SQLite takes."""
    return _depth(text) > DEPTH_MAX


def _depth(text: str) -> int:
    """Levels of a JSON text; exact only above ``DEPTH_MAX`` brackets, an upper bound below.

    Counted in the text, not in the value, which has lost what a duplicate key held.
    """
    brackets = text.count("[") + text.count("{")
    if brackets <= DEPTH_MAX:
        return brackets
    depth = deepest = 0
    for found in re.finditer(r"[\[\]{}]", STRING.sub("", text)):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
