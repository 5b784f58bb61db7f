"""What questions cost over a million results, and what the indexes that answer them cost a row.

A question is asked again and again of a warm file; its figure is the median of the wall times, and
the CPU time stands beside it, which other load on the machine does not lengthen. INSERTs are timed
in slices taken in turn from files that differ in one thing: their size, or their indexes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from edge_store.bench.figures import Figure, median
from edge_store.bench.history import CUSTOMERS, FIRST_AT, LAST_AT, MODELS, History
from edge_store.indexes import JsonPath, add_index
from edge_store.paging import Paging
from edge_store.recorder.caller import Caller
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader
from edge_store.stored import Wanted, page
from edge_store.wal import checkpoint, wal_bytes

__all__ = ["bench_query"]

SMALL_ROWS = 10_000
ROWS_PER_COMMIT = 64
COMMITS_PER_SLICE = 16
LOOKUP_MS_MAX = 5.0
SCAN_MS_MAX = 1000.0
JSON_MS_MAX = 50.0
PAGE_MS_MAX = 20.0
GROWTH_MAX = 1.3
LOOKUPS, SCANS = 41, 7
RANGE_MS = 600_000
PATHS = tuple(map(JsonPath.parse, ("output.customer.id", "metadata.order")))

Params = Mapping[str, Any]


class Question(NamedTuple):
    """A block of bench.sql, and parameters for each time it is asked."""

    name: str
    block: str
    params: Sequence[Params]
    bound_ms: float | None


class Cost(NamedTuple):
    """Of one row of a slice."""

    wall_us: float
    cpu_us: float
    wal_bytes: float


async def bench_query(
    folder: Path, *, rows: int, pairs: int, say: Callable[[str], None]
) -> list[Figure]:
    """``rows`` results are asked; ``pairs`` slices are written of each kind."""
    return await asyncio.to_thread(_bench, folder, rows, pairs, say)


def _bench(folder: Path, rows: int, pairs: int, say: Callable[[str], None]) -> list[Figure]:
    with ExitStack() as files:

        def made(name: str, size: int) -> History:
            history = files.enter_context(closing(History(folder / f"{name}.db", size)))
            history.grow(size, say)
            return history

        large = made("large", rows)
        reader = files.enter_context(closing(open_reader(large.path)))
        figures = _asked(reader, _questions(reader, rows))
        figures += _pages(reader, "", {}) + _pages(reader, " of a model", {"model": MODELS[-1]})
        without = _asked(reader, [_json_question("without an index", None)])
        few = min(rows, SMALL_ROWS)
        figures += _growth(made("small", few), large, pairs)
        for path in PATHS:
            add_index(large.connection, path)
        figures += [*without, *_asked(reader, [_json_question("with its index", JSON_MS_MAX)])]
        figures += _pages(reader, " with metadata that has an index", {"metadata": {"order": "7"}})
        names = ("bare", "unlisted", "shipped", "more")
        bare, unlisted, shipped, more = (made(name, few) for name in names)
        bare.connection.execute(sql("bench_drop_index"))
        unlisted.connection.execute(sql("bench_drop_stored"))
        figures += _added(bare, shipped, "results_by_model_and_hour", pairs)
        figures += _added(unlisted, shipped, "results_stored", pairs)
        for path, word in zip(PATHS, ("an", "that and an"), strict=True):
            add_index(more.connection, path)
            figures += _added(shipped, more, f"{word} index on {path}", pairs)
        return figures


def _questions(reader: Connection, rows: int) -> list[Question]:
    models = [model for (model,) in reader.execute(sql("bench_models"))]
    assert models == sorted(set(MODELS))
    spread = [n / LOOKUPS for n in range(LOOKUPS)]
    ranges = [
        {
            "model": models[n % len(models)],
            "since": _rfc3339(since := FIRST_AT + int((LAST_AT - FIRST_AT - RANGE_MS) * share)),
            "until": _rfc3339(since + RANGE_MS),
        }
        for n, share in enumerate(spread)
    ]
    by_id = [{"seq": 1 + int(share * (rows - 1))} for share in spread]
    everything: list[Params] = [{}] * SCANS
    return [
        Question("newest 50", "bench_newest", [{}] * LOOKUPS, LOOKUP_MS_MAX),
        Question("by id", "bench_by_id", by_id, LOOKUP_MS_MAX),
        Question("model and 10 minutes", "bench_model_and_time", ranges, LOOKUP_MS_MAX),
        Question("usage by hour, all", "bench_usage_by_hour", everything, SCAN_MS_MAX),
        Question("usage by day, all", "bench_usage_by_day", everything, SCAN_MS_MAX),
        Question("p95 of latency by model, all", "bench_p95", everything, SCAN_MS_MAX),
    ]


def _rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _pages(reader: Connection, when: str, filters: Mapping[str, Any]) -> list[Figure]:
    """Stored completions, page after page, as the API lists them."""
    walls, cpus = [], []
    after = None
    for turn in range(LOOKUPS + 1):
        wanted = Wanted(
            paging=Paging(limit=20, after=after, is_descending=turn % 2 == 1), **filters
        )
        started, cpu = time.perf_counter(), time.thread_time()
        shown, _has_more = page(reader, Caller(), wanted)
        walls.append((time.perf_counter() - started) * 1e3)
        cpus.append((time.thread_time() - cpu) * 1e3)
        # a small file's pages come to an end: then from the first one again
        after = shown[-1]["id"] if shown and turn % 2 == 0 else None
    wall = median(walls[1:])
    name = f"stored completions, a page of 20{when}"
    return [
        Figure(
            name=name, value=wall, unit="ms", bound=f"≤ {PAGE_MS_MAX:g}", holds=wall <= PAGE_MS_MAX
        ),
        Figure(name=f"{name}, CPU", value=median(cpus[1:]), unit="ms"),
    ]


def _json_question(name: str, bound_ms: float | None) -> Question:
    times = LOOKUPS if bound_ms is not None else 3
    values = [{"value": n * CUSTOMERS // LOOKUPS} for n in range(times)]
    return Question(f"JSON path, {name}", "bench_json", values, bound_ms)


def _asked(reader: Connection, questions: Sequence[Question]) -> list[Figure]:
    figures = []
    for name, block, params, bound_ms in questions:
        walls, cpus = [], []
        for each in [params[0], *params]:  # the first time warms it up
            started, cpu = time.perf_counter(), time.thread_time()
            _ask(reader, block, each)
            walls.append((time.perf_counter() - started) * 1e3)
            cpus.append((time.thread_time() - cpu) * 1e3)
        wall = median(walls[1:])
        figures += [
            Figure(
                name=name,
                value=wall,
                unit="ms",
                bound="" if bound_ms is None else f"≤ {bound_ms:g}",
                holds=bound_ms is None or wall <= bound_ms,
            ),
            Figure(name=f"{name}, CPU", value=median(cpus[1:]), unit="ms"),
        ]
    return figures


def _ask(reader: Connection, block: str, params: Params) -> None:
    """One question. p95 is one statement per model: SQLite has no percentile."""
    if block != "bench_p95":
        reader.execute(sql(block), params).fetchall()
        return
    for (model,) in reader.execute(sql("bench_models")).fetchall():
        assert reader.execute(sql(block), {"model": model}).fetchone() is not None


def _growth(small: History, large: History, pairs: int) -> list[Figure]:
    name = f"INSERT into {large.rows} rows ÷ into {small.rows}"
    ratios = [b.wall_us / a.wall_us for a, b in _in_turn(small, large, pairs)]
    growth = median(ratios)
    return [
        Figure(
            name=name,
            value=growth,
            unit="ratio",
            bound=f"≤ {GROWTH_MAX}",
            holds=growth <= GROWTH_MAX,
        )
    ]


def _added(without: History, having: History, what: str, pairs: int) -> list[Figure]:
    """What the second file's INSERTs cost above the first one's."""
    costs = _in_turn(without, having, pairs)
    cpu = median([b.cpu_us - a.cpu_us for a, b in costs])
    wal = median([b.wal_bytes - a.wal_bytes for a, b in costs])
    return [
        Figure(name=f"INSERT, CPU added by {what}", value=cpu, unit="µs/row"),
        Figure(name=f"INSERT, WAL added by {what}", value=wal, unit="B/row"),
    ]


def _in_turn(first: History, second: History, pairs: int) -> list[tuple[Cost, Cost]]:
    found = [(_slice(first), _slice(second)) for _ in range(pairs + 1)]
    return found[1:]  # the first pair warms both up


def _slice(history: History) -> Cost:
    """Commits of the size that 64 callers make."""
    rows = ROWS_PER_COMMIT * COMMITS_PER_SLICE
    spent = [history.commit(ROWS_PER_COMMIT) for _ in range(COMMITS_PER_SLICE)]
    written = wal_bytes(history.path)
    checkpoint(history.connection)
    wall, cpu = (sum(each) / rows * 1e6 for each in zip(*spent, strict=True))
    return Cost(wall, cpu, written / rows)
