"""Any result, as hypothesis draws it."""

import json
from typing import Any

from hypothesis import strategies as st

from edge_store.result import Content, JsonState, Operation, Output, Status

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 253_402_300_799_999)  # to the end of year 9999
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
DURATIONS = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
JSON_TEXTS = JSON_VALUES.map(json.dumps)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


OUTPUTS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    output_text=TEXTS,
    reasoning=optional(TEXTS),
    tool_calls=optional(JSON_TEXTS),
    finish_reason=optional(TEXTS),
    output_json=optional(JSON_TEXTS),
    json_state=st.sampled_from(JsonState),
    schema_valid=optional(st.booleans()),
    schema_error=optional(TEXTS),
    repair_log=optional(TEXTS),
    repairer=optional(TEXTS),
)
CONTENTS = st.builds(
    Content, input_text=optional(TEXTS), request_body=st.binary(), response_body=st.binary()
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "device_id": TEXTS,
    "operation": st.sampled_from(Operation),
    "endpoint": TEXTS,
    "status": st.sampled_from(Status),
    "request_model": optional(TEXTS),
    "response_model": optional(TEXTS),
    "engine": TEXTS,
    "engine_version": TEXTS,
    "params": JSON_TEXTS,
    "created_at": TIMES,
    "first_token_at": optional(TIMES),
    "completed_at": TIMES,
    "clock_synced": st.booleans(),
    "latency_ms": DURATIONS,
    "ttft_ms": optional(DURATIONS),
    "queue_ms": DURATIONS,
    **dict.fromkeys(
        ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"), optional(INTEGERS)
    ),
    "finish_reason": optional(TEXTS),
    "stream": st.booleans(),
    **dict.fromkeys(
        ("conversation_id", "previous_id", "batch_id", "custom_id", "tenant", "user_id"),
        optional(TEXTS),
    ),
    "metadata": optional(JSON_TEXTS),
    "caller_rid": optional(TEXTS),
    "response_id": optional(TEXTS),
    "idempotency_key_hash": optional(st.binary(min_size=32, max_size=32)),
    "request_fingerprint": st.binary(min_size=32, max_size=32),
    "trace_id": optional(TEXTS),
    "http_status": INTEGERS,
    "error_type": optional(TEXTS),
    "error_message": optional(TEXTS),
    "privacy": optional(JSON_TEXTS),
    "outputs": st.lists(OUTPUTS, max_size=3).map(
        lambda found: tuple(Output(choice_index=i, **fields) for i, fields in enumerate(found))
    ),
    "content": CONTENTS,
}
