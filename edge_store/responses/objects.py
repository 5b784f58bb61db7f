"""The object of a response, and its events on the wire.

One function makes the object, whether the response has just ended, plain or streamed, or is read
again years later: from what was asked and from the row of the result.
"""

from enum import StrEnum
from typing import Any

import msgspec

from edge_store.errors import EdgeStoreError, ShutDown
from edge_store.ids import RESPONSE_PREFIX
from edge_store.responses.ask import Ask
from edge_store.responses.events import INCOMPLETE, Event
from edge_store.responses.store import Kept
from edge_store.result import Record, Result, Status

__all__ = [
    "Failure",
    "Numbered",
    "ResponseStatus",
    "failure_of",
    "on_wire",
    "response_object",
    "status_of",
    "usage_of",
]


class ResponseStatus(StrEnum):
    """OpenAI's words."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing more comes."""
        return self not in (ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS)


class Failure(Record, frozen=True, kw_only=True):
    """Why there is no whole answer: our stable code, and a message."""

    code: str
    message: str
    http_status: int = 500


def failure_of(error: EdgeStoreError) -> Failure:
    """An error of ours as a response's."""
    return Failure(code=error.code, message=str(error), http_status=error.http_status)


def status_of(result: Result) -> ResponseStatus:
    """What the row of a result means for its response."""
    match result.status:
        case Status.COMPLETED if result.finish_reason in INCOMPLETE:
            return ResponseStatus.INCOMPLETE
        case Status.COMPLETED:
            return ResponseStatus.COMPLETED
        case Status.CANCELLED if result.error_type == ShutDown.code:
            return ResponseStatus.FAILED
        case Status.FAILED:
            return ResponseStatus.FAILED
        case _:  # its caller left, or had it cancelled
            return ResponseStatus.CANCELLED


def usage_of(result: Result) -> dict[str, Any] | None:
    """Token counts, if the engine gave any."""
    if result.input_tokens is None and result.output_tokens is None:
        return None
    taken, made = result.input_tokens or 0, result.output_tokens or 0
    cached = {"cached_tokens": result.cached_tokens or 0, "cache_write_tokens": 0}
    return {
        "input_tokens": taken,
        "input_tokens_details": cached,
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": result.reasoning_tokens or 0},
        "total_tokens": taken + made,
    }


def response_object(
    kept: Kept,
    ask: Ask,
    status: ResponseStatus,
    output: list[Event],
    result: Result | None = None,
    failure: Failure | None = None,
) -> dict[str, Any]:
    """A response as the API shows it. ``result`` is its row, once there is one."""
    if failure is None and result is not None and status is ResponseStatus.FAILED:
        failure = Failure(
            code=result.error_type or EdgeStoreError.code,
            message=result.error_message or "",
            http_status=result.http_status,
        )
    model, details, completed_at = ask.model, None, None
    if result is not None:
        model = result.response_model or ask.model
        if status is ResponseStatus.INCOMPLETE:
            details = {"reason": INCOMPLETE.get(result.finish_reason or "")}
        if status is ResponseStatus.COMPLETED:
            completed_at = result.completed_at // 1000
    return {
        "id": RESPONSE_PREFIX + kept.id,
        "object": "response",
        "created_at": kept.created_at // 1000,
        "completed_at": completed_at,
        "status": status.value,
        "background": ask.background,
        "error": None if failure is None else _error(failure),
        "incomplete_details": details,
        "model": model,
        "output": output,
        "usage": None if result is None else usage_of(result),
        **_asked(ask, kept),
    }


def _error(failure: Failure) -> dict[str, Any]:
    """OpenAI's few codes; ours is the type."""
    code = "server_error"
    if failure.http_status == 429:
        code = "rate_limit_exceeded"
    elif 400 <= failure.http_status < 499:
        code = "invalid_prompt"
    return {"code": code, "message": failure.message, "type": failure.code}


def _asked(ask: Ask, kept: Kept) -> dict[str, Any]:
    """What was asked, as it was understood."""
    reasoning, form = ask.reasoning, ask.text.format
    previous = None if kept.previous_id is None else RESPONSE_PREFIX + kept.previous_id
    return {
        "instructions": ask.instructions,
        "max_output_tokens": ask.max_output_tokens,
        "metadata": ask.metadata,
        "parallel_tool_calls": ask.parallel_tool_calls is not False,
        "previous_response_id": previous,
        "conversation": None if kept.conversation_id is None else {"id": kept.conversation_id},
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "store": ask.store,
        "temperature": ask.temperature,
        "text": {"format": {"type": "text"} if form is None else msgspec.to_builtins(form)},
        "tool_choice": msgspec.to_builtins(ask.tool_choice),
        "tools": [msgspec.to_builtins(tool) for tool in ask.tools],
        "top_p": ask.top_p,
        "truncation": ask.truncation,
        "user": ask.user,
        "service_tier": "default",
        "prompt_cache_key": ask.prompt_cache_key,
        "safety_identifier": ask.safety_identifier,
    }


class Numbered:
    """Gives the events of one response their numbers and their bytes."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, event: Event) -> bytes:
        numbered = {**event, "sequence_number": self._next}
        self._next += 1
        return on_wire(numbered)

    def lifecycle(self, shown: dict[str, Any]) -> bytes:
        """The event that tells of a status."""
        status = shown["status"]  # there is no event of OpenAI's for a cancelled one
        name = "incomplete" if status == ResponseStatus.CANCELLED else status
        return self({"type": f"response.{name}", "response": shown})


def on_wire(event: Event) -> bytes:
    """A server-sent event."""
    return f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
