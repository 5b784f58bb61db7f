"""The daemon: what it is made of, in which order it starts, and in which it stops.

The nesting of the contexts is the shutdown order: stop listening, drain, the writer's last commit,
the replica, the engine. Signals have one owner, here. The writer's connection is never closed while
a replica exists: the last connection to close would checkpoint and delete the WAL, and Litestream
would upload the whole database at the next start. So the process ends without closing it.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from starlette.applications import Starlette

from edge_store import __version__
from edge_store.alerts import Alarms
from edge_store.alerts.room import Alerting, alerting
from edge_store.api.access import Access
from edge_store.api.admin import admin_routes, bind_admin
from edge_store.api.alerts import alert_routes
from edge_store.api.app import own_routes
from edge_store.api.background import in_background
from edge_store.api.drills import drill_routes
from edge_store.api.gate import Gate
from edge_store.api.imports import import_routes
from edge_store.api.replica import replica_routes
from edge_store.api.retention import retention_routes
from edge_store.api.search import search_routes
from edge_store.api.server import (
    HttpServer,
    bind,
    listening,
    require_guarded,
    url_of,
)
from edge_store.api.services import Services
from edge_store.api.sinks import sink_routes
from edge_store.beside import working_beside
from edge_store.config import Config, EngineKind, EngineSection, read_credential
from edge_store.engine import Engine
from edge_store.errors import (
    AdmissionClosed,
    EdgeStoreError,
    NotAnEdgeStoreFile,
    StoreError,
)
from edge_store.health import read_health, tell_engine, watch
from edge_store.keys import keys_at_start
from edge_store.lock import DatabaseLock
from edge_store.loggers import get_logger
from edge_store.observability.looplag import measured_lag
from edge_store.observability.metrics import Metrics
from edge_store.possible import require_possible
from edge_store.queue.room import Queue, running
from edge_store.recorder.app import Recorder
from edge_store.recorder.around import Around
from edge_store.recorder.boot import begin_boot
from edge_store.recorder.damage import examine
from edge_store.recorder.disk import Disk
from edge_store.recorder.intake import Intake
from edge_store.recording import (
    drills_of,
    let_go,
    prepare,
    queue_beside,
    reading,
    recording,
    replicated,
    sharing_readers,
)
from edge_store.result import Boot
from edge_store.sqlite import (
    DatabaseThread,
    is_index_held,
    open_writer,
)
from edge_store.stopping import Drain, Stopping
from edge_store.systemd import notify
from edge_store.watching import Watched, watching

__all__ = ["build_engine", "serve"]

log = get_logger(__name__)

LOADING_BEAT_S = 10.0
LOADING_MAX_S = 3600.0
LOADING_EXTENSION_S = 60  # systemd waits this long after each beat before it gives the start up
ADMIN_CONNECTIONS_MAX = 16
CONNECTIONS_SPARE = 64  # for health, metrics and queries when there are few slots


def build_engine(config: EngineSection, stop: Callable[[], None] = lambda: None) -> Engine:
    """The engine that ``engine.kind`` names, not yet entered. One that takes the signals of this
    process for itself calls ``stop`` at SIGTERM.

    Raises:
        ConfigError: it cannot be on this box.
    """
    match config.kind:
        case EngineKind.DEMO:
            from edge_store.engine.demo import DemoEngine

            return DemoEngine(config.demo)
        case EngineKind.UPSTREAM:
            from edge_store.engine.upstream import UpstreamEngine

            return UpstreamEngine(config.upstream)
        case EngineKind.SGLANG:
            from edge_store.engine.sglang import SGLangEngine

            return SGLangEngine(config.sglang, stop)


async def serve(config: Config, *, announce: Callable[[str], None] = lambda _url: None) -> None:
    """Run until SIGTERM or SIGINT, or until the engine dies. ``announce`` is called with the base
    URL once requests are taken.

    Returns with the writer's connection open when replication is on: the caller must then end the
    process without closing it (``os._exit``).

    Raises:
        ConfigError, StoreError, EngineStartFailed: it did not start.
        EngineCrashed: it ran, and everything admitted is recorded.
        Corrupt: the database was found damaged by a COMMIT; nothing was written since.
    """
    metrics = Metrics()
    alarms = Alarms(metrics)
    async with alerting(config.alerts, Path(config.store.path), alarms) as told:
        await _serve(config, metrics, alarms, told, announce)


async def _serve(
    config: Config,
    metrics: Metrics,
    alarms: Alarms,
    told: Alerting | None,
    announce: Callable[[str], None],
) -> None:
    stopping = Stopping()
    path = Path(config.store.path)
    admin_key = read_credential("admin-key", "EDGE_STORE_ADMIN_KEY")
    require_possible(config)
    with DatabaseLock(path) as lock:
        listener = bind(config.server)  # before anything slow begins
        index_was_held = is_index_held(path)
        await let_go(config)
        await asyncio.to_thread(examine, path, lock, index_was_held=index_was_held)
        database = await DatabaseThread.open(
            lambda: open_writer(path, busy_timeout_ms=config.store.busy_timeout_ms), path
        )
        device_id = await database.run(prepare, config.device.id, index_was_held=index_was_held)
        alarms.device = device_id
        keys = await database.run(keys_at_start)
        require_guarded(listener.getsockname()[0], config.server, has_keys=bool(keys))
        access = Access(keys, admin_key)
        lock.note_open(device_id)
        async with build_engine(config.engine, stopping.received) as engine:
            boot = await database.run(
                begin_boot,
                device_id=device_id,
                version=__version__,
                engine=engine.name,
                engine_version=engine.version,
            )
            log.info("boot_began", boot_id=boot.boot_id, device_id=device_id, version=__version__)
            disk = Disk(path, config.store.disk_reserve_bytes)
            box = Box(
                config, path, lock, database, boot, disk, engine, access, metrics, alarms, told
            )
            failure, damage = await _answer(box, listener, stopping, announce)
        if isinstance(damage, NotAnEdgeStoreFile):
            lock.note_damage(path, str(damage))  # what lies there has our WAL beside it
    if damage is not None:  # not closed: the last one to close would write to the file
        raise damage
    if not config.replica.enabled:
        await database.close()
    if failure is not None and not stopping.first.is_set():  # else it was to stop anyway
        raise failure


class Box(NamedTuple):
    """What is there before anything can be asked."""

    config: Config
    path: Path
    lock: DatabaseLock
    database: DatabaseThread
    boot: Boot
    disk: Disk
    engine: Engine
    access: Access
    metrics: Metrics
    alarms: Alarms
    told: Alerting | None


async def _answer(
    box: Box, listener: socket.socket, stopping: Stopping, announce: Callable[[str], None]
) -> tuple[EdgeStoreError | None, EdgeStoreError | None]:
    """Record what is asked until the order to stop: the failure that came before it, and the damage
    that a COMMIT has met.
    """
    config, engine, metrics, disk = box.config, box.engine, box.metrics, box.disk
    shut_out, retention_asked = box.access.shut_out, asyncio.Event()
    async with (
        replicated(config, box.boot, box.database, box.lock, box.alarms) as replica,
        recording(config, disk, box.boot, box.database, engine, metrics, replica) as (
            recorder,
            damaged,
        ),
        measured_lag(metrics.loop_lag_seconds.observe),
        queue_beside(config, disk, engine, recorder, metrics, shut_out) as queue,
        sharing_readers(box.path) as reader,
        reading(box.path) as queries,
        in_background(recorder, reader, config, shut_out) as background,
        drills_of(config, box.boot, replica, box.database, recorder, box.alarms) as drills,
        working_beside(
            Around(
                config, box.path, box.boot, recorder.commits, recorder.change, disk, metrics,
                box.alarms, replica, retention_asked, recorder.slots.is_crowded,
            )
        ),
    ):  # fmt: skip
        watch(metrics, box.path, disk, recorder, replica, drills)
        up = Up(recorder, queue, replica, drills, damaged, retention_asked)
        services = Services(
            reader=reader,
            queries=queries,
            change=recorder.change,
            redacting=recorder.redacting,
            commits=recorder.commits,
            exposition=lambda: metrics.exposition() + engine.metrics(),
            health=lambda: read_health(
                box.boot, engine, recorder, (disk, replica, queue), box.alarms
            ),
            replica=lambda: replica.status if replica else None,
            shut_out=shut_out,
            queue=queue,
            background=background,
            engine=engine,
        )
        failure = await _listen(box, up, own_routes(services), listener, stopping, announce)
    return failure, damaged.result() if damaged.done() else None


class Up(NamedTuple):
    """What has come up over the box."""

    recorder: Recorder
    queue: Queue
    replica: Any
    drills: Any
    damaged: asyncio.Future[EdgeStoreError]
    retention_asked: asyncio.Event


async def _listen(
    box: Box,
    up: Up,
    ours: Starlette,
    listener: socket.socket,
    stopping: Stopping,
    announce: Callable[[str], None],
) -> EdgeStoreError | None:
    """Take requests, and an operator's commands, until the order to stop; or the failure that came
    before it.
    """
    config, engine, recorder, queue = box.config, box.engine, up.recorder, up.queue
    gate = Gate(
        access=box.access,
        accept=queue.accept,
        shortage=box.disk.shortage,
        recorder=recorder,
        engine=engine,
        ours=ours,
        config=config.server,
        metrics=box.metrics,
    )
    connections_max = 4 * config.recorder.slots + CONNECTIONS_SPARE
    server = HttpServer(gate, connections_max, gate.overflow, config.server)
    rooms = [
        *alert_routes(box.alarms, box.told),
        *replica_routes(up.replica),
        *drill_routes(up.drills),
        *retention_routes(up.retention_asked),
        *import_routes(Intake(recorder, box.boot, box.disk)),
        *sink_routes(config, box.boot.device_id),
        *search_routes(box.path, is_followed=config.search.enabled),
    ]
    admin = HttpServer(admin_routes(queue.change_noticed, box.access, rooms), ADMIN_CONNECTIONS_MAX)
    died = asyncio.ensure_future(engine.until_dead())
    loaded = asyncio.ensure_future(engine.until_ready())
    watched = Watched(box.path, loaded, engine, box.disk, recorder, box.metrics, up.replica, queue)
    async with (
        listening(admin, bind_admin(box.path)),
        listening(server, listener, Drain(recorder, stopping, died, config.server.drain_timeout_s)),
        watching(box.alarms, config.alerts, watched),
        running(queue),  # cut first, and asked again by the next daemon
    ):
        url = url_of(listener, config.server)
        log.info("http_listening", url=url)
        failure = await _life(
            engine, loaded, (died, up.damaged), recorder, box.disk, stopping, announce, url
        )
    died.cancel()
    return failure


async def _life(  # noqa: PLR0913  (all that has come up)
    engine: Engine,
    loaded: asyncio.Future[None],
    ends: tuple[asyncio.Future[EdgeStoreError], ...],
    recorder: Recorder,
    disk: Disk,
    stopping: Stopping,
    announce: Callable[[str], None],
    url: str,
) -> EdgeStoreError | None:
    """From listening to the order to stop; or the failure that ends it earlier, which is raised
    once everything is recorded.
    """
    slots = recorder.slots
    try:
        if not await _loaded(loaded, stopping):
            return None
    except EdgeStoreError as exc:
        return exc
    if (shortage := disk.shortage()) is None:
        slots.open()
    else:
        slots.close(shortage)  # the writer opens once there is room
    notify(f"READY=1\nSTATUS=Answering on {url}")
    announce(url)
    telling = asyncio.ensure_future(tell_engine(engine))
    stopped = asyncio.ensure_future(stopping.first.wait())
    waiting: set[asyncio.Future[Any]] = {*ends, stopped}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    telling.cancel()
    cause = next((end.result() for end in ends if end.done()), None)
    if cause is not None:
        event = "database_damaged" if isinstance(cause, StoreError) else "engine_died"
        log.error(event, code=cause.code, in_flight=slots.in_flight, error=str(cause))
        notify(f"STOPPING=1\nSTATUS={event}; recording what was in flight")
        slots.close(cause)
        recorder.abort_all(cause)
        return cause
    slots.close(AdmissionClosed("the daemon is stopping"))  # before the queue is cut, too
    notify("STOPPING=1\nSTATUS=Draining")
    log.info("stop_requested", in_flight=slots.in_flight)
    return None


async def _loaded(loaded: asyncio.Future[None], stopping: Stopping) -> bool:
    """Wait for the engine, not at all if it is up; false when the order to stop came first."""
    began = time.monotonic()
    stopped = asyncio.ensure_future(stopping.first.wait())
    while not (loaded.done() or stopped.done()):
        waiting: set[asyncio.Future[Any]] = {loaded, stopped}
        await asyncio.wait(waiting, timeout=LOADING_BEAT_S, return_when=asyncio.FIRST_COMPLETED)
        if not loaded.done():
            seconds = round(time.monotonic() - began)
            if seconds > LOADING_MAX_S:
                continue  # systemd ends a load that hangs
            notify(
                f"EXTEND_TIMEOUT_USEC={LOADING_EXTENSION_S * 1_000_000}\n"
                f"STATUS=Loading the model, {seconds} s"
            )
    stopped.cancel()
    if not loaded.done():
        loaded.cancel()
        await asyncio.wait({loaded})
        log.info("stop_requested", loading=True)
        return False
    await loaded
    return True
