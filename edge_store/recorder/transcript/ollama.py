"""Ollama's chat and generate, plain and streamed as lines of JSON (docs.ollama.com/api; sglang 0.5:
entrypoints/ollama).

The line with ``done: true`` is held, and an error. What a server leaves out stays unknown: the
streams of SGLang's own server carry no token counts, its ``done_reason`` is always ``stop``.
"""

from typing import Any

import msgspec

from edge_store.recorder.envelope import Envelope, OllamaEnvelope
from edge_store.recorder.transcript import Asked, Form, Garbled, Reading
from edge_store.recorder.transcript.lenient import Tokens, decode, error_text
from edge_store.recorder.transcript.request import (
    conversation,
    field,
    json_text,
    params_of,
    tools_of,
)
from edge_store.result import Operation, Output

__all__ = ["OllamaChatDialect", "OllamaGenerateDialect", "OllamaReader"]

CONTENT = frozenset(
    {"model", "messages", "prompt", "system", "suffix", "images", "context", "stream"}
)


class Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None  # an object


class ToolCall(msgspec.Struct):
    id: str | None = None
    function: Function | None = None


class Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None


class Line(msgspec.Struct):
    """A whole body or one line of a stream."""

    model: str | None = None
    message: Message | None = None  # of a chat
    response: str | None = None  # of a generate
    thinking: str | None = None
    done: Any = None
    done_reason: str | None = None
    prompt_eval_count: Tokens | None = None
    eval_count: Tokens | None = None
    error: Any = None


LINE = msgspec.json.Decoder(Line)


class OllamaReader:
    """Reads both protocols: a line has a ``message`` or a ``response``."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._last = Line()
        self._model: str | None = None
        self._error: str | None = None
        self._has_started = False
        self._is_complete = False
        self._is_over = False
        self.has_begun = False
        self.is_usage = False  # token counts come with the end

    def body(self, body: bytes) -> None:
        self._take(self._decode(body))
        if not self._has_started and self._error is None:
            raise Garbled("an answer with neither `message` nor `response`")
        self._is_complete = self._error is None

    def event(self, data: bytes) -> bool:
        line = self._decode(data)
        self._take(line)
        if line.done is True:
            self._is_complete = self._has_started
            self._is_over = True
        self._is_over = self._is_over or self._error is not None
        return self._is_over

    @staticmethod
    def _decode(data: bytes) -> Line:
        line = decode(LINE, Line, data)
        assert isinstance(line, Line)  # the decoder takes no list
        return line

    def _take(self, line: Line) -> None:
        if line.error is not None:
            self._error = error_text(line.error)
        message = line.message or Message(content=line.response, thinking=line.thinking)
        self._model = line.model or self._model
        self._last = line
        has_started = line.message is not None or line.response is not None
        self._has_started = self._has_started or has_started
        if message.content:
            self._text.append(message.content)
        if message.thinking:
            self._reasoning.append(message.thinking)
        self._calls += [_call(call) for call in message.tool_calls or ()]
        has_piece = bool(message.content or message.thinking or message.tool_calls)
        self.has_begun = self.has_begun or has_piece

    def reading(self) -> Reading:
        output = Output(
            choice_index=0,
            output_text="".join(self._text),
            reasoning="".join(self._reasoning) or None,
            tool_calls=json_text(self._calls or None),
            finish_reason=self._last.done_reason,
        )
        return Reading(
            outputs=(output,) if self._has_started else (),
            response_model=self._model,
            input_tokens=self._last.prompt_eval_count,
            output_tokens=self._last.eval_count,
            is_complete=self._is_complete,
            error_message=self._error,
        )


def _call(call: ToolCall) -> dict[str, Any]:
    """The call as OpenAI's protocol has it."""
    function = call.function or Function()
    said = {"name": function.name or "", "arguments": json_text(function.arguments) or ""}
    return {"id": call.id, "type": "function", "function": said}


def _ask(body: dict[str, Any], operation: Operation, input_text: str) -> Asked:
    form = body.get("format") or None  # "" asks for nothing
    wanted = Form(is_json=True, json_schema=json_text(form) if isinstance(form, dict) else None)
    return Asked(
        operation=operation,
        model=field(body, "model", str, "") or None,
        stream=field(body, "stream", bool, True),
        choices=1,
        params=params_of(body, CONTENT),
        input_text=input_text,
        takes_rid=False,
        forms=() if form is None else (wanted,),
        tools=tools_of(body),
    )


class OllamaChatDialect:
    """POST /api/chat."""

    envelope: Envelope = OllamaEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        return _ask(body, Operation.CHAT, conversation(body.get("messages") or []))

    def reader(self, asked: Asked) -> OllamaReader:  # noqa: ARG002  (one answer, whatever asked)
        return OllamaReader()


class OllamaGenerateDialect:
    """POST /api/generate. Without a prompt it only loads the model."""

    envelope: Envelope = OllamaEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        texts = (field(body, "system", str, ""), field(body, "prompt", str, ""))
        return _ask(body, Operation.TEXT_COMPLETION, "\n\n".join(text for text in texts if text))

    def reader(self, asked: Asked) -> OllamaReader:  # noqa: ARG002  (one answer, whatever asked)
        return OllamaReader()
