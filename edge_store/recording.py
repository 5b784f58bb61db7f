"""The recorder with all that it is made of, from the first slot to the boot's last row; and the
queue, which asks it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import Any

from edge_store.alerts import Alarms
from edge_store.api.inside import Inside
from edge_store.config import Config, ReplicaMode
from edge_store.engine import Engine
from edge_store.errors import EdgeStoreError, StoreError
from edge_store.identity import create_identity
from edge_store.ids import DeviceId
from edge_store.jsonrepair import JsonWorkers
from edge_store.lock import DatabaseLock
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.queue.room import Queue, queue_of
from edge_store.readers import Readers
from edge_store.recorder.app import Recorder
from edge_store.recorder.batch import read_head
from edge_store.recorder.boot import end_boot
from edge_store.recorder.caller import ShutOut
from edge_store.recorder.checkpoints import checkpoint_when_large
from edge_store.recorder.disk import Disk
from edge_store.recorder.idempotency import Idempotency
from edge_store.recorder.slots import Slots
from edge_store.recorder.waits import Waits
from edge_store.recorder.writer import Writer
from edge_store.result import Boot
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader, translated
from edge_store.systemd import feed_watchdog
from edge_store.wal import checkpoint

__all__ = [
    "drills_of",
    "let_go",
    "prepare",
    "queue_beside",
    "reading",
    "recording",
    "replicated",
    "sharing_readers",
]

READERS = 2  # one that reads much leaves the other

log = get_logger(__name__)


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[DatabaseThread]:
    """A connection that reads."""
    reader = await DatabaseThread.open(partial(open_reader, path))
    try:
        yield reader
    finally:
        await reader.close()


@asynccontextmanager
async def sharing_readers(path: Path) -> AsyncIterator[Readers]:
    """Connections that requests share."""
    async with AsyncExitStack() as stack:
        threads = [await stack.enter_async_context(reading(path)) for _ in range(READERS)]
        yield Readers(threads)


async def let_go(config: Config) -> None:
    """Before the database is opened: a Litestream that is not ours closes it."""
    if config.replica.enabled and config.replica.mode is ReplicaMode.EXTERNAL:
        from edge_store.replica.external import let_go as ask_to_let_go

        await ask_to_let_go(config.replica, Path(config.store.path))


@asynccontextmanager
async def replicated(
    config: Config, boot: Boot, database: DatabaseThread, lock: DatabaseLock, alarms: Alarms
) -> AsyncIterator[Any]:
    """Replication when it is on; else the daemon checkpoints by itself."""
    path = Path(config.store.path)
    if config.replica.enabled:
        from edge_store.replica.assembly import replicating

        async with replicating(
            config.replica, path, boot, alarms, database, lock_descriptor=lock.descriptor
        ) as replica:
            yield replica
        return
    async with asyncio.TaskGroup() as tasks:
        checkpoints = tasks.create_task(
            checkpoint_when_large(
                path, database, config.store.wal_bytes_max, config.store.disk_reserve_bytes
            )
        )
        yield None
        checkpoints.cancel()


def drills_of(
    config: Config,
    boot: Boot,
    replica: Any,
    database: DatabaseThread,
    recorder: Recorder,
    alarms: Alarms,
) -> AbstractAsyncContextManager[Any]:
    """Restore drills, where there is a replica."""
    if replica is None:
        return nullcontext()
    from edge_store.replica.drill import Serving, drilling

    serving = Serving(recorder.change, recorder.slots.busy_since_asked())
    return drilling(config, boot, replica, database, serving, alarms)


@asynccontextmanager
async def recording(  # noqa: PLR0913  (all that has come up)
    config: Config,
    disk: Disk,
    boot: Boot,
    database: DatabaseThread,
    engine: Engine,
    metrics: Metrics,
    replica: Any,
) -> AsyncIterator[tuple[Recorder, asyncio.Future[EdgeStoreError]]]:
    """The recorder, and what tells when its writer has found the file damaged; left only after the
    last commit and the boot's end row.
    """
    slots = Slots(config.recorder)
    path = Path(config.store.path)
    head = await database.run(read_head)
    forget = None
    if replica is not None:
        from edge_store.replica.anew import forget_wal

        forget = partial(forget_wal, replica, database)
    waits = Waits(replica, config.replica.wait_max_s, config.recorder.slots, metrics)
    writer = Writer(database, boot, head, slots, disk, config.recorder, metrics, forget)
    async with (
        JsonWorkers(config.repair) as json_workers,
        Idempotency(path, config.recorder, config.engine.timeout_s, metrics) as idempotency,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(writer.run())
        watchdog = tasks.create_task(feed_watchdog(database))
        waited = tasks.create_task(waits.run())
        try:
            recorder = Recorder(
                engine=engine,
                engine_timeout_s=config.engine.timeout_s,
                slots=slots,
                writer=writer,
                json_workers=json_workers,
                idempotency=idempotency,
                boot=boot,
                config=config.recorder,
                metrics=metrics,
                privacy=config.privacy,
                waits=waits,
            )
            yield recorder, writer.damaged
        finally:
            writer.close()
            watchdog.cancel()
            waited.cancel()
    if writer.is_sound:  # else nothing more may be written to what was not read back
        with suppress(EdgeStoreError):  # a full disk must not keep the daemon from stopping
            await database.run(end_boot, boot)
    log.info("boot_ended", boot_id=boot.boot_id, admitted=slots.admitted_upto, seq=writer.head.seq)


def queue_beside(
    config: Config,
    disk: Disk,
    engine: Engine,
    recorder: Recorder,
    metrics: Metrics,
    shut_out: ShutOut,
) -> AbstractAsyncContextManager[Queue]:
    """The queue, which asks the recorder as callers do; not running yet."""
    return queue_of(
        config,
        ask=Inside(recorder, shut_out).ask,
        change=recorder.change,
        redacting=recorder.redacting,
        slots=recorder.slots,
        is_engine_ready=engine.is_ready,
        refusal_of=disk.refusal_of,
        metrics=metrics,
    )


def prepare(connection: Connection, device_id: str, *, index_was_held: bool) -> DeviceId:
    """The newest schema, and whose file it is; before there is a boot.

    Raises:
        StoreError: a process from before a crash holds the database, or it cannot be written.
    """
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
