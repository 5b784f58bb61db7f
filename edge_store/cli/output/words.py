"""Sizes, spans, times and single documents, as commands print them."""

import re
from typing import Any, TextIO

from edge_store.clock import utc_text

__all__ = [
    "as_json", "bytes_text", "harmless", "is_utf8", "json_line", "span_text", "time_text",
    "write_json",
]  # fmt: skip

NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
JOINERS = "\u200c\u200d"  # not printable by themselves: in Persian and Hindi, and in emoji


def write_json(value: Any, stream: TextIO) -> None:
    """Write one JSON document, indented."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=1).decode()
    stream.write(as_json(text, stream) + "\n")


def json_line(value: Any, stream: TextIO) -> str:
    """One JSON document on one line, without the line's end, as the stream can take it."""
    import msgspec

    return as_json(msgspec.json.encode(value, enc_hook=str).decode(), stream)


def is_utf8(stream: TextIO) -> bool:
    """Whether it takes every text."""
    return str(getattr(stream, "encoding", None) or "utf8").lower().replace("-", "") == "utf8"


def as_json(text: str, stream: TextIO) -> str:
    """A JSON text that stays JSON where the stream has no letters for it: in ASCII, with the
    escapes of JSON and not with Python's.
    """
    return text if is_utf8(stream) else NOT_ASCII.sub(lambda found: _escaped(found[0]), text)


def _escaped(text: str) -> str:
    import json

    return json.dumps(text)[1:-1]


def harmless(text: str) -> str:
    """A model's text must not reach the terminal as an escape sequence: as many characters, none of
    which steers it.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in JOINERS else "\ufffd" for each in text)


def bytes_text(count: int) -> str:
    """A size for people: 64.0 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def span_text(seconds: float) -> str:
    """As 90 s, 45 min, 30 h or 12 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def time_text(milliseconds: int) -> str:
    """UTC milliseconds as RFC 3339, or the number where no calendar has the time."""
    return utc_text(milliseconds)
