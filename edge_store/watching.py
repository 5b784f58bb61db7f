"""Looks again and again at what the daemon knows of itself, and raises and resolves its alarms.

Each ``Watch`` judges one condition from plain values, so that what it decides depends on nothing
else; ``watching`` reads the values. What only other rooms can see (a replica that stands still, a
failed drill) they raise themselves. Runs on the event loop, with a connection of its own to read.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edge_store.alerts import AlarmName, Alarms
from edge_store.clock import now_ms
from edge_store.config import AlertsSection
from edge_store.engine import Engine
from edge_store.errors import StoreError
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.queue.room import Queue
from edge_store.recorder.app import Recorder
from edge_store.recorder.disk import Disk, DiskLevel
from edge_store.replica.status import Cause, ReplicaStatus
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader, translated

__all__ = [
    "CompletenessWatch",
    "DiskWatch",
    "EngineWatch",
    "FailureWatch",
    "LossWatch",
    "QueueWatch",
    "ReplicaWatch",
    "Watched",
    "count_outcomes",
    "oldest_queued",
    "select_missing",
    "watching",
]

log = get_logger(__name__)

LOOK_EVERY_S = 5.0
READ_EVERY_S = 10.0  # from the database
COUNT_EVERY_S = 3600.0  # the newest boots
ENGINE_TIMEOUT_S = 2.0
ENGINE_LOOKS = 3  # in a row that find it not ready
FAILURE_WINDOW_S, FAILURE_REQUESTS_MIN = 300.0, 20
LOSSES_FOR_S = 3600.0  # after the last one
BOOTS = 10
BOOTS_SINCE_MS = 24 * 3600 * 1000
REPLICA_ALARMS = (
    AlarmName.REPLICA_TAKEN,
    AlarmName.REPLICA_BEHIND,
    AlarmName.REPLICA_STALLED,
    AlarmName.REPLICA_BROKEN,
    AlarmName.REPLICA_PAUSED,
    AlarmName.FOREIGN_WRITER,
    AlarmName.DRILL_FAILED,
)


class Watched(NamedTuple):
    """What is looked at. ``loaded`` is done once the engine has come up."""

    path: Path
    loaded: asyncio.Future[None]
    engine: Engine
    disk: Disk
    recorder: Recorder
    metrics: Metrics
    replica: Any
    queue: Queue


class EngineWatch:
    """One slow answer is no death."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._missed = 0

    def judge(self, *, is_ready: bool) -> None:
        self._missed = 0 if is_ready else self._missed + 1
        if is_ready:
            self._alarms.resolve(AlarmName.ENGINE_DOWN)
        elif self._missed >= ENGINE_LOOKS:
            self._alarms.raise_(AlarmName.ENGINE_DOWN, "It does not say that it is ready.")


class DiskWatch:
    """As soon as something is given up for want of room."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms

    def judge(self, free_bytes: int, level: DiskLevel) -> None:
        if level is DiskLevel.OK:
            self._alarms.resolve(AlarmName.DISK_LOW)
            return
        self._alarms.raise_(
            AlarmName.DISK_LOW,
            f"{free_bytes} bytes are free; given up: {level.name.lower().replace('_', ' ')}.",
            free_bytes=free_bytes,
            level=level.value,
        )


class FailureWatch:
    """The share of failures in a sliding window."""

    def __init__(self, alarms: Alarms, config: AlertsSection) -> None:
        self._alarms = alarms
        self._share = config.failed_share
        self._counts: deque[tuple[float, int, int]] = deque()  # when, requests, failed ones

    def judge(self, requests: int, failed: int, now_s: float) -> None:
        """So many have ended since the last call."""
        self._counts.append((now_s, requests, failed))
        while self._counts[0][0] <= now_s - FAILURE_WINDOW_S:
            self._counts.popleft()
        requests = sum(each[1] for each in self._counts)
        failed = sum(each[2] for each in self._counts)
        if failed <= self._share * requests:
            self._alarms.resolve(AlarmName.REQUESTS_FAILING)
        elif requests >= FAILURE_REQUESTS_MIN:
            self._alarms.raise_(
                AlarmName.REQUESTS_FAILING,
                f"{failed} of {requests} requests failed in the last {FAILURE_WINDOW_S:g} s.",
                requests=requests,
                failed=failed,
            )


class QueueWatch:
    """The age of what has waited longest."""

    def __init__(self, alarms: Alarms, config: AlertsSection) -> None:
        self._alarms = alarms
        self._age_s = config.queue_age_s

    def judge(self, oldest_at: int | None, now: int, *, is_paused: bool) -> None:
        age_s = 0.0 if oldest_at is None else (now - oldest_at) / 1000
        if age_s <= self._age_s:
            self._alarms.resolve(AlarmName.QUEUE_OLD)
            return
        why = "; the queue is paused" if is_paused else ""
        self._alarms.raise_(
            AlarmName.QUEUE_OLD,
            f"The oldest has waited for {age_s / 3600:.1f} h{why}.",
            age_s=round(age_s),
            is_paused=is_paused,
        )


class CompletenessWatch:
    """Of the boots that ended within a day."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms

    def judge(self, missing: list[tuple[int, int, int]]) -> None:
        """``missing``: boot_no, what it admitted, how much of that is in no row."""
        if not missing:
            self._alarms.resolve(AlarmName.INCOMPLETE)
            return
        boot_no, admitted, count = missing[0]
        self._alarms.raise_(
            AlarmName.INCOMPLETE,
            f"Boot {boot_no} admitted {admitted}, and {count} of them are in no row: "
            "`edge-store ledger` shows all.",
            boots=len(missing),
            missing=sum(each[2] for each in missing),
        )


class LossWatch:
    """A loss is over at once: its alarm stands for a while."""

    def __init__(self, alarms: Alarms, now_s: float) -> None:
        self._alarms = alarms
        self._lost, self._last_s = 0, now_s

    def judge(self, lost: int, now_s: float) -> None:
        """So many were lost since the start."""
        if lost > self._lost:
            self._lost, self._last_s = lost, now_s
            self._alarms.raise_(
                AlarmName.RESULTS_LOST, f"{lost} since the start of the daemon.", lost=lost
            )
        elif now_s - self._last_s >= LOSSES_FOR_S:
            self._alarms.resolve(AlarmName.RESULTS_LOST)


class ReplicaWatch:
    """Whose it is, and how far behind."""

    def __init__(self, alarms: Alarms, config: AlertsSection) -> None:
        self._alarms = alarms
        self._lag_s = config.replica_lag_s

    def judge(self, status: ReplicaStatus | None) -> None:
        """None when replication is off."""
        if status is None:
            for name in REPLICA_ALARMS:
                self._alarms.resolve(name)
            return
        if status.cause is Cause.TAKEN:
            self._alarms.raise_(AlarmName.REPLICA_TAKEN, status.error or "")
        elif status.cause in {None, Cause.BEHIND}:
            self._alarms.resolve(AlarmName.REPLICA_TAKEN)
        if status.lag_s <= self._lag_s:
            self._alarms.resolve(AlarmName.REPLICA_BEHIND)
            return
        error = f": {status.error}" if status.error else ""
        self._alarms.raise_(
            AlarmName.REPLICA_BEHIND,
            f"It is {status.lag_s / 3600:.1f} h behind, and {status.state.value}{error}.",
            lag_s=round(status.lag_s),
            state=status.state.value,
            cause=status.cause.value if status.cause else None,
        )


def oldest_queued(connection: Connection) -> int | None:
    """When the oldest queued request or open batch came (UTC ms)."""
    with translated("the queue cannot be read"):
        (at,) = connection.execute(sql("select_oldest_queued")).fetchone()
    return at if isinstance(at, int) else None


def count_outcomes(connection: Connection, after: int, upto: int) -> tuple[int, int]:
    """Results after one ``seq`` up to another, and how many failed by no fault of the caller's."""
    with translated("the results cannot be read"):
        row = connection.execute(sql("count_outcomes"), {"after": after, "upto": upto}).fetchone()
    return int(row[0]), int(row[1])


def select_missing(connection: Connection, now: int) -> list[tuple[int, int, int]]:
    """The newest boots that ended within a day and have not all that they admitted: boot_no, what
    was admitted, how much is missing; the newest first.
    """
    with translated("the boots cannot be read"):
        return connection.execute(
            sql("select_missing"), {"limit": BOOTS, "since": now - BOOTS_SINCE_MS}
        ).fetchall()


class Watcher:
    """Reads what the watches judge."""

    def __init__(self, alarms: Alarms, config: AlertsSection, rooms: Watched) -> None:
        self._rooms = rooms
        self._engine = EngineWatch(alarms)
        self._disk = DiskWatch(alarms)
        self._failures = FailureWatch(alarms, config)
        self._queue = QueueWatch(alarms, config)
        self._boots = CompletenessWatch(alarms)
        self._losses = LossWatch(alarms, time.monotonic())
        self._replica = ReplicaWatch(alarms, config)
        self._seq = rooms.recorder.commits.seq

    async def look(self) -> None:
        """At what is in memory."""
        rooms = self._rooms
        if rooms.loaded.done():
            is_ready = False
            with suppress(TimeoutError):
                async with asyncio.timeout(ENGINE_TIMEOUT_S):
                    is_ready = await rooms.engine.is_ready()
            self._engine.judge(is_ready=is_ready)
        self._disk.judge(*rooms.disk.measure())
        self._losses.judge(rooms.metrics.lost_count(), time.monotonic())
        self._replica.judge(rooms.replica.status if rooms.replica else None)

    async def read(self, reader: DatabaseThread) -> None:
        """The queue, and the newest results."""
        oldest_at = await reader.run(oldest_queued)
        self._queue.judge(oldest_at, now_ms(), is_paused=self._rooms.queue.runner.is_paused)
        upto = self._rooms.recorder.commits.seq
        counts = await reader.run(count_outcomes, self._seq, upto)
        self._seq = upto
        self._failures.judge(*counts, time.monotonic())

    async def count(self, reader: DatabaseThread) -> None:
        """What the newest boots lack."""
        self._boots.judge(await reader.run(select_missing, now_ms()))


@asynccontextmanager
async def watching(alarms: Alarms, config: AlertsSection, rooms: Watched) -> AsyncIterator[None]:
    """Alarms are raised and resolved meanwhile. The file has been examined: it is sound."""
    alarms.resolve(AlarmName.CHAIN_BROKEN)
    reader = await DatabaseThread.open(partial(open_reader, rooms.path))
    watcher = Watcher(alarms, config, rooms)
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [
                tasks.create_task(_again(work, pause_s))
                for work, pause_s in (
                    (watcher.look, LOOK_EVERY_S),
                    (partial(watcher.read, reader), READ_EVERY_S),
                    (partial(watcher.count, reader), COUNT_EVERY_S),
                )
            ]
            try:
                yield
            finally:
                for task in started:
                    task.cancel()
    finally:
        await reader.close()


async def _again(work: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """A look that fails is made again: nothing that is only watched ends the daemon."""
    while True:
        try:
            await work()
        except StoreError as exc:
            log.warning("alarms_not_read", code=exc.code, error=str(exc))
        except Exception:
            log.exception("alarms_not_read")
        await asyncio.sleep(pause_s)
