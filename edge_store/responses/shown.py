"""A response that is in the database, as its object and as the events that made it."""

from typing import Any

from edge_store.responses.ask import Ask, read_ask
from edge_store.responses.events import Event
from edge_store.responses.objects import (
    Failure,
    Numbered,
    ResponseStatus,
    response_object,
    status_of,
)
from edge_store.responses.store import Found, Kept, output_of

__all__ = ["opening", "replayed", "standing_of", "waiting_object", "whole_object"]


def standing_of(found: Found) -> tuple[ResponseStatus, Failure | None]:
    """Where a response is, and why it has no answer if that is known without a result."""
    if found.recorded is not None:
        return status_of(found.recorded.result), None
    last = found.happened[-1] if found.happened else None
    match last.event if last else None:
        case None:
            return ResponseStatus.QUEUED, None
        case "cancelled":
            return ResponseStatus.CANCELLED, None
        case "failed":
            assert last is not None
            return ResponseStatus.FAILED, Failure(code=last.code or "", message=last.message or "")
        case _:
            return ResponseStatus.IN_PROGRESS, None


def whole_object(found: Found) -> dict[str, Any]:
    """The response as it is now."""
    output = output_of(found.recorded)[1] if found.recorded else []
    return _object(found, output)


def _object(found: Found, output: list[Event]) -> dict[str, Any]:
    status, failure = standing_of(found)
    result = found.recorded.result if found.recorded else None
    ask = read_ask(found.kept.request)
    return response_object(found.kept, ask, status, output, result, failure)


def waiting_object(kept: Kept, ask: Ask, status: ResponseStatus) -> dict[str, Any]:
    """The response before it has ended: nothing of its output is shown."""
    return response_object(kept, ask, status, [])


def opening(number: Numbered, kept: Kept, ask: Ask, *, is_started: bool = True) -> list[bytes]:
    """The events before the first piece of an answer; of a response in the background, if it has
    not started, those of its place in the queue.
    """
    first = ResponseStatus.QUEUED if kept.background else ResponseStatus.IN_PROGRESS
    shown = waiting_object(kept, ask, first)
    events = [number({"type": "response.created", "response": shown})]
    if kept.background:
        events.append(number.lifecycle(shown))
    if is_started:
        events.append(number.lifecycle(waiting_object(kept, ask, ResponseStatus.IN_PROGRESS)))
    return events


def replayed(found: Found) -> list[bytes]:
    """All events of a response that has ended, as they were, or would have been, streamed."""
    number = Numbered()
    said, output = output_of(found.recorded) if found.recorded else ([], [])
    is_started = any(each.event == "started" for each in found.happened)
    is_started = is_started or not found.kept.background
    ask = read_ask(found.kept.request)
    events = opening(number, found.kept, ask, is_started=is_started)
    events += [number(event) for event in said]
    return [*events, number.lifecycle(_object(found, output))]
