"""What a box did, in one row per model, hour, day, tenant or status.

Columns of the same name mean what they mean of a fleet (fleet/stats.py). Percentiles are exact, by
nearest rank (ranks.py). Nothing is grouped or sorted by SQLite, which would hold all of it: rows
are counted as they come, those of hours and days day by day. What is missing is told of the box
and of days alone, where nothing but a time is selected: a request that left no row has neither
model nor status. Reads only.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from edge_store.errors import QueryRefused
from edge_store.lock import LastBoot
from edge_store.query import QueryResult
from edge_store.ranks import PERCENTILES, Ranks
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = ["DAY_MS", "Asking", "By", "counts_by", "one_view", "stats"]

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DAY_HOURS = 24
ALL_HOURS = (-(2**62), 2**62)
STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
SHARES = 1_000_000  # of a hundred percent: cut, not rounded, as in a box's `completeness`
ROWS_AT_ONCE = 4096
COUNTS = (
    "requests", "completed", "input_tokens", "output_tokens", "cached_tokens",
)  # fmt: skip
MEASURES = ("latency_ms", "ttft_ms", "queue_ms")
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


class Asking(NamedTuple):
    """Who is asked, for what, and until when."""

    connection: Connection
    selection: Selection
    by: By | None
    ends_at: float
    timeout_s: float

    @property
    def hours(self) -> tuple[int, int]:
        """The first and the last that are chosen."""
        chosen = self.selection
        return (
            ALL_HOURS[0] if chosen.since is None else chosen.since // HOUR_MS,
            ALL_HOURS[1] if chosen.until is None else (chosen.until - 1) // HOUR_MS,
        )

    def rows(self, name: str, **more: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a block of stats.sql, one by one.

        Raises:
            QueryRefused: the time is over.
        """
        chosen = self.selection
        statement = sql(name).replace(":condition", chosen.condition)
        first, last = self.hours
        hours = {"hour_first": first, "hour_last": last}
        times = {"since": chosen.since, "until": chosen.until}
        params = {**times, **chosen.values, "by": self.by, **hours, **more}
        with self._bounded():
            yield from self.connection.execute(statement, params)

    def _over(self) -> QueryRefused:
        what = f"it took longer than {self.timeout_s:g} s"
        return QueryRefused(what, hint="narrow it by --since, or raise --timeout")

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        if time.monotonic() > self.ends_at:  # a short statement is not interrupted
            raise self._over()
        self.connection.set_progress_handler(
            lambda: time.monotonic() > self.ends_at, STEPS_BETWEEN_CHECKS
        )
        try:
            with translated("the results cannot be counted"):
                yield
        except Exception as exc:
            if getattr(exc.__cause__, "sqlite_errorcode", None) != driver.SQLITE_INTERRUPT:
                raise
            raise self._over() from exc
        finally:
            self.connection.set_progress_handler(None, 0)


def stats(
    connection: Connection,
    selection: Selection,
    by: By | None,
    *,
    timeout_s: float,
    last_boot: Callable[[], LastBoot] = lambda: LastBoot.GOES_ON,
) -> QueryResult:
    """A row for each ``by``, in its order; without it, one row. ``last_boot``: what is known of a
    newest boot without an end: of one that was cut, what it had in flight is missing; in a copy
    that is unknown, and so is ``complete_percent``. Asked while reading.

    Raises:
        QueryRefused: it takes too long.
    """
    asking = Asking(connection, selection, by, time.monotonic() + timeout_s, timeout_s)
    with one_view(connection):
        models = _models(asking)
        used: dict[Any, Used] = {}
        for hours in _slices(asking, models):
            used |= _used(asking, models, hours)
        states: dict[Any, Counter[str]] = defaultdict(Counter)
        for key, state in asking.rows("stats_json_states", models=models):
            states[key][state] += 1
        asked = {key: _asked(counts) for key, counts in states.items()}
        gaps = _gaps(asking, last_boot)
    keys = sorted({*used, *gaps}, key=lambda key: (key is not None, key))
    nothing = (0, 0, *[None] * (len(COUNTS) - 2), *NONE * len(MEASURES))
    rows = [
        (
            key,
            *used.get(key, nothing),
            *asked.get(key, (0, 0, 0)),
            *gaps.get(key, (None,) * len(GAPS)),
        )
        for key in keys
    ]
    marks = tuple(f"{measure}_p{share}" for measure in MEASURES for share in PERCENTILES)
    columns = (*COUNTS, *marks, *JSON, *GAPS)
    if by is None:
        one = rows[0][1:] if rows else (*nothing, 0, 0, 0, *NONE)
        return QueryResult(columns=columns, rows=[one], is_cut=False)
    return QueryResult(columns=(by.value, *columns), rows=rows, is_cut=False)


@contextmanager
def one_view(connection: Connection) -> Iterator[None]:
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
    keys = asking.rows("stats_keys", models=_models(asking))
    counts = Counter(key for (key,) in keys)
    return sorted(counts.items(), key=lambda each: (each[0] is not None, each[0]))


def _models(asking: Asking) -> str:
    """Those that may be chosen, as JSON."""
    chosen = asking.selection.model
    found = [chosen] if chosen is not None else [name for (name,) in asking.rows("stats_models")]
    return msgspec.json.encode(found).decode()


def _slices(asking: Asking, models: str) -> Iterator[dict[str, int]]:
    """Hours that are looked at by themselves: where keys are times, each day that has results."""
    if asking.by not in (By.HOUR, By.DAY):
        yield {}
        return
    first, last = asking.hours
    while True:
        span = {"hour_first": first, "hour_last": last}
        ((hour,),) = asking.rows("stats_next_hour", models=models, **span)
        if hour is None:
            return
        end = min(last, hour // DAY_HOURS * DAY_HOURS + DAY_HOURS - 1)
        yield {"hour_first": hour, "hour_last": end}
        first = end + 1


Used = tuple[Any, ...]  # COUNTS, and the percentiles of each of MEASURES


class Tally:
    """Of one key: its counts, and its times."""

    def __init__(self) -> None:
        self.requests = self.completed = 0
        self.tokens: list[int | None] = [None] * (len(COUNTS) - 2)
        self.ranks = tuple(Ranks() for _ in MEASURES)

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of ``stats_results``."""
        _key, *columns = zip(*rows, strict=True)
        times, (completed, *tokens) = columns[: len(MEASURES)], columns[len(MEASURES) :]
        for ranks, values in zip(self.ranks, times, strict=True):
            ranks.count(_known(values))
        self.requests += len(rows)
        self.completed += sum(completed)
        for place, values in enumerate(tokens):
            if known := _known(values):
                self.tokens[place] = (self.tokens[place] or 0) + sum(known)

    def keep(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of ``stats_times``."""
        _key, *times = zip(*rows, strict=True)
        for ranks, values in zip(self.ranks, times, strict=True):
            ranks.keep(_known(values))

    @property
    def used(self) -> Used:
        """All of it."""
        times = (value for ranks in self.ranks for value in ranks.percentiles())
        return (self.requests, self.completed, *self.tokens, *times)


def _used(asking: Asking, models: str, hours: dict[str, int]) -> dict[Any, Used]:
    """Of each key that is in these hours."""
    found: dict[Any, Tally] = defaultdict(Tally)
    for key, rows in _by_key(asking.rows("stats_results", models=models, **hours)):
        found[key].add(rows)
    ranges = _ranges(list(found.values()))
    for key, rows in _by_key(asking.rows("stats_times", models=models, **hours, **ranges)):
        found[key].keep(rows)
    return {key: tally.used for key, tally in found.items()}


def _ranges(tallies: Sequence[Tally]) -> dict[str, float]:
    """Parameters of ``stats_times``: what holds each percentile of every key, else nothing."""
    params = {}
    for place, measure in enumerate(MEASURES):
        each = [ranges for tally in tallies if (ranges := tally.ranks[place].ranges())]
        for n in range(len(PERCENTILES)):
            params[f"{measure}_low_{n}"] = min((ranges[n][0] for ranges in each), default=1.0)
            params[f"{measure}_high_{n}"] = max((ranges[n][1] for ranges in each), default=0.0)
    return params


def _by_key(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, list[tuple[Any, ...]]]]:
    """Some rows of a key at a time."""
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        keys: dict[Any, list[tuple[Any, ...]]] = defaultdict(list)
        for row in batch:
            keys[row[0]].append(row)
        yield from keys.items()


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _asked(states: Counter[str]) -> tuple[int, int, int]:
    """As ``JSON`` names them."""
    del states["text"]
    return states.total(), states["valid"], states["extracted"] + states["repaired"]


def _gaps(asking: Asking, last_boot: Callable[[], LastBoot]) -> dict[Any, tuple[Any, ...]]:
    chosen = set(asking.selection.values)
    if asking.by is None and not chosen:
        name = "stats_complete"
    elif asking.by is By.DAY and chosen <= {"since", "until"}:
        name = "stats_complete_by_day"
    else:
        return {}
    last = last_boot()
    return {
        key: _gap(admitted, in_flight, missing, last)
        for key, admitted, in_flight, missing in asking.rows(name)
        if admitted
    }


def _gap(
    admitted: int, in_flight: int, missing: int, last: LastBoot
) -> tuple[int, int, float | None]:
    """Admitted requests, those without an outcome, and the share of the others, if it is known."""
    if last is LastBoot.CUT:
        in_flight, missing = 0, missing + in_flight
    elif last is LastBoot.COPIED and in_flight:
        return admitted, missing, None
    ended = admitted - in_flight
    share = SHARES * (ended - missing) // ended if ended else SHARES
    return admitted, missing, share / (SHARES / 100)
