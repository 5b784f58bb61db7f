"""What SGLang leaves out of its answers in Ollama's form: the token counts of a stream, and why an
answer ended (it always says ``stop``). Ollama's own server says both in the line with ``done``.
"""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import msgspec

from edge_store.engine.protocol import ASGIMessage, Scope, Send

__all__ = ["METER", "Meter", "metered", "with_counts"]

ROUTES = ("/api/chat", "/api/generate")


class Meter:
    """What SGLang's generation said of itself, as far as it has come."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}

    @property
    def is_over(self) -> bool:
        """Whether the generation has ended."""
        return self.meta.get("finish_reason") is not None

    def fill(self, line: dict[str, Any]) -> dict[str, Any]:
        """The last line of an answer with its counts and its reason."""
        return {
            **line,
            "done_reason": self.meta["finish_reason"].get("type") or line.get("done_reason"),
            "prompt_eval_count": self.meta.get("prompt_tokens"),
            "eval_count": self.meta.get("completion_tokens"),
        }


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


async def metered(answer: AsyncIterator[dict[str, Any]], meter: Meter) -> AsyncIterator[Any]:
    """The pieces of a generation, as they are."""
    async for piece in answer:
        meter.meta = piece.get("meta_info") or meter.meta
        yield piece


def with_counts(scope: Scope, send: Send) -> Send:
    """``send`` for one request; for one in Ollama's form, one that completes its last line."""
    METER.set(meter := Meter() if scope["path"] in ROUTES else None)
    if meter is None:
        return send

    async def send_here(message: ASGIMessage) -> None:
        if message["type"] == "http.response.body" and meter.is_over and message.get("body"):
            message = {**message, "body": _completed(message["body"], meter)}
        await send(message)

    return send_here


def _completed(body: bytes, meter: Meter) -> bytes:
    """``body``, one or more lines of JSON, with what its last one lacks."""
    lines = body.splitlines(keepends=True)
    try:
        last = msgspec.json.decode(lines[-1])
    except msgspec.DecodeError:
        return body
    if not isinstance(last, dict) or last.get("done") is not True:
        return body
    end = b"\n" if lines[-1].endswith(b"\n") else b""
    return b"".join(lines[:-1]) + msgspec.json.encode(meter.fill(last)) + end
