"""``GET /v1/models/{id}``: one model of the engine's list, as OpenAI shows it. Not every server has
that route, so it is made from the list, which all of them have.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json
from edge_store.api.described import described
from edge_store.api.services import Services
from edge_store.engine import ASGIMessage, Scope
from edge_store.errors import NotFound, UpstreamError

__all__ = ["model_routes"]

LIST = "/v1/models"
SHOWN = 10


def model_routes(services: Services) -> list[BaseRoute]:
    """/v1/models/{id}; nothing where there is no engine."""
    engine = services.engine
    if engine is None:
        return []

    @described("A model")
    async def model(request: Request) -> Response:
        scope: Scope = {
            **request.scope,
            "method": "GET",
            "path": LIST,
            "raw_path": LIST.encode(),
            "query_string": b"",
        }
        status, body = 500, bytearray()

        async def send(message: ASGIMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                body.extend(message.get("body", b""))

        await engine(scope, request.receive, send)
        if status != 200:  # its own error
            return Response(bytes(body), status, media_type="application/json")
        return as_json(_named(request.path_params["model"], bytes(body)))

    return [Route(LIST + "/{model:path}", model, methods=["GET"])]


def _named(wanted: str, body: bytes) -> dict[str, Any]:
    try:
        models = {each["id"]: each for each in msgspec.json.decode(body)["data"]}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError) as exc:
        raise UpstreamError("the engine's list of models is not understood") from exc
    if wanted not in models:
        shown = ", ".join(list(models)[:SHOWN])
        raise NotFound(
            f"there is no model {wanted!r} here", hint=f"the engine has {shown}", param="model"
        )
    found: dict[str, Any] = models[wanted]
    return found
