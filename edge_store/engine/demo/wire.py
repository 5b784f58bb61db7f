"""Answers on the wire: OpenAI's chats and completions, and SGLang 0.5's ``/generate``.

Each format gives a whole body, or a stream step by step: at step k every open output says its k-th
token, and after its last one that it has finished.
"""

import time
from abc import ABC, abstractmethod
from typing import Any, Protocol
from zlib import crc32

import msgspec

from edge_store.engine.demo.answer import Answer
from edge_store.engine.demo.request import TOKEN_CHARS, Request

__all__ = [
    "DONE",
    "MODEL",
    "ChatWire",
    "CompletionWire",
    "GenerateWire",
    "Wire",
    "arguments_of",
    "encode",
    "error_body",
]

MODEL = "demo"
DONE = b"data: [DONE]\n\n"
VOCABULARY = 32_000

encode = msgspec.json.Encoder().encode


class Wire(Protocol):
    """One wire format, for the answers of one request."""

    stream_type: bytes  # content type

    def __init__(self, request: Request, answers: list[Answer]) -> None: ...

    def body(self) -> bytes:
        """The whole plain answer."""

    def opening(self) -> list[bytes]:
        """The events before the first token."""

    def step(self, index: int, step: int) -> list[bytes]:
        """The events of one output at one step."""

    def closing(self) -> list[bytes]:
        """The events after every output has finished."""

    def aborted(self, steps: int, /) -> list[bytes]:
        """The events that end a stream which was aborted after so many steps."""

    @staticmethod
    def refusal(message: str, status: int, code: str, param: str | None = None) -> bytes:
        """The body of an error; ``param`` is the path of the fault."""


def error_body(message: str, status: int, code: str, param: str | None = None) -> bytes:
    """OpenAI's error envelope."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def arguments_of(answer: Answer) -> dict[str, Any] | None:
    """What a tool is called with, where the protocol wants an object; None: it is no call, or was
    cut before it was one, and is said as text.
    """
    if answer.tool is None:
        return None
    try:
        found = msgspec.json.decode(answer.text)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None


def _event(data: Any) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


def _last_step(answer: Answer) -> int:
    """An empty answer finishes at step 0, too."""
    return max(answer.tokens - 1, 0)


class EventStream:
    """What OpenAI's protocols and SGLang's share."""

    stream_type = b"text/event-stream"

    @staticmethod
    def refusal(message: str, status: int, code: str, param: str | None = None) -> bytes:
        return error_body(message, status, code, param)


class OpenAIWire(EventStream, ABC):
    """What chats and completions share."""

    object_plain = ""
    object_stream = ""

    def __init__(self, request: Request, answers: list[Answer]) -> None:
        self._request = request
        self._answers = answers
        self._created = int(time.time())

    def body(self) -> bytes:
        choices = [self._whole(index, answer) for index, answer in enumerate(self._answers)]
        return encode({**self._frame(self.object_plain, choices), "usage": self._usage()})

    def opening(self) -> list[bytes]:
        return []

    def step(self, index: int, step: int) -> list[bytes]:
        answer = self._answers[index]
        events = []
        if step < answer.tokens:
            start = step * TOKEN_CHARS
            events.append(self._piece(index, answer.text[start : start + TOKEN_CHARS]))
        if step == _last_step(answer):
            events.append(self._finish(index, answer))
        return events

    def closing(self) -> list[bytes]:
        if not self._request.wants_usage:
            return [DONE]
        usage = {**self._frame(self.object_stream, []), "usage": self._usage()}
        return [_event(usage), DONE]

    def aborted(self, _steps: int, /) -> list[bytes]:
        return []

    @abstractmethod
    def _whole(self, index: int, answer: Answer) -> dict[str, Any]: ...

    @abstractmethod
    def _piece(self, index: int, text: str) -> bytes: ...

    @abstractmethod
    def _finish(self, index: int, answer: Answer) -> bytes: ...

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._request.rid,
            "object": kind,
            "created": self._created,
            "model": MODEL,
            "choices": choices,
        }

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return _event(self._frame(self.object_stream, [choice]))

    def _usage(self) -> dict[str, Any]:
        prompt = sum(a.prompt_tokens for a in self._answers if a.is_first_choice)
        completion = sum(a.tokens for a in self._answers)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "reasoning_tokens": 0,
        }


class ChatWire(OpenAIWire):
    """POST /v1/chat/completions."""

    object_plain = "chat.completion"
    object_stream = "chat.completion.chunk"

    def opening(self) -> list[bytes]:
        events = []
        for index, answer in enumerate(self._answers):
            delta: dict[str, Any] = {"role": "assistant", "content": ""}
            events.append(self._delta(index, delta))
            if answer.tool is not None:
                call = {**_call(answer, ""), "index": 0}
                events.append(self._delta(index, {"tool_calls": [call]}))
        return events

    def _whole(self, index: int, answer: Answer) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": answer.text if answer.tool is None else None,
            "reasoning_content": None,
            "tool_calls": None if answer.tool is None else [_call(answer, answer.text)],
        }
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": answer.finish,
            "matched_stop": answer.matched,
        }

    def _piece(self, index: int, text: str) -> bytes:
        if self._answers[index].tool is None:
            return self._delta(index, {"content": text})
        return self._delta(index, {"tool_calls": [{"index": 0, "function": {"arguments": text}}]})

    def _finish(self, index: int, answer: Answer) -> bytes:
        return self._delta(index, {}, answer)

    def _delta(self, index: int, delta: dict[str, Any], ended: Answer | None = None) -> bytes:
        return self._chunk(
            {
                "index": index,
                "delta": delta,
                "logprobs": None,
                "finish_reason": ended.finish if ended else None,
                "matched_stop": ended.matched if ended else None,
            }
        )


def _call(answer: Answer, arguments: str) -> dict[str, Any]:
    function = {"name": answer.tool, "arguments": arguments}
    return {"id": answer.call_id, "type": "function", "function": function}


class CompletionWire(OpenAIWire):
    """POST /v1/completions."""

    object_plain = "text_completion"
    object_stream = "text_completion"

    def _whole(self, index: int, answer: Answer) -> dict[str, Any]:
        return _text_choice(index, answer.text, answer)

    def _piece(self, index: int, text: str) -> bytes:
        return self._chunk(_text_choice(index, text, None))

    def _finish(self, index: int, answer: Answer) -> bytes:
        return self._chunk(_text_choice(index, "", answer))


def _text_choice(index: int, text: str, ended: Answer | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": ended.finish if ended else None,
        "matched_stop": ended.matched if ended else None,
    }


class GenerateWire(EventStream):
    """POST /generate. A streamed text is cumulative, and so are the ids."""

    def __init__(self, request: Request, answers: list[Answer]) -> None:
        self._request = request
        self._answers = answers
        self._ids: dict[int, list[int]] = {}

    def body(self) -> bytes:
        outputs = [
            self._output(index, answer.tokens, answer.finish)
            for index, answer in enumerate(self._answers)
        ]
        return encode(outputs if self._request.is_list else outputs[0])

    def opening(self) -> list[bytes]:
        return []

    def step(self, index: int, step: int) -> list[bytes]:
        last = _last_step(self._answers[index])
        if step > last:
            return []
        return [
            self._streamed(index, step + 1, self._answers[index].finish if step == last else None)
        ]

    def closing(self) -> list[bytes]:
        return [DONE]

    def aborted(self, steps: int, /) -> list[bytes]:
        events = [
            self._streamed(index, steps, "abort")
            for index, answer in enumerate(self._answers)
            if steps <= _last_step(answer)
        ]
        return [*events, DONE]

    def _streamed(self, index: int, tokens: int, finish: str | None) -> bytes:
        output = self._output(index, tokens, finish)
        if self._request.is_list:
            output["index"] = index
        return _event(output)

    def _output(self, index: int, tokens: int, finish: str | None) -> dict[str, Any]:
        answer = self._answers[index]
        if index not in self._ids:
            self._ids[index] = _ids(answer.text)
        tokens = min(tokens, answer.tokens)
        rid = self._request.rid
        meta: dict[str, Any] = {
            "id": f"{rid}_{index}" if len(self._answers) > 1 else rid,
            "finish_reason": _finish_reason(answer, tokens, finish),
            "prompt_tokens": answer.prompt_tokens,
            "weight_version": "default",
            "total_retractions": 0,
            "completion_tokens": tokens,
            "cached_tokens": 0,
        }
        if finish is not None:
            meta["e2e_latency"] = time.monotonic() - self._request.started_monotonic
        return {
            "text": answer.text[: tokens * TOKEN_CHARS],
            "output_ids": self._ids[index][:tokens],
            "meta_info": meta,
        }


def _finish_reason(answer: Answer, tokens: int, finish: str | None) -> dict[str, Any] | None:
    match finish:
        case None:
            return None
        case "stop":
            return {"type": "stop", "matched": answer.matched}
        case "length":
            return {"type": "length", "length": tokens}
        case _:
            return {"type": finish}


def _ids(text: str) -> list[int]:
    return [
        crc32(text[start : start + TOKEN_CHARS].encode(errors="surrogatepass")) % VOCABULARY
        for start in range(0, len(text), TOKEN_CHARS)
    ]
