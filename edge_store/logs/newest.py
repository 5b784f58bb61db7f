"""The newest results of a selection, without reading all that are older.

Newest is by the time of admission. The one index by time has a model before its hours, so windows
of time are asked of all models together, from the newest result backwards, each longer than the one
before: what is read is at most a few times what lies between the newest and the last one shown,
whatever the clock did and wherever the rows lie in the file. Conditions on what that index holds
are decided in it alone.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from edge_store.errors import QueryRefused
from edge_store.query import QueryResult, run_query
from edge_store.result import Operation
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["COLUMNS", "lines_of", "newest"]

HOUR_MS = 3_600_000
FIRST_MS = 1000  # the newest window; each is GROWTH times as long as the one before
GROWTH = 4
BEFORE_ALL = -1  # SQLite sorts a number before every text
PROMPT_CHARS = 300
PROMPT_BYTES = 4 * PROMPT_CHARS  # of UTF-8: no fewer characters
TAIL_BYTES = 8000
USER = "\nuser: "  # before a turn, as the recorder writes a conversation down
LINES_AT_ONCE = 500
TIMEOUT_S = 30.0

COLUMNS = (
    "seq", "id", "created_at", "model", "operation", "status", "input_tokens", "output_tokens",
    "latency_ms", "ttft_ms", "finish_reason", "json_state", "tenant", "user_id", "error_type",
    "pinned", "prompt", "answer",
)  # fmt: skip


class Window(NamedTuple):
    """UTC ms; the end is exclusive."""

    start: int
    end: int


class Asking(NamedTuple):
    """A connection, and when it is enough."""

    connection: Connection
    ends_at: float
    timeout_s: float

    def rows(self, statement: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Raises ``QueryRefused`` when the time is over."""
        left_s = self.ends_at - time.monotonic()
        if left_s <= 0:
            raise QueryRefused(
                f"it took longer than {self.timeout_s:g} s", hint="narrow it, or raise --timeout"
            )
        found = run_query(self.connection, statement, params, rows_max=10_000_000, timeout_s=left_s)
        return found.rows


def newest(
    connection: Connection, selection: Selection, limit: int, *, timeout_s: float = TIMEOUT_S
) -> QueryResult:
    """The lines of the newest ``limit``, newest first, and whether there are more.

    Raises:
        QueryRefused: they were not found in time.
    """
    asking = Asking(connection, time.monotonic() + timeout_s, timeout_s)
    seqs = _seqs(asking, selection, limit + 1)
    rows: list[tuple[Any, ...]] = []
    shown = seqs[:limit]
    for start in range(0, len(shown), LINES_AT_ONCE):
        rows += lines_of(connection, shown[start : start + LINES_AT_ONCE])
    return QueryResult(columns=COLUMNS, rows=rows, is_cut=len(seqs) > limit)


def lines_of(connection: Connection, seqs: Sequence[int]) -> list[tuple[Any, ...]]:
    """The line of each that is there, in the order of ``seqs``."""
    params = {
        "seqs": msgspec.json.encode(seqs).decode(),
        "bytes": PROMPT_BYTES,
        "tail": TAIL_BYTES,
    }
    found = run_query(
        connection, sql("log_lines"), params, rows_max=len(seqs) or 1, timeout_s=TIMEOUT_S
    )
    by_seq = {}
    for values in found.rows:
        row = dict(zip(found.columns, values, strict=True))
        row["prompt"] = _last_turn(_text(row["prompt"]), _text(row["prompt_end"]))
        row["answer"] = _begun(_text(row["answer"]))
        row["pinned"] = bool(row["pinned"])
        by_seq[row["seq"]] = tuple(row[name] for name in COLUMNS)
    return [by_seq[seq] for seq in seqs if seq in by_seq]


def _last_turn(begin: str | None, end: str | None) -> str | None:
    """What the user said last: of a conversation the beginning is the same in most."""
    if begin is None:
        return None
    _, mark, turn = (end or "").rpartition(USER)
    return _begun(turn if mark else begin)


def _begun(text: str | None) -> str | None:
    return None if text is None else text[:PROMPT_CHARS]


def _text(data: bytes | None) -> str | None:
    """Without the character that was cut at either end."""
    return None if data is None else data.decode(errors="ignore")


def _seqs(asking: Asking, selection: Selection, wanted: int) -> list[int]:
    condition, values = selection.condition, selection.values
    if selection.operation is Operation.PREFIX_CACHE:  # not in the index
        statement = sql("log_without_output").replace(":condition", condition)
        return [seq for (seq,) in asking.rows(statement, {**values, "left": wanted})]
    models = [selection.model] if selection.model is not None else _models(asking)
    found: list[int] = []
    for window in _windows(asking, selection, models):
        hour, last = window.start // HOUR_MS, (window.end - 1) // HOUR_MS
        params = {
            **values,
            "models": msgspec.json.encode(models).decode(),
            "window_from": window.start,
            "window_to": window.end,
            "hour": hour,
            "left": wanted - len(found),
        }
        name = "log_within_hour"
        if hour != last:
            name = "log_within_hours"
            params["hour_last"] = last
        statement = sql(name).replace(":condition", condition)
        found += [seq for (seq,) in asking.rows(statement, params)]
        if len(found) >= wanted:
            break
    return found


def _models(asking: Asking) -> list[str | None]:
    """Each that is there: a step in the index each. None: of those that name none."""
    models: list[str | None] = [None]
    last: str | int = BEFORE_ALL
    while (found := asking.rows(sql("log_next_model"), {"model": last})[0][0]) is not None:
        models.append(found)
        last = found
    return models


def _windows(
    asking: Asking, selection: Selection, models: Sequence[str | None]
) -> Iterator[Window]:
    """From the newest result to the oldest, as far as the selection goes."""

    def ends(name: str) -> list[int]:
        return [row[0] for model in models for row in asking.rows(sql(name), {"model": model})]

    first, last = ends("log_first_of_model"), ends("log_last_of_model")
    if not first:
        return
    start, end = min(first), max(last) + 1
    if selection.since is not None:
        start = max(start, selection.since)
    if selection.until is not None:
        end = min(end, selection.until)
    length = FIRST_MS
    while end > start:
        begin = max(start, end - length)
        hour = (end - 1) // HOUR_MS * HOUR_MS
        if begin < hour < end - 1 and length < HOUR_MS:  # one hour is one place in the index
            begin = hour
        yield Window(begin, end)
        end, length = begin, length * GROWTH
