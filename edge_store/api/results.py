"""Results over HTTP: pages of them, one, its exact bytes, its receipt."""

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json, choice_parameter, integer_parameter, read_json
from edge_store.api.batches import later
from edge_store.api.described import Form, choice, described, whole
from edge_store.api.pages import (
    FILTERS,
    SEQ_MAX,
    Page,
    filters_of,
    page_after,
    page_before,
    public,
)
from edge_store.api.protocols import Waiting
from edge_store.api.routes import GENERATING
from edge_store.api.services import Services
from edge_store.api.shapes import ResultList, WholeResult
from edge_store.errors import NotFound
from edge_store.ids import RESPONSE_PREFIX
from edge_store.receipt import Receipt, State, read_receipt
from edge_store.recorder.caller import Caller, caller_of
from edge_store.recorder.envelope import JSON, OpenAIEnvelope, answer_kind
from edge_store.result import Recorded, Result
from edge_store.sqlite import Connection
from edge_store.stored import find_result, newest_metadata

__all__ = ["result_routes"]

PAGE_MAX = 1000
PARTS = ("request", "response")
PAGING = (
    whole("limit", 1, PAGE_MAX),
    whole("before_seq", 0, SEQ_MAX, "newest first"),
    whole("after_seq", 0, SEQ_MAX, "oldest first"),
)


def result_routes(services: Services) -> list[BaseRoute]:
    """/v1/results and what is below it."""
    reader = services.reader

    @described("A page of results", query=(*PAGING, *FILTERS), gives=(ResultList,))
    async def results(request: Request) -> Response:
        caller, filters = caller_of(request.scope), filters_of(request)
        limit = integer_parameter(request, "limit", 20, 1, PAGE_MAX)
        if "after_seq" in request.query_params:
            after = integer_parameter(request, "after_seq", 0, 0, SEQ_MAX)
            return await read_json(reader, _listed, page_after, caller, filters, after, limit)
        before = integer_parameter(request, "before_seq", SEQ_MAX, 0, SEQ_MAX)
        return await read_json(reader, _listed, page_before, caller, filters, before, limit)

    @described(
        "One result with its prompt and both bodies, or where it is in the queue",
        gives=(WholeResult, Waiting),
        statuses=(200, 202),
    )
    async def result(request: Request) -> Response:
        return await _one_or_queued(services, request)

    @described(
        "The bytes as they went over the wire",
        query=(choice("part", PARTS),),
        gives=(Form("*/*", {}),),
    )
    async def raw(request: Request) -> Response:
        part = choice_parameter(request, "part", PARTS) or "response"
        name = request.path_params["result_id"]
        found = await reader.run(_find, caller_of(request.scope), name)
        return _raw(found.result, part)

    @described("How durable it is, or what became of it", gives=(Receipt,))
    async def receipt(request: Request) -> Response:
        name, caller = request.path_params["result_id"], caller_of(request.scope)
        told = await reader.run(
            read_receipt, name, services.replica(), of_tenant=caller.only_tenant
        )
        if told.state is State.UNKNOWN:
            raise NotFound(told.message)
        return as_json(told)

    return [
        Route("/v1/results", results),
        Route("/v1/results/{result_id}", result),
        Route("/v1/results/{result_id}/raw", raw),
        Route("/v1/results/{result_id}/receipt", receipt),
    ]


def _listed(connection: Connection, look: Callable[..., Page], *args: Any) -> dict[str, Any]:
    page = look(connection, *args)
    return {
        "object": "list",
        "data": [public(recorded) for recorded in page.results],
        "has_more": page.has_more,
        "next_seq": page.next_seq if page.has_more else None,
    }


async def _one_or_queued(services: Services, request: Request) -> Response:
    caller, name = caller_of(request.scope), request.path_params["result_id"]
    try:
        return await read_json(services.reader, _whole, caller, name)
    except NotFound:
        queued = await services.queue.find(_bare(name), caller) if services.queue else None
        if queued is not None:
            return later(queued)
        return await read_json(services.reader, _whole, caller, name)  # it may have come meanwhile


def _bare(name: str) -> str:
    """A response's id is that of its result with something before it."""
    return name.removeprefix(RESPONSE_PREFIX)


def _whole(connection: Connection, caller: Caller, name: str) -> dict[str, Any]:
    return public(_find(connection, caller, name), with_content=True)


def _find(connection: Connection, caller: Caller, name: str) -> Recorded:
    found = find_result(connection, caller, _bare(name))
    if found is None:
        raise NotFound(f"there is no result {name!r} on this box")
    metadata = newest_metadata(connection, found.result)
    result = msgspec.structs.replace(found.result, metadata=metadata)
    return msgspec.structs.replace(found, result=result)


def _raw(result: Result, part: str) -> Response:
    """The bytes as they went over the wire."""
    body = result.content.request_body if part == "request" else result.content.response_body
    if not body:
        raise NotFound(f"the {part} of {result.id!r} is not stored")
    dialect = GENERATING.get(result.endpoint)
    envelope: Any = dialect.envelope if dialect else OpenAIEnvelope()
    is_stream = result.stream and part == "response"
    kind = answer_kind(envelope, body, is_stream=is_stream)
    if kind == JSON[1] and not body[:64].lstrip().startswith((b"{", b"[")):
        kind = b"application/octet-stream"  # an upstream's error may be of any kind
    headers = {"content-type": kind.decode(), "x-content-type-options": "nosniff"}
    return Response(body, headers=headers)
