"""What a route says of itself, for ``/openapi.json``: said beside its handler, with ``@described``.

A route that says nothing is in the document all the same, with its path and its methods.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "Described",
    "Form",
    "Parameter",
    "choice",
    "described",
    "description_of",
    "text",
    "whole",
]

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
ATTRIBUTE = "edge_store_described"
EVERY = "*"  # method


class Parameter(NamedTuple):
    """One of the query string; none is required."""

    name: str
    says: str
    schema: Mapping[str, Any]


class Form(NamedTuple):
    """A body that is no JSON."""

    media: str
    schema: Mapping[str, Any] = {"type": "string"}


class Described(NamedTuple):
    """``takes`` and ``gives`` are types, as msgspec reads and writes them, or a ``Form``."""

    says: str
    query: tuple[Parameter, ...] = ()
    takes: Any = None
    gives: tuple[Any, ...] = (dict[str, Any],)
    statuses: tuple[int, ...] = (200,)  # of an answer that is no error


def described(says: str, method: str = EVERY, **more: Any) -> Callable[[HandlerT], HandlerT]:
    """Describe the handler below, for one method of its route or for every one."""

    def mark(handler: HandlerT) -> HandlerT:
        before = getattr(handler, ATTRIBUTE, {})
        setattr(handler, ATTRIBUTE, {**before, method: Described(says, **more)})
        return handler

    return mark


def description_of(handler: Callable[..., Any], method: str) -> Described | None:
    """What the handler says of itself."""
    found: dict[str, Described] = getattr(handler, ATTRIBUTE, {})
    return found.get(method, found.get(EVERY))


def whole(name: str, low: int, high: int, says: str = "") -> Parameter:
    """What ``integer_parameter`` reads."""
    return Parameter(name, says, {"type": "integer", "minimum": low, "maximum": high})


def choice(name: str, choices: tuple[str, ...], says: str = "") -> Parameter:
    """What ``choice_parameter`` reads."""
    return Parameter(name, says, {"type": "string", "enum": [str(one) for one in choices]})


def text(name: str, says: str = "", **schema: Any) -> Parameter:
    """Any text."""
    return Parameter(name, says, {"type": "string", **schema})
