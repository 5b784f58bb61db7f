"""Errors on the wire: each protocol's own form, as a body or as the last event of a stream, so that
its SDK understands it. Our stable code and the hint are in all of them.
"""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from edge_store.engine import Send
from edge_store.errors import EdgeStoreError, RequestError, Unauthorized
from edge_store.ids import ResultId

__all__ = [
    "ACCEPTED",
    "EVENT_STREAM",
    "JSON",
    "JSON_LINES",
    "AnthropicEnvelope",
    "Envelope",
    "OllamaEnvelope",
    "OpenAIEnvelope",
    "accepted_body",
    "answer_kind",
    "error_body",
    "error_headers",
    "retry_headers",
    "say_accepted",
]

ACCEPTED = 202
JSON = (b"content-type", b"application/json")
EVENT_STREAM = b"text/event-stream"
JSON_LINES = b"application/x-ndjson"

# docs.claude.com/en/api/errors
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def accepted_body(result_id: ResultId) -> bytes:
    """The answer to a request that is answered later."""
    return b'{"object":"result","id":"%b","status":"queued"}' % result_id.encode()


async def say_accepted(
    result_id: ResultId, send: Send, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer so."""
    ours, body = result_id.encode(), accepted_body(result_id)
    headers = [
        JSON,
        (b"content-length", str(len(body)).encode()),
        (b"location", b"/v1/results/" + ours),
        (b"preference-applied", b"respond-async"),
        (b"x-request-id", ours),
        (b"x-edge-store-id", ours),
        (b"x-edge-store-durability", b"queued"),
        *more,
    ]
    await send({"type": "http.response.start", "status": ACCEPTED, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Envelope(Protocol):
    """How a protocol says that something failed, and what it calls a stream and an id."""

    stream_kind: bytes  # content type
    request_id: bytes  # the header that its SDKs look into

    def body(self, error: EdgeStoreError) -> bytes:
        """What stands in place of a plain answer."""

    def event(self, error: EdgeStoreError) -> bytes:
        """What a stream ends with when it has no terminal event."""


class OpenAIEnvelope:
    """``{"error": {"message", "type", "code", "param", "hint"}}``; SGLang's ``/generate`` too."""

    stream_kind = EVENT_STREAM
    request_id = b"x-request-id"

    def body(self, error: EdgeStoreError) -> bytes:
        kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
        if error.http_status == 429:
            kind = "rate_limit_error"
        said = {"message": str(error), "type": kind, "code": error.code, "param": error.param}
        return msgspec.json.encode({"error": {**said, "hint": error.hint or None}})

    def event(self, error: EdgeStoreError) -> bytes:
        return b"data: " + self.body(error) + b"\n\n"


class AnthropicEnvelope:
    """``{"type": "error", "error": {"type", "message", "code", "param", "hint"}}``."""

    stream_kind = EVENT_STREAM
    request_id = b"request-id"

    def body(self, error: EdgeStoreError) -> bytes:
        other = "invalid_request_error" if error.http_status < 500 else "api_error"
        kind = ANTHROPIC_TYPES.get(error.http_status, other)
        said = {"type": kind, "message": str(error), "code": error.code, "param": error.param}
        said["hint"] = error.hint or None
        return msgspec.json.encode({"type": "error", "error": said})

    def event(self, error: EdgeStoreError) -> bytes:
        return b"event: error\ndata: " + self.body(error) + b"\n\n"


class OllamaEnvelope:
    """``{"error": "…", "code", "param", "hint"}``."""

    stream_kind = JSON_LINES
    request_id = b"x-request-id"

    def body(self, error: EdgeStoreError) -> bytes:
        said = {"error": str(error), "code": error.code, "param": error.param}
        return msgspec.json.encode({**said, "hint": error.hint or None})

    def event(self, error: EdgeStoreError) -> bytes:
        return self.body(error) + b"\n"


def answer_kind(envelope: Envelope, body: bytes, *, is_stream: bool) -> bytes:
    """The content type of an answer that is stored: ``is_stream`` says that a stream was asked for,
    but an engine may answer that in one piece.
    """
    is_object = body[:64].lstrip().startswith((b"{", b"["))
    if is_stream and (envelope.stream_kind == JSON_LINES or not is_object):
        return envelope.stream_kind
    return JSON[1]


error_body = OpenAIEnvelope().body  # our own routes speak it


def error_headers(error: EdgeStoreError) -> list[tuple[bytes, bytes]]:
    """The headers that go with a body."""
    headers = [JSON, *retry_headers(error)]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def retry_headers(error: EdgeStoreError) -> list[tuple[bytes, bytes]]:
    """Whether to ask again, which the SDKs obey, and when."""
    headers = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    if error.retry_after_s:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return headers
