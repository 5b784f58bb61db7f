"""Which results a caller asks for, and a page of them in the order of ``seq``.

Only ``seq`` is an index here: a page is looked for in windows of it, and ends early when that takes
long, with the place to go on from. The reader's thread and the memory are the daemon's.
"""

import time
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from starlette.requests import Request

from edge_store.api.answers import choice_parameter, metadata_parameter
from edge_store.api.described import choice, pairs, text
from edge_store.errors import InvalidRequest
from edge_store.recorder.caller import Caller
from edge_store.result import Operation, Output, Record, Recorded, Status
from edge_store.rows import load_recorded
from edge_store.shown import JSON_TEXT_FIELDS, TIME_FIELDS, public
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated
from edge_store.stored import newest_metadata

__all__ = [
    "FILTERS",
    "JSON_TEXT_FIELDS",
    "SEQ_MAX",
    "TIME_FIELDS",
    "Filters",
    "Page",
    "filters_of",
    "page_after",
    "page_before",
    "public",
]

PAGE_SECONDS_MAX = 2.0
PAGE_BYTES_MAX = 16 * 1024 * 1024  # of outputs
WINDOW = 20_000  # seqs; some 20 ms without a hit
SEQ_MAX = 2**63 - 1

TEXT_FILTERS = ("model", "tenant", "user", "conversation_id", "batch_id")
FILTERS = (
    choice("status", tuple(Status)),
    choice("operation", tuple(Operation)),
    *(text(name) for name in TEXT_FILTERS),
    *(text(name, "RFC 3339", format="date-time") for name in ("since", "until")),
    pairs("metadata", "all of these"),
)


class Filters(Record, frozen=True, kw_only=True):
    """All of them hold. Times are UTC ms; ``metadata`` is JSON, of texts."""

    status: str | None = None
    operation: str | None = None
    model: str | None = None
    tenant: str | None = None
    user: str | None = None
    conversation_id: str | None = None
    batch_id: str | None = None
    since: int | None = None
    until: int | None = None
    metadata: str = "{}"


class Page(NamedTuple):
    """Results, oldest or newest first. Nothing between the start and ``next_seq`` is left out: the
    next page begins after it, or before it.
    """

    results: list[Recorded]
    next_seq: int
    has_more: bool


def filters_of(request: Request) -> Filters:
    """What the query string asks for. Raises ``InvalidRequest``."""
    texts = {name: request.query_params.get(name) for name in TEXT_FILTERS}
    return Filters(
        status=choice_parameter(request, "status", tuple(Status)),
        operation=choice_parameter(request, "operation", tuple(Operation)),
        since=_time_parameter(request, "since"),
        until=_time_parameter(request, "until"),
        metadata=msgspec.json.encode(metadata_parameter(request)).decode(),
        **texts,
    )


def _time_parameter(request: Request, name: str) -> int | None:
    """UTC ms, of an RFC 3339 time."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"`{name}` = {text!r} is not a time", hint="as in 2026-11-29T14:00:00Z", param=name
        ) from None


def page_after(
    connection: Connection, caller: Caller, filters: Filters, seq: int, limit: int
) -> Page:
    """What came after ``seq``, oldest first."""
    search = Search(connection, caller, filters, "after", limit)
    with translated("results cannot be read"):
        (last,) = connection.execute(sql("select_last_seq")).fetchone()
        while seq < last:
            high = min(seq + WINDOW, last)
            seq = search.window(seq + 1, high) or high
            if search.is_over:
                break
    return Page(search.found, seq, seq < last)


def page_before(
    connection: Connection, caller: Caller, filters: Filters, seq: int, limit: int
) -> Page:
    """What came before ``seq``, newest first."""
    search = Search(connection, caller, filters, "before", limit)
    with translated("results cannot be read"):
        (last,) = connection.execute(sql("select_last_seq")).fetchone()
        (first, _last) = connection.execute(sql("select_extent")).fetchone()
        seq = min(seq, last + 1)
        while seq > first:
            low = max(seq - WINDOW, 1)
            seq = search.window(low, seq - 1) or low
            if search.is_over:
                break
    return Page(search.found, seq, seq > first)


BLOCKS = {  # by which side of a seq, and whether all tenants' are wanted
    ("after", True): "select_results_after",
    ("after", False): "select_results_of_tenant_after",
    ("before", True): "select_results_before",
    ("before", False): "select_results_of_tenant_before",
}


class Search:
    """Looks for one page, window by window."""

    def __init__(
        self, connection: Connection, caller: Caller, filters: Filters, side: str, limit: int
    ) -> None:
        self.found: list[Recorded] = []
        tenant = filters.tenant if caller.only_tenant is None else caller.only_tenant
        self._is_foreign = filters.tenant not in (None, tenant)
        self._connection = connection
        self._block = sql(BLOCKS[side, tenant is None])
        self._asked = {**msgspec.structs.asdict(filters), "tenant": tenant}
        self._limit = limit
        self._size = 0
        self._deadline = time.monotonic() + PAGE_SECONDS_MAX

    @property
    def is_over(self) -> bool:
        """Whether the page is full, or has taken its time."""
        return len(self.found) == self._limit or time.monotonic() > self._deadline

    def window(self, low: int, high: int) -> int | None:
        """Look there; None when all of it was seen, else the last ``seq`` that was."""
        if self._is_foreign:
            return None
        window = {"low": low, "high": high, "limit": self._limit - len(self.found)}
        cursor = self._connection.execute(self._block, {**self._asked, **window})
        try:
            for recorded in load_recorded(self._connection, cursor, with_content=False):
                is_late = self._size > PAGE_BYTES_MAX or time.monotonic() > self._deadline
                if self.found and is_late:
                    return self.found[-1].seq
                self._take(recorded)
        finally:
            cursor.close()  # one left open would hold back checkpoints
        return self.found[-1].seq if len(self.found) == self._limit else None

    def _take(self, recorded: Recorded) -> None:
        metadata = newest_metadata(self._connection, recorded.result)
        result = msgspec.structs.replace(recorded.result, metadata=metadata)
        self.found.append(msgspec.structs.replace(recorded, result=result))
        self._size += sum(_size(output) for output in result.outputs)


def _size(output: Output) -> int:
    texts = (output.output_text, output.reasoning, output.tool_calls, output.output_json)
    return sum(len(text) for text in texts if text)
