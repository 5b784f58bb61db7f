"""What `edge-store logs` and `stats` take over many results, and how soon `logs tail` shows one.

Questions are asked in this process, of a warm file: the start of the command is not in them. The
delay is from the end of a COMMIT to the follower's handing on of its row, while a writer commits
at a steady rate; the follower is the command's own, in a thread beside it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from edge_store.bench.figures import Figure, at_most, median, percentile
from edge_store.bench.history import FIRST_AT, LAST_AT, MODELS, History
from edge_store.growth import disk_by_day
from edge_store.logs.follow import Follower
from edge_store.logs.newest import newest
from edge_store.result import Status
from edge_store.selection import Selection
from edge_store.sqlite import Connection, open_reader
from edge_store.stats import By, stats

__all__ = ["bench_logs"]

LS_MS_MAX = 50.0
DELAY_MS_MAX = 1000.0
TIMES, SCANS = 11, 3
SHOWN = 20
HOUR_MS = 3_600_000
PER_S = 300
ROWS_PER_COMMIT = 3
TIMEOUT_S = 600.0


async def bench_logs(
    folder: Path, *, rows: int, seconds: float, say: Callable[[str], None]
) -> list[Figure]:
    """``rows`` results are asked; for so many ``seconds`` a writer is followed."""
    return await asyncio.to_thread(_bench, folder, rows, seconds, say)


def _bench(folder: Path, rows: int, seconds: float, say: Callable[[str], None]) -> list[Figure]:
    with closing(History(folder / "large.db", rows)) as history:
        history.grow(rows, say)
        with closing(open_reader(history.path)) as reader:
            figures = [*_listings(reader), *_sums(reader)]
        return figures + _delays(history, seconds)


def _listings(reader: Connection) -> list[Figure]:
    middle = FIRST_AT + (LAST_AT - FIRST_AT) // 2
    figures = []
    for name, selection in (
        ("newest 20", Selection()),
        ("newest 20 that failed", Selection(status=Status.FAILED)),
        ("newest 20 of a model", Selection(model=MODELS[-1])),
        ("newest 20 of an hour long ago", Selection(since=middle, until=middle + HOUR_MS)),
        ("newest 20 before a time long ago", Selection(until=middle)),
    ):
        wall, cpu = _timed(partial(newest, reader, selection, SHOWN), TIMES)
        figures += [at_most(name, wall, LS_MS_MAX, "ms"), _cpu(name, cpu)]
    for name, selection in (  # what is nowhere is looked for in all of it
        ("none of a latency, in the whole index", Selection(latency_min_ms=5000.0)),
        ("none of a user, in all rows", Selection(user="nobody")),
    ):
        ask = partial(newest, reader, selection, SHOWN, timeout_s=TIMEOUT_S)
        wall, cpu = _timed(ask, SCANS)
        figures += [Figure(name=name, value=wall, unit="ms"), _cpu(name, cpu)]
    return figures


def _sums(reader: Connection) -> list[Figure]:
    figures = []
    hour = Selection(since=LAST_AT - HOUR_MS)
    for name, asked in (
        ("stats of all", lambda: stats(reader, Selection(), None, timeout_s=TIMEOUT_S)),
        ("stats by model", lambda: stats(reader, Selection(), By.MODEL, timeout_s=TIMEOUT_S)),
        ("stats by day", lambda: stats(reader, Selection(), By.DAY, timeout_s=TIMEOUT_S)),
        ("stats of the newest hour", lambda: stats(reader, hour, By.MODEL, timeout_s=TIMEOUT_S)),
        ("stats --disk", lambda: disk_by_day(reader, LAST_AT, timeout_s=TIMEOUT_S)),
    ):
        wall, cpu = _timed(asked, SCANS)
        figures += [Figure(name=name, value=wall, unit="ms"), _cpu(name, cpu)]
    return figures


def _cpu(name: str, value: float) -> Figure:
    return Figure(name=f"{name}, CPU", value=value, unit="ms")


def _timed(ask: Callable[[], Any], times: int) -> tuple[float, float]:
    """Medians of wall and CPU milliseconds; the first time warms it up."""
    walls, cpus = [], []
    for _ in range(times + 1):
        started, cpu = time.perf_counter(), time.thread_time()
        ask()
        walls.append((time.perf_counter() - started) * 1e3)
        cpus.append((time.thread_time() - cpu) * 1e3)
    return median(walls[1:]), median(cpus[1:])


def _delays(history: History, seconds: float) -> list[Figure]:
    committed: dict[int, float] = {}
    shown: dict[int, float] = {}
    repeated: list[int] = []
    leaving = threading.Event()
    follower = Follower(history.path, Selection())
    first = history.rows + 1

    def follow() -> None:
        for rows in follower.looks():
            now = time.monotonic()
            for row in rows:
                seq = _seq(row)
                if seq in shown:
                    repeated.append(seq)
                shown[seq] = now
            if leaving.is_set() and not rows:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    spent = time.process_time()
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        done = history.rows + 1 - first
        if done < elapsed * PER_S:
            history.commit(ROWS_PER_COMMIT)
            now = time.monotonic()
            committed |= dict.fromkeys(range(first + done, history.rows + 1), now)
        else:
            time.sleep(ROWS_PER_COMMIT / PER_S / 2)
    leaving.set()
    thread.join()
    cores = (time.process_time() - spent) / (time.monotonic() - started)
    waits = [(shown[seq] - at) * 1e3 for seq, at in committed.items() if seq in shown]
    lost = len(committed) - len(waits)
    return [
        Figure(name="tail: rows a second committed", value=len(committed) / seconds, unit="1/s"),
        at_most("tail: rows not shown, or shown twice", lost + len(repeated), 0, "rows"),
        Figure(name="tail: delay p50", value=percentile(waits, 0.5), unit="ms"),
        at_most("tail: delay p95", percentile(waits, 0.95), DELAY_MS_MAX, "ms"),
        Figure(name="tail: CPU of writer and follower", value=cores, unit="cores"),
    ]


def _seq(row: Sequence[Any]) -> int:
    return int(row[0])
