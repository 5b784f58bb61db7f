"""Litestream's log lines, read without end and passed on to ours, each of bounded length."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import structlog

__all__ = ["ChildLog"]

log = structlog.get_logger(__name__)

CHUNK_BYTES = 8192
LINE_BYTES_MAX = 8192
MESSAGE_CHARS_MAX = 1000
DROPPED = ("time", "level", "msg")
LEVELS = {"DEBUG": "debug", "INFO": "debug", "WARN": "warning", "ERROR": "error"}


class ChildLog:
    """Reads one run's output. Its errors also go to ``on_error``."""

    def __init__(self, stream: asyncio.StreamReader, *, on_error: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_error = on_error
        self.last_error = ""

    async def run(self) -> None:
        """Until the child closes its output."""
        async for line in _lines(self._stream):
            self._pass_on(line)

    def _pass_on(self, line: bytes) -> None:
        level, message, fields = _parse(line)
        if level == "error":
            detail = fields.get("error")
            self.last_error = f"{message}: {detail}" if detail else message
            self._on_error(self.last_error)
        getattr(log, level)("litestream_reported", message=message, **fields)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their end; what is longer than the bound comes in pieces."""
    pending = b""
    while chunk := await stream.read(CHUNK_BYTES):
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(pending) > LINE_BYTES_MAX:
            yield pending
            pending = b""
    if pending.strip():
        yield pending


def _parse(line: bytes) -> tuple[str, str, dict[str, str]]:
    """(our level, message, other fields). A line that is not JSON is printed before it dies."""
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        text = line.decode(errors="replace").strip()[:MESSAGE_CHARS_MAX]
        return ("error" if text.startswith("Error") else "warning"), text, {}
    level = LEVELS.get(str(entry.get("level", "")).upper(), "debug")
    fields = {
        f"litestream_{name}": str(value)[:MESSAGE_CHARS_MAX]
        for name, value in entry.items()
        if name not in DROPPED
    }
    if "litestream_error" in fields:
        fields["error"] = fields.pop("litestream_error")
    return level, str(entry.get("msg", ""))[:MESSAGE_CHARS_MAX], fields
