"""The daemon: what it is made of, in which order it starts, and in which it stops.

The nesting of the contexts is the shutdown order: stop listening, drain, the writer's last commit,
the replica, the engine. Signals have one owner, here. The writer's connection is never closed while
a replica exists: the last connection to close would checkpoint and delete the WAL, and Litestream
would upload the whole database at the next start. So the process ends without closing it.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

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
from edge_store.api.replica import replica_routes
from edge_store.api.server import (
    HttpServer,
    bind,
    listening,
    require_certificate,
    require_guarded,
    url_of,
)
from edge_store.api.services import Services
from edge_store.config import Config, EngineKind, EngineSection, read_credential
from edge_store.engine import Engine
from edge_store.errors import (
    AdmissionClosed,
    ConfigError,
    EdgeStoreError,
    NotAnEdgeStoreFile,
    ShutDown,
    StoreError,
)
from edge_store.health import read_health, watch
from edge_store.identity import create_identity
from edge_store.ids import DeviceId
from edge_store.keys import keys_at_start
from edge_store.lock import DatabaseLock
from edge_store.observability.looplag import measured_lag
from edge_store.observability.metrics import Metrics
from edge_store.queue.room import running
from edge_store.recorder.app import Recorder
from edge_store.recorder.boot import begin_boot
from edge_store.recorder.damage import examine
from edge_store.recorder.disk import Disk
from edge_store.recording import (
    drills_of,
    let_go,
    queue_beside,
    reading,
    recording,
    replicated,
    sharing_readers,
)
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import (
    Connection,
    DatabaseThread,
    is_index_held,
    open_writer,
    require_safe_sqlite,
    translated,
)
from edge_store.systemd import notify
from edge_store.wal import checkpoint
from edge_store.watching import Watched, watching

__all__ = ["build_engine", "serve"]

log = structlog.get_logger(__name__)

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
    require_safe_sqlite(allow_vulnerable=config.store.allow_vulnerable_sqlite)
    if config.replica.enabled:  # before there is a boot: it would count as one that was cut
        from edge_store.replica.location import parse_location

        parse_location(config.replica.url)
    if not path.parent.is_dir():
        raise ConfigError(
            f"store.path = {str(path)!r}: there is no folder {path.parent}",
            hint="create it, or run `edge-store init`",
        )
    require_certificate(config.server)
    with DatabaseLock(path) as lock:
        listener = bind(config.server)  # before anything slow begins
        index_was_held = is_index_held(path)
        await let_go(config)
        await asyncio.to_thread(examine, path, lock, index_was_held=index_was_held)
        database = await DatabaseThread.open(
            lambda: open_writer(path, busy_timeout_ms=config.store.busy_timeout_ms), path
        )
        device_id = await database.run(_prepare, config.device.id, index_was_held=index_was_held)
        alarms.device = device_id
        keys = await database.run(keys_at_start)
        require_guarded(listener, config.server, has_keys=bool(keys))
        access = Access(keys, admin_key)
        lock.note_open()
        async with build_engine(config.engine, stopping.received) as engine:
            boot = await database.run(
                begin_boot,
                device_id=device_id,
                version=__version__,
                engine=engine.name,
                engine_version=engine.version,
            )
            disk = Disk(path, config.store.disk_reserve_bytes)
            log.info("boot_began", boot_id=boot.boot_id, device_id=device_id, version=__version__)
            async with (
                replicated(config, boot, database, lock, alarms) as replica,
                recording(config, disk, boot, database, engine, metrics, replica) as (
                    recorder,
                    damaged,
                ),
                measured_lag(metrics.loop_lag_seconds.observe),
                queue_beside(config, disk, engine, recorder, metrics, access.shut_out) as queue,
                sharing_readers(path) as reader,
                reading(path) as queries,
                in_background(recorder, reader, config, access.shut_out) as background,
                drills_of(config, boot, replica, database, recorder.change, alarms) as drills,
            ):
                watch(metrics, path, disk, recorder, replica, drills)
                gate = Gate(
                    access=access,
                    accept=queue.accept,
                    shortage=disk.shortage,
                    recorder=recorder,
                    engine=engine,
                    ours=own_routes(
                        Services(
                            reader=reader,
                            queries=queries,
                            change=recorder.change,
                            redacting=recorder.redacting,
                            commits=recorder.commits,
                            exposition=lambda: metrics.exposition() + engine.metrics(),
                            health=lambda: read_health(
                                boot, engine, recorder, (disk, replica, queue), alarms
                            ),
                            replica=lambda: replica.status if replica else None,
                            shut_out=access.shut_out,
                            queue=queue,
                            background=background,
                            engine=engine,
                        )
                    ),
                    config=config.server,
                    metrics=metrics,
                )
                connections_max = 4 * config.recorder.slots + CONNECTIONS_SPARE
                server = HttpServer(gate, connections_max, gate.overflow, config.server)
                died = asyncio.ensure_future(engine.until_dead())
                drain = Drain(recorder, stopping, died, config.server.drain_timeout_s)
                loaded = asyncio.ensure_future(engine.until_ready())
                admin = HttpServer(
                    admin_routes(
                        queue.change_noticed,
                        access,
                        [
                            *alert_routes(alarms, told),
                            *replica_routes(replica),
                            *drill_routes(drills),
                        ],
                    ),
                    ADMIN_CONNECTIONS_MAX,
                )
                async with (
                    listening(admin, bind_admin(path)),
                    listening(server, listener, drain),
                    watching(
                        alarms,
                        config.alerts,
                        Watched(path, loaded, engine, disk, recorder, metrics, replica, queue),
                    ),
                    running(queue),  # cut first, and asked again by the next daemon
                ):
                    url = url_of(listener, config.server)
                    log.info("http_listening", url=url)
                    failure = await _life(
                        engine, loaded, (died, damaged), recorder, disk, stopping, announce, url
                    )
                died.cancel()
        if damaged.done() and isinstance(damaged.result(), NotAnEdgeStoreFile):
            lock.note_damage(path, str(damaged.result()))  # what lies there has our WAL beside it
    if damaged.done():  # not closed: the last one to close would write to the file
        raise damaged.result()
    if not config.replica.enabled:
        await database.close()
    if failure is not None and not stopping.first.is_set():  # else it was to stop anyway
        raise failure


async def _life(  # noqa: PLR0913  (all that has come up)
    engine: Engine,
    loaded: asyncio.Future[None],
    ends: tuple[asyncio.Future[EdgeStoreError], ...],
    recorder: Recorder,
    disk: Disk,
    stopping: "Stopping",
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
    log.info("engine_ready", engine=engine.name, version=engine.version, model=engine.model)
    notify(f"READY=1\nSTATUS=Answering on {url}")
    announce(url)
    stopped = asyncio.ensure_future(stopping.first.wait())
    waiting: set[asyncio.Future[Any]] = {*ends, stopped}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
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


async def _loaded(loaded: asyncio.Future[None], stopping: "Stopping") -> bool:
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


class Stopping:
    """SIGTERM and SIGINT: the first asks for a stop, the second for one without a drain."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.received)

    def received(self) -> None:
        """One of them has come."""
        (self.second if self.first.is_set() else self.first).set()


class Drain:
    """Lets what runs finish for a while, then cuts it; every outcome is recorded either way."""

    def __init__(
        self,
        recorder: Recorder,
        stopping: Stopping,
        died: asyncio.Future[EdgeStoreError],
        timeout_s: float,
    ) -> None:
        self._recorder = recorder
        self._stopping = stopping
        self._died = died
        self._timeout_s = timeout_s

    async def __call__(self) -> None:
        slots = self._recorder.slots
        slots.close(AdmissionClosed("the daemon is stopping"))
        self._recorder.commits.end()  # who follows the results comes back after the next start
        drained = asyncio.ensure_future(self._recorder.drained())
        hurried = asyncio.ensure_future(self._stopping.second.wait())
        waiting: set[asyncio.Future[Any]] = {drained, hurried, self._died}
        await asyncio.wait(waiting, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not drained.done():
            cause: EdgeStoreError = ShutDown("the daemon stopped before this answer was complete")
            if self._died.done():
                cause = self._died.result()
            log.warning("drain_cut", in_flight=slots.in_flight, code=cause.code)
            self._recorder.abort_all(cause)
        await drained


def _prepare(connection: Connection, device_id: str, *, index_was_held: bool) -> DeviceId:
    with translated("the database cannot be prepared"):
        migrate(connection)
        (ended,) = connection.execute(sql("select_last_boot_ended")).fetchone()
    if index_was_held and not ended:
        # The replica may hold a commit that this file does not (see is_index_held). An empty WAL
        # makes Litestream upload the whole database, and so forget it.
        log.warning("wal_emptied", consequence="the replica is uploaded anew")
        if not checkpoint(connection):
            raise StoreError(
                "another process reads the database since before the crash, and does not let go",
                hint="end it (`fuser -v` on the -shm file names it), then start again",
            )
    with translated("the database cannot be prepared"):
        return create_identity(connection, device_id)
