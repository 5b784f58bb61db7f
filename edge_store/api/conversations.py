"""OpenAI's Conversations: /v1/conversations and what is below it."""

from typing import Annotated, Any, Literal, TypeVar

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

T = TypeVar("T", "Created", "Updated", "Added")

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
    room = Conversations(means)
    one = "/v1/conversations/{conversation_id}"
    return [
        Route("/v1/conversations", room.begin, methods=["POST"]),
        Route(one, room.retrieve, methods=["GET"]),
        Route(one, room.amend, methods=["POST"]),
        Route(one, room.end, methods=["DELETE"]),
        Route(one + "/items", room.add, methods=["POST"]),
        Route(one + "/items", room.items, methods=["GET"]),
        Route(one + "/items/{item_id}", room.item, methods=["GET"]),
        Route(one + "/items/{item_id}", room.remove_item, methods=["DELETE"]),
    ]


class Conversations:
    """The routes' functions."""

    def __init__(self, means: Means) -> None:
        self._reader = means.reader
        self._change = means.change
        self._redacting = means.redacting

    async def _asked(self, request: Request, kind: type[T]) -> T:
        """The body, checked, as it is written."""
        require_full(request.scope)
        asked = converted(await _body(request), kind)
        if isinstance(asked, Created | Updated):
            require_metadata(asked.metadata)
        if isinstance(asked, Created | Added):
            require_images(asked.items, "items")
        return await self._redacting.value(asked, kind)

    @described("Begin a conversation", takes=Created, gives=(Conversation,))
    async def begin(self, request: Request) -> Response:
        """POST: one with its first items."""
        asked, caller = await self._asked(request, Created), caller_of(request.scope)
        return as_json(await self._change(create, caller, asked.metadata, asked.items))

    @described("A conversation", gives=(Conversation,))
    async def retrieve(self, request: Request) -> Response:
        """GET: one of them."""
        caller = caller_of(request.scope)
        return as_json(await self._reader.run(find_conversation, _id(request), caller))

    @described("Other metadata for it", takes=Updated, gives=(Conversation,))
    async def amend(self, request: Request) -> Response:
        """POST: its metadata anew."""
        asked, caller = await self._asked(request, Updated), caller_of(request.scope)
        return as_json(await self._change(update, _id(request), caller, asked.metadata))

    @described("Delete a conversation", gives=(dict[str, Any],))
    async def end(self, request: Request) -> Response:
        """DELETE: its responses stay."""
        await self._change(delete, _id(request), caller_of(request.scope))
        gone = {"id": _id(request), "object": "conversation.deleted", "deleted": True}
        return as_json(gone)

    @described("Add items", query=(INCLUDE,), takes=Added, gives=(Listed,))
    async def add(self, request: Request) -> Response:
        """POST: items at its end."""
        asked, caller = await self._asked(request, Added), caller_of(request.scope)
        added = await self._change(add_items, _id(request), caller, asked.items)
        return as_json(list_of(added, has_more=False))

    @described("Its items", query=PAGING, gives=(Listed,))
    async def items(self, request: Request) -> Response:
        """GET: a page of them."""
        caller, paging = caller_of(request.scope), paging_of(request)
        return await read_json(self._reader, _page, _id(request), caller, paging)

    @described("One item", query=(INCLUDE,), gives=(dict[str, Any],))
    async def item(self, request: Request) -> Response:
        """GET: one of them."""
        caller = caller_of(request.scope)
        return await read_json(self._reader, find_item, _id(request), _item_id(request), caller)

    @described("Take an item out", gives=(Conversation,))
    async def remove_item(self, request: Request) -> Response:
        """DELETE: one of them."""
        caller = caller_of(request.scope)
        return as_json(await self._change(delete_item, _id(request), _item_id(request), caller))


def _page(
    connection: Connection, conversation_id: str, caller: Caller, paging: Paging
) -> dict[str, Any]:
    found, has_more = page_of(connection, conversation_id, caller, paging)
    return list_of(found, has_more=has_more)


def _id(request: Request) -> str:
    return str(request.path_params["conversation_id"])


def _item_id(request: Request) -> str:
    return str(request.path_params["item_id"])
