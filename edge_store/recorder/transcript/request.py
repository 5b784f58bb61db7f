"""What the dialects share in reading a request."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from edge_store.errors import InvalidRequest

__all__ = ["field", "json_text", "params_of", "text_of"]

T = TypeVar("T")


def field(body: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    """``body[name]`` if it has that type; ``default`` if it is absent or null.

    Raises:
        InvalidRequest: it is of another type.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequest(f"`{name}` must be {kind.__name__}, not {type(value).__name__}")
    return value


def json_text(value: Any) -> str | None:
    """JSON text of a decoded value; None for null."""
    return None if value is None else msgspec.json.encode(value).decode()


def params_of(body: Mapping[str, Any], content: Collection[str]) -> str:
    """The request without its content: sampling parameters, formats, options."""
    return msgspec.json.encode({k: v for k, v in body.items() if k not in content}).decode()


def text_of(content: Any) -> str:
    """The text in a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (p.get("text") for p in content if isinstance(p, dict))
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""
