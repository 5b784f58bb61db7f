"""Litestream's log lines, read without end and passed on to ours, each of bounded length.

It logs at its debug level, for what is counted by it; those lines are not passed on.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from edge_store.loggers import get_logger
from edge_store.replica.signatures import unsigned

__all__ = ["ChildLog"]

log = get_logger(__name__)

CHUNK_BYTES = 8192
LINE_BYTES_MAX = 8192
MESSAGE_CHARS_MAX = 1000
DROPPED = ("time", "level", "msg")
LEVELS = {"INFO": "debug", "WARN": "warning", "ERROR": "error"}
# The first: some lines have another field of that name, for a level of LTX files.
LEVEL = re.compile(rb'\{"time":"[^"]{1,40}","level":"([A-Z]{1,8})"')
UNTOLD = "DEBUG"


class ChildLog:
    """Reads one run's output. Its errors also go to ``on_error``, and every line that is JSON to
    ``on_entry``.
    """

    def __init__(
        self,
        stream: asyncio.StreamReader,
        *,
        on_error: Callable[[str], None],
        on_entry: Callable[[dict[str, Any]], None],
    ) -> None:
        self._stream = stream
        self._on_error = on_error
        self._on_entry = on_entry
        self.last_error = ""

    async def run(self) -> None:
        """Until the child closes its output."""
        async for line in _lines(self._stream):
            self._pass_on(unsigned(line))

    def _pass_on(self, line: bytes) -> None:
        found = LEVEL.match(line)
        name = found[1].decode() if found else ""
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            if name == UNTOLD:
                return
            # what it prints before it dies, and the beginning of a line that is too long
            text = line.decode(errors="replace").strip()[:MESSAGE_CHARS_MAX]
            level, message, fields = "error" if text.startswith("Error") else "warning", text, {}
        else:
            self._on_entry(entry)
            if name == UNTOLD:
                return
            level, message, fields = LEVELS.get(name, "debug"), *_told(entry)
        if level == "error":
            detail = fields.get("error")
            self.last_error = f"{message}: {detail}" if detail else message
            self._on_error(self.last_error)
        getattr(log, level)("litestream_reported", message=message, **fields)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their end. Of one that is longer than the bound comes the beginning: a listing
    of a thousand objects is 50 KB.
    """
    pending, is_cut = b"", False
    while chunk := await stream.read(CHUNK_BYTES):
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            if line.strip() and not is_cut:
                yield line
            is_cut = False
        if len(pending) > LINE_BYTES_MAX:
            if not is_cut:
                yield pending
            pending, is_cut = b"", True
    if pending.strip() and not is_cut:
        yield pending


def _told(entry: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Its message and the other fields."""
    fields = {
        f"litestream_{name}": str(value)[:MESSAGE_CHARS_MAX]
        for name, value in entry.items()
        if name not in DROPPED
    }
    if "litestream_error" in fields:
        fields["error"] = fields.pop("litestream_error")
    return str(entry.get("msg", ""))[:MESSAGE_CHARS_MAX], fields
