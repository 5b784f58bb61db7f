"""A request's body as turns of a conversation, whichever protocol it came in: for people to read.

What is no text is told by its kind and size. A body that nobody can read has no turns.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from edge_store.result import Record, Result

__all__ = ["Turn", "turns_of"]

TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
PROMPTS = ("prompt", "text", "input")


class Turn(Record, frozen=True, kw_only=True):
    """One message. ``role``: also `tools`, what may be called."""

    role: str
    text: str


def turns_of(result: Result) -> list[Turn]:
    """What was asked, in its order; the prompt as text where the body is not here."""
    content = result.content
    try:
        body = msgspec.json.decode(content.request_body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    found = list(_turns(body)) if isinstance(body, dict) else []
    if not found and content.input_text is not None:
        return [Turn(role="prompt", text=content.input_text)]
    return found


def _turns(body: dict[str, Any]) -> Iterator[Turn]:
    for name in ("system", "instructions"):
        if body.get(name):
            yield Turn(role="system", text=_text(body[name]))
    messages = body.get("messages")
    if not isinstance(messages, list):
        messages = body["input"] if _has_messages(body.get("input")) else None
    if messages is None:
        for name in PROMPTS:
            if name in body:
                yield Turn(role="prompt", text=_text(body[name]))
                return
        return
    for message in messages:
        if isinstance(message, dict):
            yield Turn(role=str(message.get("role") or message.get("type")), text=_said(message))


def _has_messages(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _said(message: dict[str, Any]) -> str:
    """Its content, and the tools that it calls or the result of one."""
    parts = [_text(message["content"])] if message.get("content") else []
    if "output" in message:
        parts.append(_text(message["output"]))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts.append(f"→ {function.get('name')}({_text(function.get('arguments'))})")
    if "arguments" in message:
        parts.append(f"→ {message.get('name')}({_text(message['arguments'])})")
    return "\n".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(map(_part, value))
    return msgspec.json.encode(value).decode()


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return msgspec.json.encode(part).decode()
    kind = part.get("type")
    if kind in TEXT_PARTS:
        return str(part.get("text") or part.get("refusal") or part.get("thinking") or "")
    if kind == "tool_use":
        return f"→ {part.get('name')}({_text(part.get('input'))})"
    if kind == "tool_result":
        return f"← {_text(part.get('content'))}"
    return f"[{kind}, {len(msgspec.json.encode(part))} bytes]"
