"""Files, batches and queued requests as records; their states, and their lengths of time."""

import re
from enum import StrEnum

import msgspec

from edge_store.errors import InvalidRequest
from edge_store.ids import ResultId
from edge_store.recorder.caller import Caller
from edge_store.recorder.entry import Key
from edge_store.result import Record

__all__ = [
    "Batch",
    "BatchDetail",
    "BatchState",
    "InputFault",
    "QueuedRequest",
    "StoredFile",
    "Usage",
    "merged",
    "seconds_of",
]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WINDOW_S_MAX = 30 * 86400


class BatchState(StrEnum):
    """OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in ENDS


ENDS = (BatchState.FAILED, BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED)


class InputFault(Record, frozen=True, kw_only=True):
    """What is wrong with an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Usage(Record, frozen=True, kw_only=True):
    """Tokens of all completed lines."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class BatchDetail(Record, frozen=True, kw_only=True):
    """What the events of a batch have brought so far; each event has what is new with it."""

    lines: int | None = None
    model: str | None = None
    errors: tuple[InputFault, ...] = ()
    completed: int | None = None
    failed: int | None = None
    usage: Usage | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None


class Batch(Record, frozen=True, kw_only=True):
    """A batch as its row and its events tell it. Times are UTC ms."""

    batch_no: int
    batch_id: str
    created_at: int
    tenant: str | None
    caller: Caller
    endpoint: str
    input_file_id: str
    input_sha256: str
    completion_window: str
    output_expires_s: int | None
    metadata: str | None
    state: BatchState
    expires_at: int
    at: dict[str, int]  # of each state's newest event
    detail: BatchDetail


class QueuedRequest(Record, frozen=True, kw_only=True):
    """A request that was answered with 202."""

    id: ResultId
    created_at: int
    caller: Caller
    endpoint: str
    body: bytes
    is_held: bool = False  # what was sent lies in `held/`
    key: Key | None = None


class StoredFile(Record, frozen=True, kw_only=True):
    """An uploaded file, or one that a batch made. Times are UTC ms."""

    file_id: str
    created_at: int
    expires_at: int | None
    tenant: str | None
    purpose: str
    filename: str
    bytes: int
    sha256: str


def seconds_of(window: str) -> int:
    """A ``completion_window``: 24h, as OpenAI has it; s, m and d too, up to 30 days.

    Raises:
        InvalidRequest: it is none.
    """
    found = re.fullmatch(r"([1-9]\d{0,6})([smhd])", window)
    seconds = int(found[1]) * UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= WINDOW_S_MAX:
        raise InvalidRequest(
            f"`completion_window` = {window!r} is no length of time from 1s to 30d",
            hint="OpenAI's is 24h",
            param="completion_window",
        )
    return seconds


def merged(details: list[BatchDetail]) -> BatchDetail:
    """The newest of each field."""
    known = msgspec.structs.asdict(BatchDetail())
    for detail in details:
        known |= {k: v for k, v in msgspec.structs.asdict(detail).items() if v not in (None, ())}
    return BatchDetail(**known)
