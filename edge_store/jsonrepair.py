"""Parses, repairs and validates the JSON that a caller asked for, in worker processes."""

from edge_store.config import RepairSection
from edge_store.result import JsonState, Record

__all__ = ["Assessed", "JsonWorkers", "Wanted"]


class Wanted(Record, frozen=True, kw_only=True):
    """One output to assess."""

    text: str
    schema: str | None  # JSON Schema as JSON text; None when any JSON will do
    is_truncated: bool  # the engine stopped before the end: never repaired


class Assessed(Record, frozen=True, kw_only=True):
    """What became of it; the fields are those of ``Output``."""

    output_json: str | None = None
    json_state: JsonState = JsonState.TEXT
    schema_valid: bool | None = None
    schema_error: str | None = None
    repair_log: str | None = None
    repairer: str | None = None


class JsonWorkers:
    """The pool of worker processes."""

    def __init__(self, config: RepairSection) -> None:
        self._config = config

    async def __aenter__(self) -> "JsonWorkers":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        return

    async def assess(self, wanted: Wanted) -> Assessed:
        """Never raises for what ``wanted`` holds."""
        return Assessed(json_state=JsonState.INVALID)
