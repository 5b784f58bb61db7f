"""A chat's answer as the output items of a response and the events that build them.

Pure: fed the same answer, however it is cut, it gives the same events. So the events of a response
that has ended are made again from its recorded answer, and need not be stored.

Reasoning and text end where something else begins; what comes again later is an item of its own.
Calls stay open to the end, as an engine may send pieces of several by turns.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from edge_store.recorder.transcript import Garbled
from edge_store.recorder.transcript.lenient import decode
from edge_store.recorder.transcript.openai import (
    DECODER,
    DONE,
    Answer,
    Choice,
    MessagePart,
    ToolCallPart,
)
from edge_store.recorder.transcript.sse import EventSplitter
from edge_store.responses.items import call_id_of
from edge_store.result import Output

__all__ = ["INCOMPLETE", "Outputs", "items_of", "outputs_of"]

Event = dict[str, Any]

# Of a chat's `finish_reason`, those that are no regular end, as `incomplete_details.reason`.
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Draft:
    """An item while it grows."""

    def __init__(self, kind: str, item_id: str, index: int) -> None:
        self.kind = kind
        self.id = item_id
        self.index = index
        self.pieces: list[str] = []
        self.name = ""
        self.call_id: str | None = None
        self.status = "in_progress"

    def json(self) -> Event:
        """As the API shows it."""
        text = "".join(self.pieces)
        match self.kind:
            case "function_call":
                return {
                    "id": self.id,
                    "type": "function_call",
                    "status": self.status,
                    "arguments": text,
                    "call_id": self.call_id,
                    "name": self.name,
                }
            case "reasoning":
                content = [self.part(text)] if text else []
                return {"id": self.id, "type": "reasoning", "summary": [], "content": content}
            case _:
                return {
                    "id": self.id,
                    "type": "message",
                    "status": self.status,
                    "role": "assistant",
                    "content": [self.part(text)] if text else [],
                }

    def part(self, text: str) -> Event:
        """The one part of a message or of reasoning."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class Outputs:
    """The items of one response. ``chunk`` and ``end`` give events without sequence numbers."""

    def __init__(self, result_id: str) -> None:
        self._result_id = result_id
        self._drafts: list[Draft] = []
        self._open: Draft | None = None  # reasoning or a message
        self._calls: dict[int, Draft] = {}
        self._finish_reason: str | None = None
        self.error: Any = None  # what the answer says went wrong

    @property
    def items(self) -> list[Event]:
        """The items so far."""
        return [draft.json() for draft in self._drafts]

    def chunk(self, data: bytes) -> Iterator[Event]:
        """Take the data of one event of the chat's stream. Raises ``Garbled``."""
        if data != DONE:
            yield from self._take(data)

    def body(self, body: bytes) -> Iterator[Event]:
        """Take a whole plain answer. Raises ``Garbled``."""
        yield from self._take(body)

    def _take(self, data: bytes) -> Iterator[Event]:
        answer = decode(DECODER, Answer, data)
        assert isinstance(answer, Answer)  # the decoder takes no list
        self.error = answer.error or self.error
        for choice in answer.choices or ():
            if choice.index == 0:
                yield from self._choice(choice)

    def _choice(self, choice: Choice) -> Iterator[Event]:
        part = choice.message or choice.delta or MessagePart(content=choice.text)
        if reasoning := part.reasoning_content or part.reasoning:
            yield from self._said("reasoning", reasoning)
        if text := part.content or part.refusal:
            yield from self._said("message", text)
        for place, call in enumerate(part.tool_calls or ()):
            yield from self._called(place if call.index is None else call.index, call)
        self._finish_reason = choice.finish_reason or self._finish_reason

    def _said(self, kind: str, text: str) -> Iterator[Event]:
        draft = self._open
        if draft is None or draft.kind != kind:
            yield from self._close_open("completed")
            draft = self._open = self._draft(kind)
            yield _added(draft)
            yield {**_at(draft, "response.content_part.added"), "part": draft.part("")}
        draft.pieces.append(text)
        if kind == "reasoning":
            yield {**_at(draft, "response.reasoning_text.delta"), "delta": text}
        else:
            yield {**_at(draft, "response.output_text.delta"), "delta": text, "logprobs": []}

    def _called(self, index: int, part: ToolCallPart) -> Iterator[Event]:
        draft = self._calls.get(index)
        function = part.function
        is_new = draft is None
        if draft is None:
            yield from self._close_open("completed")
            draft = self._calls[index] = self._draft("function_call")
            draft.call_id = part.id or call_id_of(self._result_id, index)
        if function is not None:
            draft.name += function.name or ""
        if is_new:
            yield _added(draft)
        if function is not None and function.arguments:
            draft.pieces.append(function.arguments)
            kind = "response.function_call_arguments.delta"
            yield {**_at(draft, kind, is_part=False), "delta": function.arguments}

    def _draft(self, kind: str) -> Draft:
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        index = len(self._drafts)
        draft = Draft(kind, f"{prefix}_{self._result_id}_o{index}", index)
        self._drafts.append(draft)
        return draft

    def _close_open(self, status: str) -> Iterator[Event]:
        draft, self._open = self._open, None
        if draft is not None:
            draft.status = status
            yield from _done(draft)

    def end(self) -> Iterator[Event]:
        """The answer has ended, as it should: close what is open."""
        status = "incomplete" if self._finish_reason in INCOMPLETE else "completed"
        still_open = [*self._calls.values(), *([self._open] if self._open else [])]
        self._open, self._calls = None, {}
        for draft in sorted(still_open, key=lambda draft: draft.index):
            draft.status = status
            yield from _done(draft)

    def cut(self) -> None:
        """The answer has ended too early: what is open stays without its end."""
        for draft in self._drafts:
            if draft.status == "in_progress":
                draft.status = "incomplete"


def _at(draft: Draft, kind: str, *, is_part: bool = True) -> Event:
    event: Event = {"type": kind, "item_id": draft.id, "output_index": draft.index}
    if is_part:
        event["content_index"] = 0
    return event


def _added(draft: Draft) -> Event:
    added = {"type": "response.output_item.added", "output_index": draft.index}
    return {**added, "item": draft.json()}


def _done(draft: Draft) -> Iterator[Event]:
    text = "".join(draft.pieces)
    match draft.kind:
        case "function_call":
            kind = "response.function_call_arguments.done"
            done = {**_at(draft, kind, is_part=False), "name": draft.name, "arguments": text}
            yield done
        case "reasoning":
            yield {**_at(draft, "response.reasoning_text.done"), "text": text}
        case _:
            yield {**_at(draft, "response.output_text.done"), "text": text, "logprobs": []}
    if draft.kind != "function_call":
        yield {**_at(draft, "response.content_part.done"), "part": draft.part(text)}
    done = {"type": "response.output_item.done", "output_index": draft.index}
    yield {**done, "item": draft.json()}


def outputs_of(
    result_id: str, body: bytes, *, is_stream: bool, is_whole: bool
) -> tuple[list[Event], list[Event]]:
    """The events and the items of a recorded answer. ``is_whole``: it came to its end."""
    outputs = Outputs(result_id)
    events: list[Event] = []
    try:
        if is_stream and not body[:64].lstrip().startswith(b"{"):
            splitter = EventSplitter()
            for event in splitter.feed(body):
                data = splitter.data_of(event)
                if data is not None:
                    events += outputs.chunk(data)
        elif body:
            events += outputs.body(body)
    except Garbled:  # where it was cut
        pass
    if is_whole:
        events += outputs.end()
    outputs.cut()
    return events, outputs.items


def items_of(result_id: str, output: Output) -> list[Event]:
    """The items of a recorded choice, when the bytes of its answer are gone or not wanted."""
    message = {
        "content": output.output_text,
        "reasoning_content": output.reasoning,
        "tool_calls": msgspec.Raw((output.tool_calls or "null").encode()),
    }
    choice = {"index": 0, "message": message, "finish_reason": output.finish_reason}
    body = msgspec.json.encode({"choices": [choice]})
    return outputs_of(result_id, body, is_stream=False, is_whole=True)[1]
