"""Says what is wrong with settings without a value and without a word of the operator's own: either
may be a secret that was put into the wrong place. Only what is known to be ours is let through.
"""

import re
import tomllib
from functools import cache

import msgspec

from edge_store.config.section import Fault, Section
from edge_store.config.sections import Config
from edge_store.config.sinks import SinkSection

__all__ = ["bare_key", "bare_reason", "bare_toml", "bare_variable"]

INDEX = re.compile(r"\[(?:\d+|\.\.\.)\]")
OF_MSGSPEC = re.compile(
    r"Expected `[\w | ]+`(?:, got `[\w | ]+`| [<>]=? [\d.e+-]+| of length [<>]=? \d+)?"
    r"|Expected `str` matching regex .*"
    r"|Object missing required field `(?:name|kind)`"
)
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
# The parser's own words, with single characters; what else it quotes are names.
OF_TOML = re.compile(
    r"(?:[A-Za-z/, -]|'(?:\\?[^\w]|\\[a-z]|\\x[0-9a-f]{2})'|\"(?:\\?[^\w]|\\[a-z])\")*"
)
PLACE_IN_TOML = re.compile(r" \(at (?:line \d+, column \d+|end of document)\)$")


@cache
def _known() -> frozenset[str]:
    """The dotted keys that there are, tables included."""

    def keys(section: type[Section], before: str) -> set[str]:
        found: set[str] = set()
        for field in msgspec.structs.fields(section):
            key = f"{before}{field.name}"
            is_table = isinstance(field.type, type) and issubclass(field.type, Section)
            found |= {key} | (keys(field.type, f"{key}.") if is_table else set())
        return found

    return frozenset(keys(Config, "") | keys(SinkSection, "sinks."))


def bare_key(key: str) -> str:
    """A dotted key up to where it is none of ours; of the rest its length."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        if INDEX.sub("", ".".join(parts[:count])) in _known():
            rest = ".".join(parts[count:])
            return ".".join(parts[:count]) + (f".({len(rest)})" if rest else "")
    return f"({len(key)})"


def bare_variable(name: str, prefix: str) -> str:
    """The variable of a setting; of one that is none the length."""
    of_setting = name.removeprefix(prefix)
    is_known = of_setting.lower().replace("__", ".") in _known()
    return name if is_known else f"{prefix}({len(of_setting)})"


def bare_reason(exc: msgspec.DecodeError, text: str) -> str:
    """``text`` is what msgspec says, without its path."""
    if isinstance(exc.__cause__, Fault):
        return exc.__cause__.bare
    if exc.__cause__ is None and OF_MSGSPEC.fullmatch(text):
        return text
    if unknown := UNKNOWN.fullmatch(text):
        return f"Object contains unknown field ({len(unknown[1])})"
    return "it is not of its form"


def bare_toml(exc: ValueError | RecursionError) -> str:
    """What the parser says."""
    if isinstance(exc, UnicodeDecodeError):
        return f"byte {exc.start} is not UTF-8"
    if not isinstance(exc, tomllib.TOMLDecodeError):
        return "a number is too long, or a table too deep"
    place = PLACE_IN_TOML.search(str(exc))
    text = str(exc)[: place.start()] if place else str(exc)
    ours = OF_TOML.match(text)
    assert ours is not None, "it may be empty"
    said = text if ours.end() == len(text) else f"{ours[0].rstrip()} (a name)"
    return f"{said}{place[0] if place else ''}"
