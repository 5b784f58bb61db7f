"""OpenAI's Responses: /v1/responses and what is below it."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json, integer_parameter, read_json
from edge_store.api.background import Background
from edge_store.api.described import INCLUDE, Form, choice, described, text, whole
from edge_store.api.foreground import Answering, Running
from edge_store.api.lists import list_of, paged, paging_of
from edge_store.api.live import followed
from edge_store.api.protocols import RECORD, TRACE, WAIT, Listed
from edge_store.api.turn import PATH
from edge_store.clock import now_ms
from edge_store.engine import Receive
from edge_store.errors import ConversationLocked, NotFound
from edge_store.ids import RESPONSE_PREFIX, new_result_id
from edge_store.paging import Paging
from edge_store.recorder.caller import Caller, RecordLevel, caller_of, record_level
from edge_store.recorder.entry import key_in, key_of
from edge_store.recorder.idempotency import KeyedRequest, Stored
from edge_store.responses.ask import Ask, fault, read_ask, require_calls
from edge_store.responses.chat import chat_body
from edge_store.responses.conversations import find_conversation
from edge_store.responses.items import input_items
from edge_store.responses.objects import ResponseStatus
from edge_store.responses.shown import replayed, standing_of, waiting_object, whole_object
from edge_store.responses.store import Found, Kept, find, remove

__all__ = ["PAGING", "response_routes"]

SEQUENCE_MAX = 2**53
STREAM = "text/event-stream; charset=utf-8"


PAGING = (*paged(), INCLUDE)


class Asked(msgspec.Struct):
    """What is read of it; more goes to the engine, or is refused with its name."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    instructions: str | None = None
    previous_response_id: str | None = None


class Shown(msgspec.Struct):
    """As OpenAI shows a response."""

    id: str
    object: Literal["response"]
    status: str
    output: list[dict[str, Any]]


def response_routes(background: Background) -> list[BaseRoute]:
    """/v1/responses and what is below it."""
    room = Room(background)
    one = PATH + "/{response_id}"
    return [
        Route(PATH, room.create, methods=["POST"]),
        Route(one, room.retrieve, methods=["GET"]),
        Route(one, room.delete, methods=["DELETE"]),
        Route(one + "/cancel", room.cancel, methods=["POST"]),
        Route(one + "/input_items", room.input_items, methods=["GET"]),
    ]


class Room:
    """The routes' functions."""

    def __init__(self, background: Background) -> None:
        self._means = background.means
        self._background = background
        self._running: Running = {}

    @described(
        "Make a response",
        headers=(RECORD, WAIT, TRACE),
        takes=Asked,
        gives=(Shown, Form("text/event-stream", {})),
    )
    async def create(self, request: Request) -> Any:
        """POST: an ASGI application that answers it."""
        body = await request.body()
        caller = caller_of(request.scope)
        ask = read_ask(body)
        wait_s = self._means.waits.asked(request.scope)
        if wait_s is not None and ask.background:
            raise fault("with x-edge-store-wait there must be an answer to wait for", "background")
        if record_level(request.scope) is not RecordLevel.FULL:
            if ask.background or ask.conversation is not None:
                raise fault("what is not recorded in full cannot be kept", "store")
            ask.store = False
        key = key_of(key_in(request.scope), body)
        if key is not None and not ask.store:
            raise fault("with an Idempotency-Key it must be stored, to be given again", "store")
        kept = Kept(
            id=new_result_id(),
            created_at=now_ms(),
            caller=caller,
            background=ask.background,
            conversation_id=ask.conversation_id,
            previous_id=_result_id(ask.previous_response_id),
            request=body,
            key=key,
        )
        with ExitStack() as held:
            if key is not None:
                named = KeyedRequest(caller.tenant, key.key_hash, PATH, key.fingerprint)
                claim = await self._means.claim(named, request.receive)
                if isinstance(claim, Stored):
                    if wait_s is not None:
                        claim = await self._waited(claim, caller, wait_s, request.receive)
                    return await self._again(claim, caller)
                held.enter_context(claim)
            await self._lock(kept, held)
            context = await self._means.context(kept)
            if not context and not ask.items:
                raise fault("is needed", "input")
            require_calls(context, ask.items)
            if not ask.background:
                chat = chat_body(ask, context)
                return Answering(self._means, self._running, kept, ask, chat, held.pop_all())
            return await self._accept(kept, ask, held)

    async def _waited(
        self, stored: Stored, caller: Caller, wait_s: float, receive: Receive
    ) -> Stored:
        """What is stored, once it is in the replica or it is known why it is not. Its own row was
        committed after the result's: so not for its seq.
        """
        why = await self._means.waits.until(None, caller.tenant, wait_s, receive)
        receipt = replace(stored.receipt, is_replicated=why is None, not_replicated=why)
        return replace(stored, receipt=receipt)

    async def _again(self, stored: Stored, caller: Caller) -> Response:
        """What the request with the same key was answered with."""
        result_id = str(stored.receipt.id)
        named = {"x-edge-store-id": result_id, "x-request-id": result_id}
        named["idempotency-replayed"] = "true"
        if stored.receipt.seq:
            named["x-edge-store-seq"] = str(stored.receipt.seq)
            named["x-edge-store-durability"] = stored.receipt.durability
            if stored.receipt.not_replicated is not None:
                named["x-edge-store-not-replicated"] = stored.receipt.not_replicated
        if not stored.is_stream:
            return Response(stored.body, media_type="application/json", headers=named)
        found = await self._means.reader.run(find, stored.receipt.id, caller)
        if found is None:
            raise NotFound("the response under this Idempotency-Key was deleted just now")
        live = self._background.live(found.kept.id)
        events: AsyncIterator[bytes]
        if live is not None:
            events = followed(live, found.kept, read_ask(found.kept.request), -1)
        elif found.kept.background:
            events = _pieces(await self._means.reader.run(_replayed, found))
        else:
            events = _pieces([stored.body or b""])
        return StreamingResponse(events, media_type=STREAM, headers=named)

    async def _lock(self, kept: Kept, held: ExitStack) -> None:
        """Until ``held`` is left no other response begins in its conversation.

        Raises:
            NotFound: there is none.
            ConversationLocked: another response is under way there (retryable).
        """
        locks, conversation_id = self._background.locks, kept.conversation_id
        if conversation_id is not None and locks.is_held(conversation_id):
            await self._means.reader.run(find_conversation, conversation_id, kept.caller)
            if locks.is_held(conversation_id):
                raise ConversationLocked(
                    "Another process is currently operating on this conversation. "
                    "Please retry in a few seconds.",
                    hint="a response sees those of its conversation that have ended",
                    param="conversation",
                )
        locks.take(conversation_id)
        held.callback(locks.give, conversation_id)

    async def _accept(self, kept: Kept, ask: Ask, held: ExitStack) -> Response:
        if (refusal := self._means.refusal()) is not None:
            raise refusal.with_traceback(None)
        live = await self._background.accept(kept, ask, held)
        named = {"x-edge-store-id": kept.id, "x-request-id": kept.id}
        if ask.stream:
            return StreamingResponse(
                followed(live, kept, ask, -1), media_type=STREAM, headers=named
            )
        answer = as_json(waiting_object(kept, ask, ResponseStatus.QUEUED))
        answer.headers.update(named)
        return answer

    @described(
        "A response; with `stream`, its events",
        query=(
            *(choice("stream", ("true", "false")), whole("starting_after", 0, SEQUENCE_MAX)),
            *(INCLUDE, text("include_obfuscation", "taken, and of no effect")),
        ),
        gives=(Shown, Form("text/event-stream", {})),
    )
    async def retrieve(self, request: Request) -> Response:
        """GET: the object, or its events after a number."""
        result_id = _id_in(request)
        is_stream = request.query_params.get("stream", "false").lower() == "true"
        after = integer_parameter(request, "starting_after", -1, -1, SEQUENCE_MAX)
        running = self._running.get(result_id)
        if running is not None and _may_see(caller_of(request.scope), running[0]):
            if is_stream:
                raise fault("its events go to the caller that created it", "stream")
            return as_json(waiting_object(*running, ResponseStatus.IN_PROGRESS))
        found = await self._found(request)
        if not is_stream:
            return await read_json(self._means.reader, _shown, found)
        live = self._background.live(result_id)
        if live is not None:
            ask = read_ask(found.kept.request)
            return StreamingResponse(followed(live, found.kept, ask, after), media_type=STREAM)
        if not standing_of(found)[0].is_end:  # it has ended between the two looks, or will go on
            found = await self._found(request)
        events = await self._means.reader.run(_replayed, found)
        return StreamingResponse(_pieces(events[after + 1 :]), media_type=STREAM)

    @described("Delete a response", gives=(dict[str, Any],))
    async def delete(self, request: Request) -> Response:
        """DELETE: cancelled first, if it waits or runs."""
        found = await self._own(request)
        live = self._background.live(found.kept.id)
        if live is not None:
            await self._background.cancel(live)
        await self._means.change(remove, found.kept.id)
        shown_id = RESPONSE_PREFIX + found.kept.id
        return as_json({"id": shown_id, "object": "response", "deleted": True})

    @described("Cancel a response in the background", gives=(Shown,))
    async def cancel(self, request: Request) -> Response:
        """Of one that has ended: what became of it."""
        found = await self._own(request)
        if not found.kept.background:
            raise fault("only a response in the background can be cancelled", "response_id")
        live = self._background.live(found.kept.id)
        if live is not None:
            await self._background.cancel(live)
            found = await self._found(request)
        return await read_json(self._means.reader, _shown, found)

    @described("What it was asked with", query=PAGING, gives=(Listed,))
    async def input_items(self, request: Request) -> Response:
        """What was asked, as items."""
        paging = paging_of(request)
        found = await self._found(request)
        return await read_json(self._means.reader, _input_items, found, paging)

    async def _own(self, request: Request) -> Found:
        """One that the caller may change, too."""
        found = await self._found(request)
        name = request.path_params["response_id"]
        caller_of(request.scope).require_own(found.kept.caller.tenant, f"the response {name!r}")
        return found

    async def _found(self, request: Request) -> Found:
        caller, result_id = caller_of(request.scope), _id_in(request)
        live = self._background.live(result_id)
        found = await self._means.reader.run(find, result_id, caller)
        if found is None:
            raise NotFound(f"there is no response {request.path_params['response_id']!r}")
        if live is not None:  # its result may be there, but not yet its place in a conversation
            return msgspec.structs.replace(found, recorded=None)
        return found


def _shown(_connection: Any, found: Found) -> dict[str, Any]:
    """On the reader's thread: a long answer takes a while to read."""
    return whole_object(found)


def _input_items(_connection: Any, found: Found, paging: Paging) -> dict[str, Any]:
    items = input_items(read_ask(found.kept.request).items, found.kept.id)
    if paging.is_descending:
        items.reverse()
    if paging.after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == paging.after]
        if not places:
            raise fault(f"there is no item {paging.after!r}", "after")
        items = items[places[0] + 1 :]
    return list_of(items[: paging.limit], has_more=len(items) > paging.limit)


def _replayed(_connection: Any, found: Found) -> list[bytes]:
    return replayed(found)


async def _pieces(events: list[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event


def _may_see(caller: Caller, kept: Kept) -> bool:
    return caller.sees_all or caller.tenant == kept.caller.tenant


def _result_id(response_id: str | None) -> str | None:
    """The result that a response's id is of. Any other text is the id of none."""
    if response_id is None:
        return None
    return response_id.removeprefix(RESPONSE_PREFIX)


def _id_in(request: Request) -> str:
    return str(_result_id(request.path_params["response_id"]))
