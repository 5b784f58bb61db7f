"""What a route says of itself, for ``/openapi.json``: said beside its handler, with ``@described``.

A route that says nothing is in the document all the same, with its path and its methods.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from starlette.requests import Request
from starlette.routing import Route

from edge_store.errors import InvalidRequest

__all__ = [
    "INCLUDE",
    "Described",
    "Form",
    "Parameter",
    "checked",
    "choice",
    "described",
    "description_of",
    "pairs",
    "text",
    "whole",
]

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
ATTRIBUTE = "edge_store_described"
EVERY = "*"  # method


class Parameter(NamedTuple):
    """One of the query string, or a header; none is required."""

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
    headers: tuple[Parameter, ...] = ()
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


def checked(route: Route) -> Route:
    """The route, which refuses what it does not read of the query string: who mistypes the name of
    a filter must not take all for what was asked for.
    """
    handler = route.endpoint

    @wraps(handler)
    async def asked(request: Request) -> Any:
        if request.scope["query_string"]:
            method = "GET" if request.method == "HEAD" else request.method
            about = description_of(handler, method)
            known = dict.fromkeys(one.name for one in about.query) if about else {}
            for name in request.query_params:
                if name.partition("[")[0] not in known:
                    raise _unknown(name, request, list(known))
        return await handler(request)

    return Route(route.path, asked, methods=route.methods)


def _unknown(name: str, request: Request, known: list[str]) -> InvalidRequest:
    method, path = request.method, request.url.path
    return InvalidRequest(
        f"{method} {path} has no parameter {name!r}",
        hint=f"it knows {', '.join(known)}" if known else "it has none in its query string",
        param=name,
    )


def whole(name: str, low: int, high: int, says: str = "") -> Parameter:
    """What ``integer_parameter`` reads."""
    return Parameter(name, says, {"type": "integer", "minimum": low, "maximum": high})


def choice(name: str, choices: tuple[str, ...], says: str = "") -> Parameter:
    """What ``choice_parameter`` reads."""
    return Parameter(name, says, {"type": "string", "enum": [str(one) for one in choices]})


def text(name: str, says: str = "", **schema: Any) -> Parameter:
    """Any text."""
    return Parameter(name, says, {"type": "string", **schema})


def pairs(name: str, says: str = "") -> Parameter:
    """What ``metadata_parameter`` reads: ``NAME[KEY]=VALUE``."""
    schema = {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 16}
    return Parameter(name, says, schema)


# OpenAI's SDK sends it where more could be shown; there is no more to show
INCLUDE = Parameter(
    "include", "taken, and of no effect", {"type": "array", "items": {"type": "string"}}
)
