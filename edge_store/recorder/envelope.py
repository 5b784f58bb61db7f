"""Errors on the wire: OpenAI's envelope with our stable code, as a body or as a stream's event."""

import msgspec

from edge_store.errors import EdgeStoreError, Overloaded, RequestError

__all__ = ["error_body", "error_event", "error_headers"]

JSON = (b"content-type", b"application/json")


def error_body(error: EdgeStoreError) -> bytes:
    """``{"error": {"message", "type", "code", "param", "hint"}}``."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    return msgspec.json.encode(
        {
            "error": {
                "message": str(error),
                "type": kind,
                "code": error.code,
                "param": None,
                "hint": error.hint or None,
            }
        }
    )


def error_event(error: EdgeStoreError) -> bytes:
    """The same as one server-sent event: what a stream ends with when it has no terminal event."""
    return b"data: " + error_body(error) + b"\n\n"


def error_headers(error: EdgeStoreError) -> list[tuple[bytes, bytes]]:
    """The headers that go with ``error_body``."""
    headers = [JSON]
    if isinstance(error, Overloaded):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    elif error.http_status == 507:
        headers.append((b"retry-after", b"30"))
    return headers
