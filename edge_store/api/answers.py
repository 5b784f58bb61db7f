"""How our own routes read parameters and answer: JSON, and errors in OpenAI's envelope."""

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edge_store.errors import EdgeStoreError, InvalidRequest, MethodNotAllowed, NotFound
from edge_store.recorder.envelope import error_body, error_headers

__all__ = ["HANDLERS", "as_json", "integer_parameter"]


def as_json(value: Any, status: int = 200) -> Response:
    """``value`` as a JSON body."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


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


async def _failed(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, EdgeStoreError)
    headers = {name.decode(): value.decode() for name, value in error_headers(exc)}
    return Response(error_body(exc), exc.http_status, headers)


async def _unknown(request: Request, _exc: Exception) -> Response:
    return await _failed(request, NotFound(f"there is no {request.method} {request.url.path}"))


async def _not_allowed(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
    error = MethodNotAllowed(f"{request.url.path} takes no {request.method}", allowed=allowed)
    answer = await _failed(request, error)
    answer.headers["allow"] = allowed
    return answer


async def _defect(request: Request, _exc: Exception) -> Response:
    """The traceback goes to the log: Starlette raises the error again, once this is sent."""
    return await _failed(request, EdgeStoreError("edge-store failed"))


HANDLERS: dict[Any, Any] = {
    EdgeStoreError: _failed,
    404: _unknown,
    405: _not_allowed,
    500: _defect,
}
