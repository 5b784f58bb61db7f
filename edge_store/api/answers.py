"""How our own routes read parameters and answer: JSON, and errors in OpenAI's envelope."""

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from edge_store.errors import (
    ClientDisconnected,
    EdgeStoreError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
)
from edge_store.faults import UNFIT, refusal_of
from edge_store.readers import Reader
from edge_store.recorder.envelope import error_body, error_headers
from edge_store.recorder.transcript.request import require_metadata
from edge_store.sqlite import Connection

__all__ = [
    "HANDLERS",
    "as_json",
    "choice_parameter",
    "integer_parameter",
    "json_body",
    "metadata_parameter",
    "read_json",
]

T = TypeVar("T")

BODY_BYTES_MAX = 1024 * 1024
BODY_TIMEOUT_S = 30.0
METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def as_json(value: Any, status: int = 200) -> Response:
    """``value`` as a JSON body."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def read_json(
    reader: Reader, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Response:
    """What ``function(connection, …)`` reads, as a JSON body, which is made on its thread: the loop
    has others to serve.
    """
    body = await reader.run(_encoded, function, args, kwargs)
    return Response(body, media_type="application/json")


def _encoded(
    connection: Connection, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> bytes:
    value = function(connection, *args, **kwargs)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        # one by one: no other thread runs while a value is encoded
        value["data"] = [msgspec.Raw(msgspec.json.encode(each)) for each in value["data"]]
    return msgspec.json.encode(value)


def integer_parameter(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query string, from ``low`` to ``high``. Raises ``InvalidRequest``."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        problem = f"`{name}` = {text!r} is not a whole number"
        raise InvalidRequest(problem, param=name) from None
    if not low <= value <= high:
        raise InvalidRequest(f"`{name}` = {value} is not between {low} and {high}", param=name)
    return value


def choice_parameter(request: Request, name: str, choices: tuple[str, ...]) -> str | None:
    """One of ``choices``, if it is there. Raises ``InvalidRequest``."""
    value = request.query_params.get(name)
    if value is not None and value not in choices:
        raise InvalidRequest(f"`{name}` = {value!r} is not one of {', '.join(choices)}", param=name)
    return value


def metadata_parameter(request: Request) -> dict[str, str]:
    """What ``metadata[KEY]=VALUE`` asks for. Raises ``InvalidRequest``."""
    wanted: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        found = METADATA.fullmatch(name)
        if found is not None:
            wanted[found[1]] = value
        elif name == "metadata":
            raise InvalidRequest(
                "`metadata` takes its key in brackets, as in metadata[order]=17", param=name
            )
    require_metadata(wanted)
    return wanted


async def json_body(request: Request, kind: type[T], bytes_max: int = BODY_BYTES_MAX) -> T:
    """The body as a ``kind``.

    Raises:
        InvalidRequest: it is none.
        PayloadTooLarge, RequestTimeout, ClientDisconnect: it did not come whole.
    """
    pieces = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                pieces += piece
                if len(pieces) > bytes_max:
                    raise PayloadTooLarge(
                        f"the body has more than {bytes_max} bytes", hint="send less"
                    )
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
    try:
        return msgspec.json.decode(pieces, type=kind)
    except UNFIT as exc:
        raise refusal_of(exc, kind, body=bytes(pieces)) from exc


async def _failed(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, EdgeStoreError)
    headers = {name.decode(): value.decode() for name, value in error_headers(exc)}
    return Response(error_body(exc), exc.http_status, headers)


async def _unknown(request: Request, _exc: Exception) -> Response:
    return await _failed(request, NotFound(f"there is no {request.method} {request.url.path}"))


async def _not_allowed(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    methods: set[str] = set()  # Starlette tells those of the first route alone
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    allowed = ", ".join(sorted(methods))
    error = MethodNotAllowed(f"{request.url.path} takes no {request.method}", allowed=allowed)
    answer = await _failed(request, error)
    answer.headers["allow"] = allowed
    return answer


async def _left(request: Request, _exc: Exception) -> Response:
    """Where a body was being read: nobody is there to have this."""
    error = ClientDisconnected("the caller left before the end of its request")
    return await _failed(request, error)


async def _defect(request: Request, _exc: Exception) -> Response:
    """The traceback goes to the log: Starlette raises the error again, once this is sent."""
    return await _failed(request, EdgeStoreError("edge-store failed"))


HANDLERS: dict[Any, Any] = {
    EdgeStoreError: _failed,
    ClientDisconnect: _left,
    404: _unknown,
    405: _not_allowed,
    500: _defect,
}
