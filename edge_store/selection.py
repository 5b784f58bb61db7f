"""Which results: the filters that ``query``, ``logs``, ``stats``, ``export`` and the rest share.

Each field that is set narrows; together they become one condition on ``results AS r``, made of the
blocks of ``sql/selection.sql`` alone, with the fields as its values.
"""

from typing import Any

import msgspec

from edge_store.result import JsonState, Operation, Record, Status
from edge_store.sql import sql

__all__ = ["EVERYTHING", "Selection"]

CONDITIONS = {
    "since": "wanted_since",
    "until": "wanted_until",
    "model": "wanted_model",
    "status": "wanted_status",
    "operation": "wanted_operation",
    "tenant": "wanted_tenant",
    "user": "wanted_user",
    "conversation": "wanted_conversation",
    "batch": "wanted_batch",
    "json_state": "wanted_json_state",
    "tokens_min": "wanted_tokens_min",
    "tokens_max": "wanted_tokens_max",
    "latency_min_ms": "wanted_latency_min_ms",
    "latency_max_ms": "wanted_latency_max_ms",
    "pinned": "wanted_pinned",
}  # field -> block of selection.sql
EVERYTHING = "1"  # the condition of a selection without any


class Selection(Record, frozen=True, kw_only=True):
    """``since`` and ``until`` are UTC ms of the admission, the second exclusive; ``tokens`` are
    input and output together, as far as they are known; ``json_state`` is any choice's, as the
    newest repair has it.
    """

    since: int | None = None
    until: int | None = None
    model: str | None = None
    status: Status | None = None
    operation: Operation | None = None
    tenant: str | None = None
    user: str | None = None
    conversation: str | None = None
    batch: str | None = None
    json_state: JsonState | None = None
    tokens_min: int | None = None
    tokens_max: int | None = None
    latency_min_ms: float | None = None
    latency_max_ms: float | None = None
    pinned: bool | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What is set, by name: as it is bound."""
        found = msgspec.structs.asdict(self)
        return {name: value for name, value in found.items() if value is not None}

    @property
    def condition(self) -> str:
        """SQL over ``results AS r``."""
        parts = [sql(CONDITIONS[name]).partition(" WHERE ")[2] for name in self.values]
        return " AND ".join(f"({part})" for part in parts) or EVERYTHING
