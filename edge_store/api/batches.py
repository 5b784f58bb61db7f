"""/v1/batches, as OpenAI has them, and the answer to a request that is answered later."""

from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json, json_body
from edge_store.api.described import described
from edge_store.api.lists import UNORDERED, kept_s, list_of, paging_of
from edge_store.api.protocols import Listed
from edge_store.api.routes import GENERATING
from edge_store.api.services import Services
from edge_store.clock import now_ms, rfc3339
from edge_store.errors import InvalidRequest
from edge_store.ids import new_result_id
from edge_store.queue.records import Batch, BatchDetail, BatchState, Usage, seconds_of
from edge_store.queue.room import Queue, Queued
from edge_store.queue.store import (
    CancelBatch,
    add_batch,
    cancel_batch,
    find_batch,
    find_batches,
    find_file,
)
from edge_store.recorder.caller import caller_of, require_full
from edge_store.recorder.transcript.request import json_text, require_metadata

__all__ = ["batch_routes", "later", "public_batch"]

BODY_BYTES_MAX = 64 * 1024
RETRY_AFTER_S = 1  # to look again for what is queued
# Those whose answers are never streams of themselves, as Ollama's are.
ENDPOINTS = tuple(path for path in GENERATING if not path.startswith("/api/"))


class Asked(msgspec.Struct, frozen=True):
    """The body of ``POST /v1/batches``; what else it has is not looked at."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, Any] | None = None


class BatchObject(msgspec.Struct):
    """As OpenAI shows it: when it came to each state it reached is in `STATE_at`."""

    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    request_counts: dict[str, int]
    errors: dict[str, Any] | None
    metadata: dict[str, str] | None


def batch_routes(services: Services) -> list[BaseRoute]:
    """/v1/batches and what is below it; nothing where there is no queue."""
    queue = services.queue
    if queue is None:
        return []
    batches = Batches(services, queue)
    return [
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches", batches.listed),
        Route("/v1/batches/{batch_id}", batches.retrieve),
        Route("/v1/batches/{batch_id}/cancel", batches.cancel, methods=["POST"]),
    ]


class Batches:
    """The handlers."""

    def __init__(self, services: Services, queue: Queue) -> None:
        self._reader = services.reader
        self._queue = queue

    @described("Take a batch; its input is checked later", takes=Asked, gives=(BatchObject,))
    async def create(self, request: Request) -> Response:
        """Take a batch; its input is checked later."""
        asked = await _asked(request)
        caller = caller_of(request.scope)
        require_full(request.scope)
        file = await self._reader.run(find_file, asked.input_file_id, caller)
        if file.purpose != "batch":
            raise InvalidRequest(
                f"`input_file_id`: the purpose of {file.file_id} is {file.purpose}, not batch",
                param="input_file_id",
            )
        metadata = await self._queue.redacting.value(asked.metadata, dict[str, str] | None)
        now = now_ms()
        window_s = seconds_of(asked.completion_window)
        batch = Batch(
            batch_no=0,
            batch_id=f"batch_{new_result_id()}",
            created_at=now,
            tenant=caller.tenant,
            caller=caller,
            endpoint=asked.endpoint,
            input_file_id=file.file_id,
            input_sha256=file.sha256,
            completion_window=asked.completion_window,
            output_expires_s=_kept_s(asked.output_expires_after),
            metadata=json_text(metadata),
            state=BatchState.VALIDATING,
            expires_at=now + window_s * 1000,
            at={BatchState.VALIDATING: now},
            detail=BatchDetail(),
        )
        await self._queue.change_noticed(add_batch, batch)
        return as_json(await self._public(batch))

    @described("Batches, the newest first", query=UNORDERED, gives=(Listed,))
    async def listed(self, request: Request) -> Response:
        """A page of them, the newest first."""
        page = paging_of(request, is_descending=None)
        found, has_more = await self._reader.run(find_batches, caller_of(request.scope), page)
        shown = [await self._public(batch) for batch in found]
        return as_json(list_of(shown, has_more=has_more))

    @described("A batch", gives=(BatchObject,))
    async def retrieve(self, request: Request) -> Response:
        """One of them."""
        return as_json(await self._public(await self._find(request)))

    @described("End a batch early", gives=(BatchObject,))
    async def cancel(self, request: Request) -> Response:
        """End one early."""
        batch = await self._find(request)
        caller_of(request.scope).require_own(batch.tenant, f"the batch {batch.batch_id}")
        params = CancelBatch(batch_id=batch.batch_id)
        cancelled = await self._queue.change_noticed(cancel_batch, params)
        return as_json(await self._public(cancelled))

    async def _find(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        return await self._reader.run(find_batch, batch_id, caller_of(request.scope))

    async def _public(self, batch: Batch) -> dict[str, Any]:
        return public_batch(batch, await self._queue.counts(batch))


async def _asked(request: Request) -> Asked:
    asked = await json_body(request, Asked, BODY_BYTES_MAX)
    if asked.endpoint not in ENDPOINTS:
        problem = f"`endpoint` = {asked.endpoint!r} is none of {', '.join(ENDPOINTS)}"
        raise InvalidRequest(problem, param="endpoint")
    require_metadata(asked.metadata or {})
    return asked


def _kept_s(given: dict[str, Any] | None) -> int | None:
    if given is None:
        return None
    return kept_s("output_expires_after.{}", given.get("anchor"), given.get("seconds"))


def public_batch(batch: Batch, counts: Any) -> dict[str, Any]:
    """As OpenAI shows it."""
    detail = batch.detail
    moments = {
        f"{state}_at": batch.at[state] // 1000 if state in batch.at else None
        for state in BatchState
        if state is not BatchState.VALIDATING
    }
    errors = None
    if detail.errors:
        errors = {"object": "list", "data": [msgspec.structs.asdict(e) for e in detail.errors]}
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": detail.model,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.state.value,
        "output_file_id": detail.output_file_id,
        "error_file_id": detail.error_file_id,
        "created_at": batch.created_at // 1000,
        **moments,
        "expires_at": batch.expires_at // 1000,
        "request_counts": counts._asdict(),
        "usage": _usage(detail.usage),
        "metadata": msgspec.json.decode(batch.metadata) if batch.metadata else None,
    }


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def later(found: Queued) -> Response:
    """What is said of a queued request instead of its result."""
    shown: dict[str, Any] = {
        "object": "result",
        "id": found.id,
        "created_at": rfc3339(found.created_at),
    }
    if found.failure is not None:
        _status, code, message = found.failure
        return as_json({**shown, "status": "failed", "error": {"code": code, "message": message}})
    answer = as_json({**shown, "status": "running" if found.is_running else "queued"}, 202)
    answer.headers["retry-after"] = str(RETRY_AFTER_S)
    return answer
