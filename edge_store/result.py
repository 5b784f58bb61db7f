"""The records that rooms pass to each other: what was asked, what came out, what is durable.

Field names are column names; their order is the order of the columns that follow ``seq`` and
``timeline``. Times are UTC milliseconds, durations milliseconds. JSON values are JSON text. Records
never change; the writer adds what only it knows (``Recorded``).
"""

from enum import StrEnum
from typing import Any

import msgspec

from edge_store.blobs import Split, split_once
from edge_store.ids import BootId, DeviceId, ResultId

__all__ = [
    "IMPORTED",
    "Boot",
    "Check",
    "CheckState",
    "Content",
    "JsonState",
    "NotReplicated",
    "Operation",
    "Output",
    "Receipt",
    "Recorded",
    "Result",
    "Said",
    "Status",
]

IMPORTED = "import:"  # before the engine: this box did not ask it


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The one kind of record. It is never part of a cycle: the collector need not look at it."""


class Operation(StrEnum):
    """What was asked for; OTel GenAI's ``gen_ai.operation.name`` where it has a word."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    GENERATE = "generate"
    EMBEDDINGS = "embeddings"
    PREFIX_CACHE = "prefix_cache"  # no output was asked for: a warmed prefix, a scored prompt


class Status(StrEnum):
    """How a request ended. Each admitted request ends in exactly one."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"  # the caller left before the end
    FAILED = "failed"  # the engine answered with an error, died, or took too long
    CANCELLED = "cancelled"  # aborted on purpose: by the engine, or because the daemon stopped


class JsonState(StrEnum):
    """What became of an output for which JSON was asked; ``text`` when it was not."""

    TEXT = "text"
    VALID = "valid"
    EXTRACTED = "extracted"
    REPAIRED = "repaired"
    TRUNCATED = "truncated"
    INVALID = "invalid"


class Boot(Record, frozen=True, kw_only=True):
    """Constant from start to stop; every result carries parts of it."""

    boot_id: BootId
    device_id: DeviceId
    timeline: str
    version: str
    engine: str
    engine_version: str
    clock_synced: bool


class Output(Record, frozen=True, kw_only=True):
    """One choice of an answer."""

    choice_index: int
    output_text: str
    reasoning: str | None = None
    tool_calls: str | None = None
    finish_reason: str | None = None
    output_json: str | None = None
    json_state: JsonState = JsonState.TEXT
    schema_valid: bool | None = None
    schema_error: str | None = None
    repair_log: str | None = None
    repairer: str | None = None
    constraint_kind: str | None = None
    constraint_holds: bool | None = None
    constraint_error: str | None = None


class Content(Record, frozen=True, kw_only=True, dict=True, gc=True):
    """The exact bytes both ways, and the prompt as text. Retention may expire them first."""

    input_text: str | None
    request_body: bytes
    response_body: bytes

    @property
    def split_body(self) -> Split:
        """The request's body without its images, and these."""
        return split_once(self, self.request_body)


class Result(Record, frozen=True, kw_only=True):
    """One recorded outcome of one admitted request."""

    id: ResultId
    device_id: DeviceId
    boot_id: BootId
    boot_seq: int
    operation: Operation
    endpoint: str
    status: Status
    request_model: str | None = None
    response_model: str | None = None
    engine: str
    engine_version: str
    params: str = "{}"
    created_at: int
    first_token_at: int | None = None
    completed_at: int
    clock_synced: bool
    latency_ms: float
    ttft_ms: float | None = None
    queue_ms: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None
    stream: bool
    conversation_id: str | None = None
    previous_id: str | None = None
    batch_id: str | None = None
    custom_id: str | None = None
    tenant: str | None = None
    user_id: str | None = None
    metadata: str | None = None
    caller_rid: str | None = None
    response_id: str | None = None
    idempotency_key_hash: bytes | None = None
    request_fingerprint: bytes
    trace_id: str | None = None
    http_status: int
    error_type: str | None = None
    error_message: str | None = None
    privacy: str | None = None
    outputs: tuple[Output, ...] = ()
    content: Content


class Recorded(Record, frozen=True, kw_only=True):
    """A result as the database holds it."""

    seq: int
    timeline: str
    digest: bytes
    result: Result


class Said(Record, frozen=True, kw_only=True):
    """What was said of a result later: rows of ``annotations`` and ``repairs``, by column."""

    id: str
    annotations: tuple[dict[str, Any], ...] = ()
    repairs: tuple[dict[str, Any], ...] = ()


class NotReplicated(StrEnum):
    """Why an answer that was held for the replica left without."""

    OFF = "off"  # this box replicates nothing
    TAKEN = "taken"  # nor does it while another box has its path
    PAUSED = "paused"  # nor while an operator has paused it
    UNREAD = "unread"  # Litestream lacks commits, until the whole database is uploaded anew
    TIMEOUT = "timeout"
    BUSY = "busy"  # too many wait
    STOPPING = "stopping"  # the daemon
    LEFT = "left"  # the caller


class Receipt(Record, frozen=True, kw_only=True):
    """Proof that a result is committed: its place, and when."""

    id: ResultId
    seq: int
    committed_at: int
    # Of an answer that was held for it.
    is_replicated: bool = False
    not_replicated: NotReplicated | None = None

    @property
    def durability(self) -> str:
        """The value of the header ``x-edge-store-durability``."""
        return "replicated" if self.is_replicated else "committed"

    @property
    def comment(self) -> str:
        """What a stream says before its end."""
        why = f" not-replicated={self.not_replicated}" if self.not_replicated else ""
        return f"{self.durability} id={self.id} seq={self.seq}{why}"


class CheckState(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Check(Record, frozen=True, kw_only=True):
    """One finding. ``advice`` is empty when there is nothing to do."""

    name: str
    state: CheckState
    found: str
    advice: str = ""
