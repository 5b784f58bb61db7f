"""What is written of a result that is not to be recorded in full.

``full`` is everything. ``meta`` has neither texts nor bodies; of the parameters numbers and
switches. ``off`` has nothing of the caller's own either: the row is there, as nothing that was
admitted may be missing, with its times and token counts.
"""

from typing import Any

import msgspec

from edge_store.recorder.caller import RecordLevel
from edge_store.result import Content, Result

__all__ = ["NOTHING", "reduced"]

NOTHING = Content(input_text=None, request_body=b"", response_body=b"")


def reduced(result: Result, level: RecordLevel, *, is_stored: bool = True) -> Result:
    """What of ``result`` is written. ``is_stored`` is false with ``store: false``."""
    if level is RecordLevel.FULL and is_stored:
        return result
    has_params = level is RecordLevel.FULL  # nothing less was asked for than `store: false`
    level = RecordLevel.META if has_params else level
    result = msgspec.structs.replace(
        result,
        outputs=(),
        content=NOTHING,
        error_message=None,  # whoever failed may have quoted the request; the code is there
        params=result.params if has_params else _switches(result.params),
        privacy=msgspec.json.encode({"record": level.value}).decode(),
    )
    if level is RecordLevel.META:
        return result
    return msgspec.structs.replace(
        result,
        request_model=None,
        params="{}",
        user_id=None,
        metadata=None,
        caller_rid=None,
        trace_id=None,
        request_fingerprint=b"",
        idempotency_key_hash=None,
    )


def _switches(params: str) -> str:
    """The numbers and switches among the parameters: schemas, tools and stops are texts."""
    return msgspec.json.encode(_only_numbers(msgspec.json.decode(params))).decode()


def _only_numbers(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    found = {}
    for name, item in value.items():
        if isinstance(item, bool | int | float):
            found[name] = item
        elif isinstance(item, dict) and (inner := _only_numbers(item)):
            found[name] = inner
    return found
