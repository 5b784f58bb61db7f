"""OpenAI's Conversations: /v1/conversations and what is below it."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json, read_json
from edge_store.api.described import INCLUDE, described
from edge_store.api.lists import list_of, paging_of
from edge_store.api.means import Means
from edge_store.api.protocols import Listed
from edge_store.api.responses import PAGING
from edge_store.paging import Paging
from edge_store.recorder.caller import Caller, caller_of, require_full
from edge_store.recorder.transcript.request import require_metadata
from edge_store.responses.ask import (
    Item,
    Metadata,
    converted,
    decoded,
    require_images,
    typed_items,
)
from edge_store.responses.conversations import (
    add_items,
    create,
    delete,
    delete_item,
    find_conversation,
    find_item,
    page_of,
    update,
)
from edge_store.sqlite import Connection

__all__ = ["conversation_routes"]

ITEMS_MAX = 20  # OpenAI's, of one call

Items = Annotated[list[Item], Meta(max_length=ITEMS_MAX)]


class Created(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations."""

    items: Items = []
    metadata: Metadata = {}


class Updated(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}."""

    metadata: Metadata = {}


class Added(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/items."""

    items: Items


async def _body(request: Request) -> dict[str, Any]:
    body = await request.body()
    given = decoded(body) if body else {}
    if "items" in given:
        given["items"] = typed_items(given["items"])
    return given


class Conversation(Struct):
    """As OpenAI shows it."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, Any] | None


def conversation_routes(means: Means) -> list[BaseRoute]:
    """/v1/conversations and what is below it."""
    reader, change, redacting = means.reader, means.change, means.redacting

    @described("Begin a conversation", takes=Created, gives=(Conversation,))
    async def begin(request: Request) -> Response:
        require_full(request.scope)
        asked = converted(await _body(request), Created)
        require_metadata(asked.metadata)
        require_images(asked.items, "items")
        caller = caller_of(request.scope)
        asked = await redacting.value(asked, Created)
        return as_json(await change(create, caller, asked.metadata, asked.items))

    @described("A conversation", gives=(Conversation,))
    async def retrieve(request: Request) -> Response:
        return as_json(await reader.run(find_conversation, _id(request), caller_of(request.scope)))

    @described("Other metadata for it", takes=Updated, gives=(Conversation,))
    async def amend(request: Request) -> Response:
        require_full(request.scope)
        asked = converted(await _body(request), Updated)
        require_metadata(asked.metadata)
        caller = caller_of(request.scope)
        asked = await redacting.value(asked, Updated)
        return as_json(await change(update, _id(request), caller, asked.metadata))

    @described("Delete a conversation", gives=(dict[str, Any],))
    async def end(request: Request) -> Response:
        await change(delete, _id(request), caller_of(request.scope))
        gone = {"id": _id(request), "object": "conversation.deleted", "deleted": True}
        return as_json(gone)

    @described("Add items", query=(INCLUDE,), takes=Added, gives=(Listed,))
    async def add(request: Request) -> Response:
        require_full(request.scope)
        asked = converted(await _body(request), Added)
        require_images(asked.items, "items")
        caller = caller_of(request.scope)
        asked = await redacting.value(asked, Added)
        added = await change(add_items, _id(request), caller, asked.items)
        return as_json(list_of(added, has_more=False))

    @described("Its items", query=PAGING, gives=(Listed,))
    async def items(request: Request) -> Response:
        caller, paging = caller_of(request.scope), paging_of(request)
        return await read_json(reader, _page, _id(request), caller, paging)

    @described("One item", query=(INCLUDE,), gives=(dict[str, Any],))
    async def item(request: Request) -> Response:
        caller = caller_of(request.scope)
        return await read_json(reader, find_item, _id(request), _item_id(request), caller)

    @described("Take an item out", gives=(Conversation,))
    async def remove_item(request: Request) -> Response:
        caller = caller_of(request.scope)
        return as_json(await change(delete_item, _id(request), _item_id(request), caller))

    one = "/v1/conversations/{conversation_id}"
    return [
        Route("/v1/conversations", begin, methods=["POST"]),
        Route(one, retrieve, methods=["GET"]),
        Route(one, amend, methods=["POST"]),
        Route(one, end, methods=["DELETE"]),
        Route(one + "/items", add, methods=["POST"]),
        Route(one + "/items", items, methods=["GET"]),
        Route(one + "/items/{item_id}", item, methods=["GET"]),
        Route(one + "/items/{item_id}", remove_item, methods=["DELETE"]),
    ]


def _page(
    connection: Connection, conversation_id: str, caller: Caller, paging: Paging
) -> dict[str, Any]:
    found, has_more = page_of(connection, conversation_id, caller, paging)
    return list_of(found, has_more=has_more)


def _id(request: Request) -> str:
    return str(request.path_params["conversation_id"])


def _item_id(request: Request) -> str:
    return str(request.path_params["item_id"])
