"""What ``/readyz`` and ``/metrics`` tell of the daemon: it is read when somebody asks."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_store import __version__
from edge_store.alerts import Alarms
from edge_store.engine import Engine
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.queue.room import Queue
from edge_store.recorder.app import Recorder
from edge_store.recorder.disk import Disk
from edge_store.replica.status import Health
from edge_store.result import Boot
from edge_store.wal import wal_bytes

__all__ = ["read_health", "tell_engine", "watch"]

log = get_logger(__name__)

READY_TIMEOUT_S = 2.0


def watch(
    metrics: Metrics, path: Path, disk: Disk, recorder: Recorder, replica: Any, drills: Any
) -> None:
    """Let the gauges be read from the rooms."""
    metrics.watch("in_flight", "Slots taken", lambda: recorder.slots.in_flight)
    metrics.watch("held_bytes", "Bytes of requests and answers", lambda: recorder.slots.held_bytes)
    metrics.watch("wal_bytes", "Size of the WAL", lambda: wal_bytes(path))
    metrics.watch("disk_free_bytes", "Free space on the database's disk", disk.free_bytes)
    metrics.watch(
        "disk_level", "0 ok, 1 no search, 2 no bodies, 3 refusing", lambda: disk.level.value
    )
    if replica is not None:
        replica.follow(lambda: recorder.commits.seq)
        recorder.commits.at_each = replica.committed
        metrics.watch(
            "replica_state",
            "0 ok, 1 lagging, 2 offline, 3 stalled, 4 broken",
            lambda: replica.status.state.level,
        )
        _watch_last_look(metrics, replica)
        metrics.watch_counts(
            "replica_requests",
            "Requests to the store, Litestream's and the daemon's own",
            "verb",
            lambda: replica.ledger.since_start.requests,
        )
        metrics.watch_counts(
            "replica_bytes",
            "Bytes of objects written and read there",
            "verb",
            lambda: replica.ledger.since_start.bytes,
        )
        metrics.watch(
            "replica_lag_seconds",
            "Age of the oldest commit that is not replicated",
            lambda: replica.status.lag_s,
        )
    if drills is not None:
        metrics.watch(
            "replica_proven_at",
            "When a restore drill passed last, in seconds since 1970; 0: never",
            lambda: drills.proven_at / 1000,
        )


def _watch_last_look(metrics: Metrics, replica: Any) -> None:
    """What is not known yet is not a number."""

    def read(field: Callable[[Health], float | None]) -> Callable[[], float]:
        def value() -> float:
            found = replica.status.health
            known = field(found) if found is not None else None
            return math.nan if known is None else known

        return value

    metrics.watch(
        "replica_results_behind",
        "Results committed and not known to be replicated",
        read(lambda found: found.results_behind),
    )
    metrics.watch(
        "replica_drill_copy_bytes",
        "The copy that the last restore drill has left for the next one",
        read(lambda found: found.drill_copy_bytes),
    )
    metrics.watch(
        "replica_ltx_bytes",
        "Litestream's own files on this disk",
        read(lambda found: found.ltx_bytes),
    )
    metrics.watch(
        "replica_gaps", "Times that unsent states were given up", read(lambda found: found.gaps)
    )
    metrics.watch(
        "replica_foreign_writers",
        "Other programs that have the database open for writing",
        read(lambda found: len(found.foreign_writers)),
    )


async def _is_ready(engine: Engine) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await engine.is_ready()
    return False


async def tell_engine(engine: Engine) -> None:
    """Log what it is, once requests are admitted: a server elsewhere need not be there yet."""
    told = {"engine": engine.name, "version": engine.version, "model": engine.model}
    if await _is_ready(engine):
        log.info("engine_ready", **told)
    else:
        hint = (
            "requests are let in, and fail until it answers: is it started, is its address right?"
        )
        log.warning("engine_not_ready", **told, hint=hint)


async def read_health(
    boot: Boot,
    engine: Engine,
    recorder: Recorder,
    rooms: tuple[Disk, Any, Queue],
    alarms: Alarms,
) -> dict[str, Any]:
    """The body of ``/readyz``. An engine that does not say within 2 s is not ready."""
    disk, replica, queue = rooms
    engine_ready = await _is_ready(engine)
    closed = recorder.slots.closed
    return {
        "is_ready": engine_ready and closed is None,
        "version": __version__,
        "device_id": boot.device_id,
        "boot_id": boot.boot_id,
        "engine": {"kind": engine.name, "version": engine.version, "is_ready": engine_ready},
        "admission": {"is_open": closed is None, "code": closed.code if closed else None},
        "in_flight": recorder.slots.in_flight,
        "queue": {"in_flight": queue.runner.lines_running, "is_paused": queue.runner.is_paused},
        "disk": {"level": disk.level.value, "meaning": disk.level.name.lower()},
        "replica": replica.status if replica else None,
        "alarms": alarms.active,
    }
