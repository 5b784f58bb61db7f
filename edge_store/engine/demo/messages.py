"""Anthropic's messages, asked and answered (docs.claude.com/en/api/messages)."""

from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from msgspec import Meta, Raw, Struct

from edge_store.engine.demo.answer import Answer
from edge_store.engine.demo.request import (
    ABSENT,
    TOKEN_CHARS,
    Form,
    Function,
    FunctionName,
    Limit,
    Order,
    Request,
    chosen_tool,
    token_count,
)
from edge_store.engine.demo.wire import MODEL, arguments_of, encode

__all__ = ["MessagesWire", "read_messages"]

STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
KINDS = {404: "not_found_error"}


class Block(Struct):
    """Of what the request says: text, an image, the call of a tool or its result."""

    type: str = "text"
    text: str | None = None
    content: str | list["Block"] | None = None  # of a tool's result


class Message(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Struct):
    name: str
    input_schema: Raw = ABSENT


class ToolChoice(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class OutputFormat(Struct):
    type: Literal["json_schema"]
    schema: Raw


class OutputConfig(Struct):
    format: OutputFormat | None = None


class MessagesBody(Struct, kw_only=True):
    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Limit
    system: str | list[Block] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None


decode_messages = msgspec.json.Decoder(MessagesBody).decode


def read_messages(body: bytes) -> Request:
    """Read POST /v1/messages. Raises ``InvalidRequest`` or ``msgspec.DecodeError``."""
    asked = decode_messages(body)
    said = next((m for m in reversed(asked.messages) if m.role == "user"), asked.messages[-1])
    lines = [f"{message.role}: {_text(message.content)}" for message in asked.messages]
    if asked.system:
        lines.insert(0, f"system: {_text(asked.system)}")
    prompt = "\n".join(lines)
    tool = _tool(asked, _text(said.content)) if asked.tools else None
    wanted = asked.output_config.format if asked.output_config else None
    order = Order(
        prompt=prompt,
        said=_text(said.content),
        prompt_tokens=token_count(prompt),
        max_tokens=asked.max_tokens,
        stops=tuple(text for text in asked.stop_sequences or () if text),
        form=Form("schema", bytes(wanted.schema)) if wanted and not tool else None,
        tool=tool,
    )
    return Request(rid=f"msg_{uuid4().hex}", orders=[order], is_stream=bool(asked.stream))


def _text(content: str | list[Block] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = (block.text or _text(block.content) for block in content)
    return "\n".join(text for text in texts if text)


def _tool(asked: MessagesBody, said: str) -> Function | None:
    functions = [Function(tool.name, tool.input_schema) for tool in asked.tools or ()]
    choice: Any = asked.tool_choice.type if asked.tool_choice else "auto"
    if choice == "tool":
        assert asked.tool_choice is not None
        choice = FunctionName(asked.tool_choice.name or "")
    last = asked.messages[-1]
    blocks = last.content if isinstance(last.content, list) else []
    is_users = last.role == "user" and all(block.type != "tool_result" for block in blocks)
    return chosen_tool(
        functions, "required" if choice == "any" else choice, said, is_users=is_users
    )


class MessagesWire:
    """POST /v1/messages: one message, of a text or the call of a tool."""

    stream_type = b"text/event-stream"

    def __init__(self, request: Request, answers: list[Answer]) -> None:
        (self._answer,) = answers
        self._request = request
        self._arguments = arguments_of(self._answer)

    def body(self) -> bytes:
        if self._arguments is None:
            block: dict[str, Any] = {"type": "text", "text": self._answer.text}
        else:
            block = self._call(self._arguments)
        return encode(self._message([block], self._ending(), self._answer.tokens))

    def opening(self) -> list[bytes]:
        block = {"type": "text", "text": ""} if self._arguments is None else self._call({})
        return [
            _event("message_start", message=self._message([], _ending(None, None), 0)),
            _event("content_block_start", index=0, content_block=block),
        ]

    def step(self, index: int, step: int) -> list[bytes]:
        start = step * TOKEN_CHARS
        piece = self._answer.text[start : start + TOKEN_CHARS]
        if not piece:
            return []
        if self._arguments is None:
            delta = {"type": "text_delta", "text": piece}
        else:
            delta = {"type": "input_json_delta", "partial_json": piece}
        return [_event("content_block_delta", index=index, delta=delta)]

    def closing(self) -> list[bytes]:
        usage = {"output_tokens": self._answer.tokens}
        return [
            _event("content_block_stop", index=0),
            _event("message_delta", delta=self._ending(), usage=usage),
            _event("message_stop"),
        ]

    def aborted(self, _steps: int, /) -> list[bytes]:
        return []

    @staticmethod
    def refusal(message: str, status: int, code: str, param: str | None = None) -> bytes:  # noqa: ARG004  (Anthropic's error has no place for it)
        """Anthropic's error envelope."""
        kind = KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        error = {"type": kind, "message": message, "code": code}
        return encode({"type": "error", "error": error})

    def _call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        answer = self._answer
        return {
            "type": "tool_use",
            "id": f"toolu_{(answer.call_id or '').removeprefix('call_')}",
            "name": answer.tool,
            "input": arguments,
        }

    def _ending(self) -> dict[str, Any]:
        answer = self._answer
        if isinstance(answer.matched, str):
            return _ending("stop_sequence", answer.matched)
        if answer.finish == "tool_calls" and self._arguments is None:
            return _ending("end_turn", None)
        return _ending(STOP_REASONS.get(answer.finish, "end_turn"), None)

    def _message(
        self, content: list[dict[str, Any]], ending: dict[str, Any], tokens: int
    ) -> dict[str, Any]:
        usage = {"input_tokens": self._answer.prompt_tokens, "output_tokens": tokens}
        return {
            "id": self._request.rid,
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": content,
            **ending,
            "usage": usage,
        }


def _ending(reason: str | None, matched: str | None) -> dict[str, Any]:
    return {"stop_reason": reason, "stop_sequence": matched}


def _event(kind: str, **data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **data}))
