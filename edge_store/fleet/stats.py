"""What a fleet did, in one row per box, model, day or tenant: requests, tokens, times, JSON, gaps.

Requests and JSON are those of the lake with what the copies have beyond it, or of the copies. What
is missing is told by the copies alone, per box or day: a request that left no row has no model.
"""

import time
from enum import StrEnum
from typing import Any

from edge_store.errors import NotFound
from edge_store.fleet.centre import Centre
from edge_store.fleet.query import FleetAnswer, Unread
from edge_store.query import QueryResult
from edge_store.result import Record
from edge_store.sql import sql_of

__all__ = ["By", "FleetStats", "fleet_stats"]

GROUPS_MAX = 1_000_000
SHARES = 1_000_000  # of a hundred percent: cut, not rounded, as in a box's `completeness`
COUNTS = ("json_asked", "json_valid", "json_repaired")
GAPS = ("admitted", "missing", "complete_percent")


class By(StrEnum):
    """What a row is of."""

    DEVICE = "device"
    MODEL = "model"
    DAY = "day"
    TENANT = "tenant"


class FleetStats(Record, frozen=True, kw_only=True):
    """The rows, and the copies that are missing from them."""

    result: QueryResult
    unread: tuple[Unread, ...]
    absent_lake: str | None = None  # as a FleetAnswer has it


def fleet_stats(centre: Centre, by: By | None, since_ms: int, *, timeout_s: float) -> FleetStats:
    """Everything since then; of completeness by box, everything. ``timeout_s``: of all of it.

    Raises:
        QueryRefused: it takes too long or too much.
        NotFound: there are neither copies nor a lake.
    """
    deadline = time.monotonic() + timeout_s
    params = {"by": by, "since": since_ms}
    copies = Centre(folder=centre.folder)

    def ask(whom: Centre, name: str) -> FleetAnswer:
        return whom.ask(
            lambda is_lake: sql_of("lake" if is_lake else "copies", name),
            params,
            rows_max=GROUPS_MAX,
            timeout_s=max(deadline - time.monotonic(), 0.001),
        )

    use, json = ask(centre, "stats_use"), ask(centre, "stats_json")
    found, gaps = {*use.unread, *json.unread}, dict[Any, tuple[Any, ...]]()
    if by in (None, By.DEVICE, By.DAY):
        name = "stats_completeness_of_days" if by is By.DAY else "stats_completeness"
        try:
            told = ask(copies, name)
        except NotFound:  # a lake alone
            pass
        else:
            found |= {*told.unread}
            gaps = {key: _gap(*counts) for key, *counts in told.result.rows if counts[0]}
    asked = {key: tuple(counts) for key, *counts in json.result.rows}
    used = {key: tuple(counts) for key, *counts in use.result.rows}
    columns = use.result.columns[1:]
    keys = sorted({*used, *gaps}, key=lambda key: (key is not None, key))
    nothing = (0, 0, *[None] * (len(columns) - 2))
    rows = [
        (key, *used.get(key, nothing), *asked.get(key, (0, 0, 0)), *gaps.get(key, (None,) * 3))
        for key in keys
    ]
    names = (by or "fleet", *columns, *COUNTS, *GAPS)
    if by is None:
        rows = [row[1:] for row in rows]
        names = names[1:]
    unread = tuple(sorted(found, key=lambda each: each.path))
    result = QueryResult(columns=names, rows=rows, is_cut=use.result.is_cut)
    return FleetStats(result=result, unread=unread, absent_lake=use.absent_lake)


def _gap(admitted: int, in_flight: int, missing: int) -> tuple[int, int, float]:
    """Admitted requests, those without an outcome, and the share of the others."""
    ended = admitted - in_flight
    share = SHARES * (ended - missing) // ended if ended else SHARES
    return admitted, missing, share / (SHARES / 100)
