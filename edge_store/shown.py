"""How JSON shows a result: to who asks for it, and to whom it is pushed."""

from typing import Any

import msgspec

from edge_store.clock import rfc3339
from edge_store.result import Recorded

__all__ = ["JSON_TEXT_FIELDS", "TIME_FIELDS", "public"]

JSON_TEXT_FIELDS = ("params", "metadata", "privacy")
TIME_FIELDS = ("created_at", "first_token_at", "completed_at")


def public(recorded: Recorded, *, with_content: bool = False) -> dict[str, Any]:
    """A result as JSON shows it: RFC 3339 times, JSON values unfolded, digests in hex."""
    result = msgspec.structs.asdict(recorded.result)
    outputs, content = result.pop("outputs"), result.pop("content")
    for name in JSON_TEXT_FIELDS:
        result[name] = _unfolded(result[name])
    for name in TIME_FIELDS:
        result[name] = None if result[name] is None else rfc3339(result[name])
    for name in ("request_fingerprint", "idempotency_key_hash"):
        result[name] = result[name].hex() if result[name] else None
    shown = {
        "object": "result",
        "seq": recorded.seq,
        "timeline": recorded.timeline,
        "digest": recorded.digest.hex(),
        **result,
        "outputs": [
            {
                **msgspec.structs.asdict(output),
                "tool_calls": _unfolded(output.tool_calls),
                "output_json": _unfolded(output.output_json),
            }
            for output in outputs
        ],
    }
    if with_content:
        shown["input_text"] = content.input_text
        shown["request_body"] = content.request_body.decode(errors="backslashreplace")
        shown["response_body"] = content.response_body.decode(errors="backslashreplace")
    return shown


def _unfolded(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
