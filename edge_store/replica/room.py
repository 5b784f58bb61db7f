"""Replication as the daemon has it: the path is claimed, then Litestream runs, and the head tells
how far it is.

Until the path is known to be ours no Litestream runs, and the box serves on: what it commits waits
on its disk. A path that somebody else takes later stops it again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from edge_store.alerts import Alarms
from edge_store.config import ReplicaSection
from edge_store.errors import LitestreamUnavailable, PathTaken, ReplicationError
from edge_store.replica.control import Synced
from edge_store.replica.heads import Head, Heads, read_head
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.ownership import Ownership
from edge_store.replica.status import Cause, ReplicaStatus
from edge_store.replica.supervisor import Litestream
from edge_store.result import Boot
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader

__all__ = ["Replica", "replicating"]

log = structlog.get_logger(__name__)

CLAIM_AT_START_S = 5.0  # a start waits so long for the store, then serves without
CLAIM_AGAIN_S = 30.0
HEAD_EVERY_S = 10.0
HEARTBEAT_S = 300.0


class Replica:
    """What the rest of the daemon sees of it."""

    def __init__(
        self, litestream: Litestream, ownership: Ownership, heads: Heads, alarms: Alarms
    ) -> None:
        self._litestream = litestream
        self.ownership = ownership
        self.heads = heads
        self.alarms = alarms
        self._refused: ReplicationError | None = None

    @property
    def status(self) -> ReplicaStatus:
        """How far the replica is, as last seen."""
        status = self._litestream.status
        if self._refused is None:
            return status
        cause = Cause.TAKEN if isinstance(self._refused, PathTaken) else Cause.UNREACHABLE
        return msgspec.structs.replace(
            status, state=cause.state, cause=cause, error=str(self._refused)
        )

    def follow(self, newest_seq: Callable[[], int]) -> None:
        """See ``Litestream.follow``."""
        self._litestream.follow(newest_seq)

    async def sync(self, timeout_s: float) -> Synced:
        """See ``Litestream.sync``."""
        return await self._litestream.sync(timeout_s)

    def paused(self) -> AbstractAsyncContextManager[None]:
        """See ``Litestream.paused``."""
        return self._litestream.paused()

    async def claim(self, *, by_force: bool = False) -> None:
        """Make the path ours and let Litestream run; or know why not.

        Raises:
            ReplicationError: see ``Ownership.claim``; LitestreamUnavailable: it does not stay up.
        """
        try:
            await self.ownership.claim(by_force=by_force)
        except ReplicationError as exc:
            self._refused = exc
            raise
        await self._litestream.start()
        self._refused = None

    async def keep_claimed(self) -> None:
        """Claim until it works, then see again and again that nobody else has taken the path."""
        while True:
            try:
                if self._refused is None:
                    await self.ownership.check()
                else:
                    await self.claim()
                    log.info("replica_claimed")
            except PathTaken as exc:
                if self._refused is None:
                    await self._litestream.hold()
                self._refused = exc
                log.error("replica_taken", error=str(exc), hint=exc.hint)
            except LitestreamUnavailable as exc:
                log.error("litestream_unavailable", error=str(exc))
            except ReplicationError as exc:
                log.warning("replica_unclaimed", error=str(exc))
            await asyncio.sleep(CLAIM_AGAIN_S)

    async def tell(self, reader: DatabaseThread, boot: Boot) -> None:
        """Write the head whenever the replica has got further, and as a heartbeat."""
        loop = asyncio.get_running_loop()
        told: Head | None = None
        told_at = -HEARTBEAT_S
        while True:
            await asyncio.sleep(HEAD_EVERY_S)
            confirmed = self._litestream.status.confirmed
            if confirmed is None or self._refused is not None:
                continue
            if told is None or confirmed.seq != told.seq:
                head = await reader.run(read_head, boot, txid=confirmed.txid, seq=confirmed.seq)
            elif loop.time() - told_at < HEARTBEAT_S:
                continue
            else:
                head = told
            if await self.heads.write(head):
                told, told_at = head, loop.time()


def has_boot(connection: Connection, boot_id: str) -> bool:
    """Whether the file knows of a boot."""
    row = connection.execute(sql("select_boot_known"), {"boot_id": boot_id}).fetchone()
    return row is not None


@asynccontextmanager
async def replicating(
    section: ReplicaSection,
    path: Path,
    boot: Boot,
    alarms: Alarms,
    *,
    lock_descriptor: int | None = None,
) -> AsyncIterator[Replica]:
    """Replicate while the body runs. Leaving waits, bounded, for the last commits.

    Raises:
        ConfigError, LitestreamUnavailable: see ``Litestream``.
    """
    location = parse_location(section.url)
    objects = Objects(location, read_credentials(location))
    litestream = Litestream(section, path, boot.device_id, lock_descriptor=lock_descriptor)
    reader = await DatabaseThread.open(lambda: open_reader(path))

    async def is_ours(boot_id: str) -> bool:
        return await reader.run(has_boot, boot_id)

    ownership = Ownership(objects, boot.device_id, boot.boot_id, boot.timeline, is_ours)
    replica = Replica(litestream, ownership, Heads(objects, boot.device_id), alarms)
    try:
        async with litestream, asyncio.TaskGroup() as tasks:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_AT_START_S):
                    await _claim_first(replica)
            kept = tasks.create_task(replica.keep_claimed())
            told = tasks.create_task(replica.tell(reader, boot))
            try:
                yield replica
            finally:
                kept.cancel()
                told.cancel()
    finally:
        await reader.close()


async def _claim_first(replica: Replica) -> None:
    try:
        await replica.claim()
    except LitestreamUnavailable:
        raise
    except ReplicationError as exc:
        log.error("replica_unclaimed", error=str(exc), hint=exc.hint)
