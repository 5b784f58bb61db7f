"""Stored completions over HTTP: what the ``openai`` SDK's ``chat.completions`` lists, retrieves,
updates and deletes.
"""

from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import (
    as_json,
    json_body,
    metadata_parameter,
    read_json,
)
from edge_store.api.described import described, pairs, text
from edge_store.api.lists import list_of, paged, paging_of
from edge_store.api.protocols import Completion, Listed
from edge_store.api.services import Services
from edge_store.errors import NotFound
from edge_store.paging import Paging
from edge_store.recorder.caller import Caller, caller_of, require_full
from edge_store.recorder.transcript.request import require_metadata
from edge_store.sqlite import Connection
from edge_store.stored import (
    Wanted,
    completion,
    delete_completion,
    find_completion,
    messages,
    page,
    update_metadata,
)

__all__ = ["completion_routes"]


class Update(msgspec.Struct):
    """The body of an update. Null takes all metadata away."""

    metadata: dict[str, Any] | None


class Deleted(msgspec.Struct, forbid_unknown_fields=True):
    object: Literal["chat.completion.deleted"]
    id: str
    deleted: bool


def completion_routes(services: Services) -> list[BaseRoute]:
    """/v1/chat/completions, read, and what is below it."""
    reader = services.reader

    @described(
        "Stored completions", query=(*paged(), text("model"), pairs("metadata")), gives=(Listed,)
    )
    async def listed(request: Request) -> Response:
        wanted = Wanted(
            paging=paging_of(request, is_descending=False),
            model=request.query_params.get("model"),
            metadata=metadata_parameter(request),
        )
        return await read_json(reader, _page, caller_of(request.scope), wanted)

    @described("A stored completion", gives=(Completion,))
    @described("Other metadata for it", "POST", takes=Update, gives=(Completion,))
    @described("Delete it", "DELETE", gives=(Deleted,))
    async def one(request: Request) -> Response:
        caller, name = caller_of(request.scope), request.path_params["completion_id"]
        match request.method:
            case "POST":
                metadata = (await json_body(request, Update)).metadata or {}
                require_metadata(metadata)
                require_full(request.scope)
                metadata = await services.redacting.value(metadata, dict)
                name = await reader.run(_own_id, caller, name)
                await services.change(update_metadata, caller, name, metadata)
            case "DELETE":
                name = await reader.run(_own_id, caller, name)
                await services.change(delete_completion, caller, name)
                return as_json({"id": name, "object": "chat.completion.deleted", "deleted": True})
        return await read_json(reader, _shown, caller, name)

    @described("What it was asked with", query=paged(), gives=(Listed,))
    async def asked(request: Request) -> Response:
        name = request.path_params["completion_id"]
        paging = paging_of(request, is_descending=False)
        return await read_json(reader, _messages, caller_of(request.scope), name, paging)

    path = "/v1/chat/completions"
    return [
        Route(path, listed, methods=["GET"]),
        Route(f"{path}/{{completion_id}}", one, methods=["GET", "POST", "DELETE"]),
        Route(f"{path}/{{completion_id}}/messages", asked, methods=["GET"]),
    ]


def _shown(connection: Connection, caller: Caller, name: str) -> dict[str, Any]:
    return completion(connection, find_completion(connection, caller, name))


def _own_id(connection: Connection, caller: Caller, name: str) -> str:
    """Looked for on a reader's thread: the writer has others to serve. Raises ``NotFound``."""
    return find_completion(connection, caller, name, with_content=False).result.id


def _page(connection: Connection, caller: Caller, wanted: Wanted) -> dict[str, Any]:
    data, has_more = page(connection, caller, wanted)
    return list_of(data, has_more=has_more)


def _messages(connection: Connection, caller: Caller, name: str, paging: Paging) -> dict[str, Any]:
    found = messages(find_completion(connection, caller, name))
    if paging.is_descending:
        found.reverse()
    start = 0 if paging.after is None else _place(found, paging.after) + 1
    end = start + paging.limit
    return list_of(found[start:end], has_more=end < len(found))


def _place(found: list[dict[str, Any]], name: str) -> int:
    for place, message in enumerate(found):
        if message["id"] == name:
            return place
    raise NotFound(f"`after` = {name!r}: there is no such message")
