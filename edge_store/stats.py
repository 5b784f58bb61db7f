"""What a box did, in one row per model, hour, day, tenant or status; and when its disk is full.

Columns of the same name mean what they mean of a fleet (fleet/stats.py). Percentiles are exact, by
nearest rank: SQLite sorts, in files where it is much, and this picks. What is missing is told of
the box and of days alone, where nothing but a time is selected: a request that left no row has
neither model nor status. Reads only.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from edge_store.errors import QueryRefused
from edge_store.query import QueryResult
from edge_store.result import Record
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = ["By", "Disk", "Forecast", "counts_by", "disk_by_day", "forecast", "stats"]

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ALL_HOURS = (-(2**62), 2**62)
STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
PERCENTILES = (50, 95, 99)
SHARES = 1_000_000  # of a hundred percent: cut, not rounded, as in a box's `completeness`
ROW_BYTES = 1000  # of a result without its texts: its row, and its entries in the indexes
RECENT_DAYS = 7
COUNTS = (
    "requests", "completed", "input_tokens", "output_tokens", "cached_tokens",
)  # fmt: skip
MEASURES = {"latency_ms": 0, "ttft_ms": -1, "queue_ms": 0}  # -> the place of their count
JSON = ("json_asked", "json_valid", "json_repaired")
GAPS = ("admitted", "missing", "complete_percent")
NONE = (None,) * len(PERCENTILES)


class By(StrEnum):
    """What a row is of."""

    MODEL = "model"
    HOUR = "hour"
    DAY = "day"
    TENANT = "tenant"
    STATUS = "status"


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


class Asking(NamedTuple):
    """Who is asked, for what, and until when."""

    connection: Connection
    selection: Selection
    by: By | None
    ends_at: float
    timeout_s: float

    def rows(self, name: str, **more: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a block of stats.sql, one by one.

        Raises:
            QueryRefused: the time is over.
        """
        chosen = self.selection
        statement = sql(name).replace(":condition", chosen.condition)
        hours = {
            "hour_first": ALL_HOURS[0] if chosen.since is None else chosen.since // HOUR_MS,
            "hour_last": ALL_HOURS[1] if chosen.until is None else (chosen.until - 1) // HOUR_MS,
        }
        times = {"since": chosen.since, "until": chosen.until}
        params = {**times, **chosen.values, "by": self.by, **hours, **more}
        with self._bounded():
            yield from self.connection.execute(statement, params)

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        self.connection.set_progress_handler(
            lambda: time.monotonic() > self.ends_at, STEPS_BETWEEN_CHECKS
        )
        try:
            with translated("the results cannot be counted"):
                yield
        except Exception as exc:
            if getattr(exc.__cause__, "sqlite_errorcode", None) != driver.SQLITE_INTERRUPT:
                raise
            raise QueryRefused(
                f"it took longer than {self.timeout_s:g} s",
                hint="narrow it by --since, or raise --timeout",
            ) from exc
        finally:
            self.connection.set_progress_handler(None, 0)


def stats(
    connection: Connection, selection: Selection, by: By | None, *, timeout_s: float
) -> QueryResult:
    """A row for each ``by``, in its order; without it, one row.

    Raises:
        QueryRefused: it takes too long.
    """
    asking = Asking(connection, selection, by, time.monotonic() + timeout_s, timeout_s)
    with _one_view(connection):
        models = _models(asking)
        used = {key: tuple(counts) for key, *counts in asking.rows("stats_counts", models=models)}
        times = {
            measure: _percentiles(
                asking, models, measure, {key: row[at] for key, row in used.items()}
            )
            for measure, at in MEASURES.items()
        }
        states = asking.rows("stats_json_states", models=models)
        asked = {key: tuple(counts) for key, *counts in states}
        gaps = _gaps(asking)
    keys = sorted({*used, *gaps}, key=lambda key: (key is not None, key))
    nothing = (0, 0, *[None] * (len(COUNTS) - 2), 0)
    rows = [
        (
            key,
            *used.get(key, nothing)[:-1],
            *(value for measure in MEASURES for value in times[measure].get(key, NONE)),
            *asked.get(key, (0, 0, 0)),
            *gaps.get(key, (None,) * len(GAPS)),
        )
        for key in keys
    ]
    marks = tuple(f"{measure}_p{share}" for measure in MEASURES for share in PERCENTILES)
    columns = (*COUNTS, *marks, *JSON, *GAPS)
    if by is None:
        one = rows[0][1:] if rows else (*nothing[:-1], *NONE * len(MEASURES), 0, 0, 0, *NONE)
        return QueryResult(columns=columns, rows=[one], is_cut=False)
    return QueryResult(columns=(by.value, *columns), rows=rows, is_cut=False)


@contextmanager
def _one_view(connection: Connection) -> Iterator[None]:
    """What is committed meanwhile is in none of the answers."""
    with translated("the results cannot be read"):
        connection.execute(sql("begin_reading"))
    try:
        yield
    finally:
        with suppress(driver.Error):  # the failure may have ended it by itself
            connection.execute(sql("rollback"))


def counts_by(
    connection: Connection, selection: Selection, by: By, *, timeout_s: float
) -> list[tuple[Any, int]]:
    """Requests of each, in its order."""
    asking = Asking(connection, selection, by, time.monotonic() + timeout_s, timeout_s)
    return [(row[0], row[1]) for row in asking.rows("stats_counts", models=_models(asking))]


def _models(asking: Asking) -> str:
    """Those that may be chosen, as JSON."""
    chosen = asking.selection.model
    found = [chosen] if chosen is not None else [name for (name,) in asking.rows("stats_models")]
    return msgspec.json.encode(found).decode()


def _percentiles(
    asking: Asking, models: str, measure: str, counts: dict[Any, int]
) -> dict[Any, tuple[float | None, ...]]:
    """By nearest rank, of each key. ``counts``: how many values it has."""
    found: dict[Any, tuple[float | None, ...]] = {}
    ranks: dict[int, list[int]] = {}
    key, place = object(), 0
    values: list[float | None] = []
    for at, ms in asking.rows("stats_times", models=models, measure=measure):
        if at != key:
            key, place = at, 0
            values = [None] * len(PERCENTILES)
            ranks = {}
            for index, share in enumerate(PERCENTILES):
                ranks.setdefault(-(-share * counts.get(at, 0) // 100), []).append(index)
        place += 1
        if place in ranks:
            for index in ranks[place]:
                values[index] = ms
            found[at] = tuple(values)
    return found


def _gaps(asking: Asking) -> dict[Any, tuple[Any, ...]]:
    chosen = set(asking.selection.values)
    if asking.by is None and not chosen:
        name = "stats_complete"
    elif asking.by is By.DAY and chosen <= {"since", "until"}:
        name = "stats_complete_by_day"
    else:
        return {}
    return {key: _gap(*counts) for key, *counts in asking.rows(name) if counts[0]}


def _gap(admitted: int, in_flight: int, missing: int) -> tuple[int, int, float]:
    """Admitted requests, those without an outcome, and the share of the others."""
    ended = admitted - in_flight
    share = SHARES * (ended - missing) // ended if ended else SHARES
    return admitted, missing, share / (SHARES / 100)


def disk_by_day(connection: Connection, now: int, *, timeout_s: float) -> Disk:
    """What each day's results take of the file: its used pages, shared out by the sizes of texts
    and bodies. ``now``: UTC ms.

    Raises:
        QueryRefused: it takes too long.
    """
    asking = Asking(connection, Selection(), None, time.monotonic() + timeout_s, timeout_s)
    recent_at = now - RECENT_DAYS * DAY_MS
    days = list(asking.rows("stats_bytes_by_day", recent=recent_at, row_bytes=ROW_BYTES))
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
        recent_bytes=sum(row[3] or 0 for row in days) * share,
        recent_at=recent_at,
        first_at=min((row[4] for row in days), default=None),
        has_retention=bool(deleted),
    )


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
