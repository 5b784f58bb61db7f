"""Ollama's chat and generate, asked and answered (docs.ollama.com/api)."""

import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Raw, Struct

from edge_store.engine.demo.answer import Answer
from edge_store.engine.demo.request import (
    ABSENT,
    TOKEN_CHARS,
    Form,
    Order,
    Request,
    Tool,
    chosen_tool,
    token_count,
)
from edge_store.engine.demo.wire import MODEL, arguments_of, encode
from edge_store.errors import InvalidRequest

__all__ = ["OllamaChatWire", "OllamaGenerateWire", "read_ollama_chat", "read_ollama_generate"]


class Options(Struct):
    num_predict: int | None = None  # below 0: without end
    stop: str | list[str] | None = None


class OllamaBody(Struct, kw_only=True):
    """What both routes share."""

    model: str
    stream: bool | None = None
    format: Raw = ABSENT  # "json", or a schema
    options: Options | None = None


class Message(Struct):
    role: str
    content: str = ""


class ChatBody(OllamaBody, kw_only=True):
    messages: list[Message] = []
    tools: list[Tool] | None = None


class GenerateBody(OllamaBody, kw_only=True):
    prompt: str = ""
    system: str = ""


decode_chat = msgspec.json.Decoder(ChatBody).decode
decode_generate = msgspec.json.Decoder(GenerateBody).decode


def read_ollama_chat(body: bytes) -> Request:
    """Read POST /api/chat. Raises ``InvalidRequest`` or ``msgspec.DecodeError``."""
    asked = decode_chat(body)
    messages = asked.messages
    said = next((m.content for m in reversed(messages) if m.role == "user"), "")
    prompt = "\n".join(f"{message.role}: {message.content}" for message in messages)
    functions = [tool.function for tool in asked.tools or ()]
    is_users = bool(messages) and messages[-1].role == "user"
    tool = chosen_tool(functions, "auto", said, is_users=is_users)
    return _request(asked, Order(prompt=prompt, said=said, prompt_tokens=0, tool=tool))


def read_ollama_generate(body: bytes) -> Request:
    """Read POST /api/generate. Raises ``InvalidRequest`` or ``msgspec.DecodeError``."""
    asked = decode_generate(body)
    prompt = "\n\n".join(text for text in (asked.system, asked.prompt) if text)
    prompt = prompt if asked.prompt else ""
    return _request(asked, Order(prompt=prompt, said=asked.prompt, prompt_tokens=0))


def _request(asked: OllamaBody, order: Order) -> Request:
    """Without a prompt nothing is generated: Ollama loads the model then."""
    options = asked.options or Options()
    limit = options.num_predict
    stop = options.stop
    order = msgspec.structs.replace(
        order,
        prompt_tokens=token_count(order.prompt),
        max_tokens=0 if not order.prompt else limit if limit is not None and limit >= 0 else None,
        stops=tuple(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text),
        form=None if order.tool else _form(asked.format),
    )
    return Request(rid=uuid4().hex, orders=[order], is_stream=asked.stream is not False)


def _form(wanted: Raw) -> Form | None:
    if wanted in (ABSENT, Raw(b'""')):
        return None
    if wanted == Raw(b'"json"'):
        return Form("json")
    if not bytes(wanted).startswith(b"{"):
        raise InvalidRequest('`format` is neither "json" nor a schema', param="format")
    return Form("schema", bytes(wanted))


class OllamaWire(ABC):
    """Lines of JSON, the last of which has ``done``; plain, that one with the whole text."""

    stream_type = b"application/x-ndjson"

    def __init__(self, request: Request, answers: list[Answer]) -> None:
        (self._answer,) = answers
        self._request = request
        self._arguments = arguments_of(self._answer)

    def body(self) -> bytes:
        text = self._answer.text if self._arguments is None else ""
        return encode({**self._piece(text, self._calls()), **self._ending()})

    def opening(self) -> list[bytes]:
        calls = self._calls()  # Ollama gives them whole
        return [_line({**self._piece("", calls), "done": False})] if calls else []

    def step(self, index: int, step: int) -> list[bytes]:  # noqa: ARG002  (there is one)
        start = step * TOKEN_CHARS
        piece = self._answer.text[start : start + TOKEN_CHARS]
        if not piece or self._arguments is not None:
            return []
        return [_line({**self._piece(piece, []), "done": False})]

    def closing(self) -> list[bytes]:
        return [_line({**self._piece("", []), **self._ending()})]

    def aborted(self, _steps: int, /) -> list[bytes]:
        return []

    @staticmethod
    def refusal(message: str, status: int, code: str, param: str | None = None) -> bytes:  # noqa: ARG004  (no place)
        """Ollama's error."""
        return encode({"error": message, "code": code})

    @abstractmethod
    def _said(self, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """What one line says of the answer."""

    def _piece(self, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return {"model": MODEL, "created_at": now, **self._said(text, calls)}

    def _calls(self) -> list[dict[str, Any]]:
        if self._arguments is None:
            return []
        return [{"function": {"name": self._answer.tool, "arguments": self._arguments}}]

    def _ending(self) -> dict[str, Any]:
        answer = self._answer
        finish = "length" if answer.finish == "length" else "stop"
        spent_ns = int((time.monotonic() - self._request.started_monotonic) * 1e9)
        return {
            "done": True,
            "done_reason": finish if self._request.orders[0].prompt else "load",
            "total_duration": spent_ns,
            "load_duration": 0,
            "prompt_eval_count": answer.prompt_tokens,
            "prompt_eval_duration": 0,
            "eval_count": answer.tokens,
            "eval_duration": spent_ns,
        }


class OllamaChatWire(OllamaWire):
    """POST /api/chat."""

    def _said(self, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        return {"message": {**message, "tool_calls": calls} if calls else message}


class OllamaGenerateWire(OllamaWire):
    """POST /api/generate."""

    def _said(self, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002  (none)
        return {"response": text}


def _line(data: dict[str, Any]) -> bytes:
    return encode(data) + b"\n"
