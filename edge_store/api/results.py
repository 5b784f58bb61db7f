"""Results as JSON: the newest, one, its receipt."""

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json, integer_parameter
from edge_store.api.batches import later
from edge_store.api.services import Services
from edge_store.clock import rfc3339
from edge_store.errors import NotFound
from edge_store.receipt import State, read_receipt
from edge_store.recorder.caller import Caller, caller_of
from edge_store.result import Output, Recorded
from edge_store.rows import load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["public", "result_routes"]

PAGE_MAX = 1000
# A page may end early, with `has_more`: the reader's thread and the memory are the daemon's.
PAGE_SECONDS_MAX = 2.0
PAGE_BYTES_MAX = 16 * 1024 * 1024  # of outputs
SEQ_MAX = 2**63 - 1

PAGES = {  # by which side of a seq, and whether all tenants' are shown
    ("after", True): "select_results_after",
    ("after", False): "select_results_of_tenant_after",
    ("before", True): "select_results_before",
    ("before", False): "select_results_of_tenant_before",
}

JSON_TEXT_FIELDS = ("params", "metadata")
TIME_FIELDS = ("created_at", "first_token_at", "completed_at")


def result_routes(services: Services) -> list[BaseRoute]:
    """/v1/results and what is below it."""
    reader = services.reader

    async def results(request: Request) -> Response:
        limit = integer_parameter(request, "limit", 20, 1, PAGE_MAX)
        caller = caller_of(request.scope)
        if "after_seq" in request.query_params:
            after = integer_parameter(request, "after_seq", 0, 0, SEQ_MAX)
            page = await reader.run(_page, caller, "after", limit, after_seq=after)
        else:
            before = integer_parameter(request, "before_seq", SEQ_MAX, 0, SEQ_MAX)
            page = await reader.run(_page, caller, "before", limit, before_seq=before)
        found, has_more = page
        data = [public(recorded) for recorded in found]
        return as_json({"object": "list", "data": data, "has_more": has_more})

    async def result(request: Request) -> Response:
        result_id = request.path_params["result_id"]
        caller = caller_of(request.scope)
        found = await reader.run(_read_one, result_id, caller)
        if found is None and services.queue is not None:
            queued = await services.queue.find(result_id, caller)
            if queued is not None:
                return later(queued)
            found = await reader.run(_read_one, result_id, caller)  # it may have come meanwhile
        if found is None:
            raise NotFound(f"there is no result {result_id!r} on this box")
        return as_json(public(found, with_content=True))

    async def receipt(request: Request) -> Response:
        result_id = request.path_params["result_id"]
        caller = caller_of(request.scope)
        found = await reader.run(
            read_receipt, result_id, services.replica(), of_tenant=caller.only_tenant
        )
        if found.state is State.UNKNOWN:
            raise NotFound(found.message)
        return as_json(found)

    return [
        Route("/v1/results", results),
        Route("/v1/results/{result_id}", result),
        Route("/v1/results/{result_id}/receipt", receipt),
    ]


def public(recorded: Recorded, *, with_content: bool = False) -> dict[str, Any]:
    """A result as JSON shows it: RFC 3339 times, JSON values unfolded, digests in hex."""
    result = msgspec.structs.asdict(recorded.result)
    outputs, content = result.pop("outputs"), result.pop("content")
    for name in JSON_TEXT_FIELDS:
        result[name] = _unfolded(result[name])
    for name in TIME_FIELDS:
        result[name] = None if result[name] is None else rfc3339(result[name])
    for name in ("request_fingerprint", "idempotency_key_hash"):
        result[name] = result[name].hex() if result[name] else None
    shown = {
        "object": "result",
        "seq": recorded.seq,
        "timeline": recorded.timeline,
        "digest": recorded.digest.hex(),
        **result,
        "outputs": [
            {
                **msgspec.structs.asdict(output),
                "tool_calls": _unfolded(output.tool_calls),
                "output_json": _unfolded(output.output_json),
            }
            for output in outputs
        ],
    }
    if with_content:
        shown["input_text"] = content.input_text
        shown["request_body"] = content.request_body.decode(errors="backslashreplace")
        shown["response_body"] = content.response_body.decode(errors="backslashreplace")
    return shown


def _read_one(connection: Connection, result_id: str, caller: Caller) -> Recorded | None:
    with translated(f"result {result_id!r} cannot be read"):
        cursor = connection.execute(sql("select_result_by_id"), {"id": result_id})
        found = list(load_recorded(connection, cursor))
    return found[0] if found and caller.sees(found[0].result.tenant) else None


def _page(
    connection: Connection, /, caller: Caller, side: str, limit: int, **params: Any
) -> tuple[list[Recorded], bool]:
    """At most ``limit`` results without their bodies, and whether there are more."""
    block = PAGES[side, caller.sees_all]
    if not caller.sees_all:
        params["tenant"] = caller.tenant
    deadline = time.monotonic() + PAGE_SECONDS_MAX
    page: list[Recorded] = []
    size = 0
    with translated("results cannot be read"):
        cursor = connection.execute(sql(block), {**params, "limit": limit + 1})
        try:
            for recorded in load_recorded(connection, cursor, with_content=False):
                is_full = size > PAGE_BYTES_MAX or time.monotonic() > deadline
                if len(page) == limit or (page and is_full):
                    return page, True
                page.append(recorded)
                size += sum(_size(output) for output in recorded.result.outputs)
        finally:
            cursor.close()  # one left open would hold back checkpoints
    return page, False


def _size(output: Output) -> int:
    texts = (output.output_text, output.reasoning, output.tool_calls, output.output_json)
    return sum(len(text) for text in texts if text)


def _unfolded(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
