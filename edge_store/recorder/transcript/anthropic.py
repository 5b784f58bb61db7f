"""Anthropic's messages, plain and streamed (docs.claude.com/en/api/messages; sglang 0.5:
entrypoints/anthropic).

A stream's end is held from the ``message_delta`` that says why the answer stopped: the official
SDKs take the message from there. An error is an end too. Rows hold the answer in the terms of the
other protocols: one output with its text, its thinking and its tool calls, OpenAI's words for
``finish_reason``, and input tokens that include the cached ones, which Anthropic counts apart.
"""

from typing import Any

import msgspec

from edge_store.recorder.envelope import AnthropicEnvelope, Envelope
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

__all__ = ["AnthropicReader", "MessagesDialect"]

CONTENT = frozenset({"model", "messages", "system", "metadata", "stream"})
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
STOP = "message_stop"


class Block(msgspec.Struct):
    """One part of the answer: text, thinking, or the call of a tool."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class Delta(msgspec.Struct):
    """What a block grows by, or how the message ends."""

    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class Usage(msgspec.Struct):
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None


class Message(msgspec.Struct):
    """A whole answer, or the start of a streamed one."""

    type: str | None = None
    model: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: Usage | None = None
    error: Any = None


class Event(msgspec.Struct):
    """One event of a stream."""

    type: str | None = None
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Usage | None = None
    error: Any = None


MESSAGE = msgspec.json.Decoder(Message)
EVENT = msgspec.json.Decoder(Event)


class Call:
    """One call of a tool while it grows."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.arguments: list[str] = []

    def as_json(self) -> dict[str, Any]:
        """The call as OpenAI's protocol has it."""
        arguments = "".join(self.arguments) or json_text(self._block.input) or ""
        function = {"name": self._block.name or "", "arguments": arguments}
        return {"id": self._block.id, "type": "function", "function": function}


class AnthropicReader:
    """Reads the answer to one ``/v1/messages``."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, Call] = {}
        self._usage = Usage()
        self._model: str | None = None
        self._stop_reason: str | None = None
        self._error: str | None = None
        self._has_started = False
        self._is_complete = False
        self._is_over = False
        self.has_begun = False
        self.is_usage = False  # token counts come with the end

    def body(self, body: bytes) -> None:
        message = decode(MESSAGE, Message, body)
        assert isinstance(message, Message)  # the decoder takes no list
        if message.content is None and message.error is None:
            raise Garbled("an answer with no content")
        self._take_message(message)
        self._is_complete = self._error is None

    def event(self, data: bytes) -> bool:
        event = decode(EVENT, Event, data)
        assert isinstance(event, Event)  # the decoder takes no list
        self._take_error(event.error)
        self._take_usage(event.usage)
        if event.message is not None:
            self._take_message(event.message)
        if event.content_block is not None:
            self._take_block(event.index, event.content_block)
        if event.delta is not None:
            self._take_delta(event.index, event.delta)
        is_stop = event.type == STOP
        self._is_over = self._is_over or is_stop or self._error is not None
        is_end = self._stop_reason is not None or (is_stop and self._has_started)
        self._is_complete = self._is_complete or is_end
        return self._is_over or self._stop_reason is not None

    def _take_message(self, message: Message) -> None:
        self._has_started = self._has_started or message.error is None
        self._model = message.model or self._model
        self._stop_reason = message.stop_reason or self._stop_reason
        self._take_error(message.error)
        self._take_usage(message.usage)
        for index, block in enumerate(message.content or ()):
            self._take_block(index, block)

    def _take_block(self, index: int, block: Block) -> None:
        self._has_started = True
        if block.type is not None and block.type.endswith("tool_use"):  # a server's own tools too
            self._calls[index] = Call(block)
            self.has_begun = True
        self._add(block.text, block.thinking)

    def _take_delta(self, index: int, delta: Delta) -> None:
        self._stop_reason = delta.stop_reason or self._stop_reason
        self._add(delta.text, delta.thinking)
        if delta.partial_json and index in self._calls:
            self._calls[index].arguments.append(delta.partial_json)

    def _add(self, text: str | None, thinking: str | None) -> None:
        if text:
            self._text.append(text)
        if thinking:
            self._reasoning.append(thinking)
        self.has_begun = self.has_begun or bool(text or thinking)

    def _take_usage(self, usage: Usage | None) -> None:
        """The newest of each count: those of the prompt come first, those of the answer last."""
        if usage is not None:
            for name in Usage.__struct_fields__:
                count = getattr(usage, name)
                if count is not None:
                    setattr(self._usage, name, count)

    def _take_error(self, error: Any) -> None:
        if error is not None:
            self._error = error_text(error)

    def reading(self) -> Reading:
        usage = self._usage
        cached, created = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
        input_tokens = usage.input_tokens
        if input_tokens is not None:
            input_tokens += (cached or 0) + (created or 0)
        return Reading(
            outputs=(self._output(),) if self._has_started else (),
            response_model=self._model,
            input_tokens=input_tokens,
            output_tokens=usage.output_tokens if self._is_complete else None,  # 0 at the start
            cached_tokens=cached,
            is_complete=self._is_complete,
            error_message=self._error,
        )

    def _output(self) -> Output:
        calls = [call.as_json() for _, call in sorted(self._calls.items())]
        reason = self._stop_reason
        return Output(
            choice_index=0,
            output_text="".join(self._text),
            reasoning="".join(self._reasoning) or None,
            tool_calls=json_text(calls or None),
            finish_reason=FINISH_REASONS.get(reason, reason) if reason else None,
        )


class MessagesDialect:
    """POST /v1/messages. It has no field for our id, and Anthropic refuses unknown ones."""

    envelope: Envelope = AnthropicEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        messages, system = body.get("messages"), body.get("system")
        if system is not None and isinstance(messages, list):
            messages = [{"role": "system", "content": system}, *messages]
        metadata = field(body, "metadata", dict, {})
        form = field(body, "output_config", dict, {}).get("format")
        form = form if isinstance(form, dict) else {}
        wanted = Form(
            is_json=form.get("type") == "json_schema", json_schema=json_text(form.get("schema"))
        )
        user_id = metadata.get("user_id")
        return Asked(
            operation=Operation.CHAT,
            model=field(body, "model", str, "") or None,
            stream=field(body, "stream", bool, False),
            choices=1,
            params=params_of(body, CONTENT),
            input_text=conversation(messages),
            user_id=user_id if isinstance(user_id, str) else None,
            metadata=json_text(metadata or None),
            takes_rid=False,
            forms=(wanted,) if wanted.is_json else (),
            tools=tools_of(body),
        )

    def reader(self, asked: Asked) -> AnthropicReader:  # noqa: ARG002  (one answer, whatever asked)
        return AnthropicReader()
