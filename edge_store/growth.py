"""What each day's results take of the file, and when its disk is full. Reads only."""

import time

from edge_store.query import QueryResult
from edge_store.result import Record
from edge_store.selection import Selection
from edge_store.sqlite import Connection
from edge_store.stats import DAY_MS, Asking, one_view

__all__ = ["Disk", "Forecast", "disk_by_day", "forecast"]

ROW_BYTES = 1000  # of a result without its texts: its row, and its entries in the indexes
RECENT_DAYS = 7
SEQS_AT_ONCE = 16_384  # SQLite groups so many in 5 MB


class Disk(Record, frozen=True, kw_only=True):
    """What the results of each day take of the file: day, requests, bytes. ``recent_bytes``: of
    those since ``recent_at``, or since the first, which was at ``first_at``.
    """

    result: QueryResult
    file_bytes: int
    free_bytes: int  # within the file
    recent_bytes: float
    recent_at: int
    first_at: int | None
    has_retention: bool  # something was deleted since then because it was old


class Forecast(Record, frozen=True, kw_only=True):
    """When there is no more room, if nothing changes; or why that is not known."""

    bytes_per_day: float | None
    room_bytes: int | None
    full_in_days: float | None
    message: str


def disk_by_day(connection: Connection, now: int, *, timeout_s: float) -> Disk:
    """What each day's results take of the file: its used pages, shared out by the sizes of texts
    and bodies. ``now``: UTC ms.

    Raises:
        QueryRefused: it takes too long.
    """
    asking = Asking(connection, Selection(), None, time.monotonic() + timeout_s, timeout_s)
    recent_at = now - RECENT_DAYS * DAY_MS
    with one_view(connection):
        days = _days(asking, recent_at)
        ((file_bytes, free_bytes),) = asking.rows("stats_file_bytes")
        ((deleted,),) = asking.rows("stats_recent_deletions", recent=recent_at)
    weight = sum(row[2] for row in days)
    share = (file_bytes - free_bytes) / weight if weight else 0.0
    return Disk(
        result=QueryResult(
            columns=("day", "requests", "bytes"),
            rows=[(row[0], row[1], round(row[2] * share)) for row in days],
            is_cut=False,
        ),
        file_bytes=file_bytes,
        free_bytes=free_bytes,
        recent_bytes=sum(row[3] for row in days) * share,
        recent_at=recent_at,
        first_at=min((row[4] for row in days), default=None),
        has_retention=bool(deleted),
    )


def _days(asking: Asking, recent_at: int) -> list[tuple[str, int, int, int, int]]:
    """Day, requests, bytes, those since ``recent_at``, the first time; in order."""
    ((until,),) = asking.rows("select_last_seq")
    found: dict[str, tuple[int, int, int, int]] = {}
    for after in range(0, until, SEQS_AT_ONCE):
        span = {"after": after, "upto": after + SEQS_AT_ONCE}
        more = {**span, "recent": recent_at, "row_bytes": ROW_BYTES}
        for day, requests, weight, recent, first_at in asking.rows("stats_bytes_by_day", **more):
            before = found.get(day, (0, 0, 0, first_at))
            found[day] = (
                before[0] + requests, before[1] + weight, before[2] + (recent or 0),
                min(before[3], first_at),
            )  # fmt: skip
    return [(day, *found[day]) for day in sorted(found)]


def forecast(disk: Disk, now: int, room_bytes: int | None) -> Forecast:
    """``room_bytes``: free on the disk less the reserve; None where the file is a copy, which does
    not grow.
    """
    if room_bytes is None:
        return _unknown("the file is a copy: it does not grow")
    room = max(0, room_bytes) + disk.free_bytes
    if disk.first_at is None:
        return _unknown("there are no results yet", room)
    span_ms = now - max(disk.first_at, disk.recent_at)
    if span_ms < DAY_MS:
        return _unknown("there is less than a day of results yet", room)
    per_day = disk.recent_bytes / (span_ms / DAY_MS)
    if disk.has_retention:
        why = "retention deletes what is old, so the file does not grow by what comes"
        return _unknown(why, room, per_day)
    if per_day <= 0:
        return _unknown(f"nothing came within {RECENT_DAYS} days", room, per_day)
    days = room / per_day
    return Forecast(
        bytes_per_day=per_day,
        room_bytes=room,
        full_in_days=days,
        message=f"full in {days:.0f} days" if days >= 2 else f"full in {days * 24:.0f} hours",
    )


def _unknown(why: str, room: int | None = None, per_day: float | None = None) -> Forecast:
    return Forecast(
        bytes_per_day=per_day, room_bytes=room, full_in_days=None, message=f"not known: {why}"
    )
