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
from edge_store.config import ReplicaSection, StoreSection
from edge_store.errors import (
    LitestreamUnavailable,
    PathTaken,
    ReplicaNotFound,
    ReplicationError,
    StoreError,
)
from edge_store.replica.anew import Ground
from edge_store.replica.control import Synced
from edge_store.replica.extent import read_extent
from edge_store.replica.heads import Head, Heads, read_head
from edge_store.replica.lineage import Lineage, read_lineage
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.ownership import Asking, Owner, Ownership, owner_of
from edge_store.replica.status import ReplicaState, ReplicaStatus
from edge_store.replica.supervisor import Litestream
from edge_store.result import Boot
from edge_store.sqlite import (
    DatabaseThread,
    checkpoint,
    is_vulnerable,
    move_wal,
    open_reader,
    wal_bytes,
)

__all__ = ["Replica", "replicating"]

log = structlog.get_logger(__name__)

CLAIM_AT_START_S = 5.0  # a start waits so long for the store, then serves without
GUARD_EVERY_S = 5.0
HEAD_EVERY_S = 10.0
HEARTBEAT_S = 300.0


class Swapped(ReplicationError):
    """The database's file was replaced while the daemon has the former one open."""


REFUSALS = {
    PathTaken: ReplicaState.TAKEN,
    Swapped: ReplicaState.STOPPED,
    Asking: ReplicaState.STARTING,
}


class Replica:
    """What the rest of the daemon sees of it."""

    def __init__(
        self,
        litestream: Litestream,
        ownership: Ownership,
        heads: Heads,
        ground: Ground,
        database: DatabaseThread,
        alarms: Alarms,
    ) -> None:
        self._litestream = litestream
        self.ownership = ownership
        self.heads = heads
        self.alarms = alarms
        self._ground = ground
        self._database = database
        self._refused: ReplicationError | None = Asking("the store has not answered yet", 0.0)

    @property
    def status(self) -> ReplicaStatus:
        """How far the replica is, as last seen."""
        status = self._litestream.status
        if self._refused is None:
            return status
        state = next(
            (state for kind, state in REFUSALS.items() if isinstance(self._refused, kind)),
            ReplicaState.UNREACHABLE,
        )
        return msgspec.structs.replace(status, state=state, error=str(self._refused))

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
            if self._ground.is_swapped:
                raise _swapped()
            if by_force:
                await self._litestream.hold()
            former = await self.ownership.claim(by_force=by_force)
            await self._begin(anew=former is None or former != self._ground.stand)
        except ReplicationError as exc:
            self._refused = exc
            raise
        self._refused = None

    async def _begin(self, *, anew: bool) -> None:
        if anew:
            await self._ground.clear(self._litestream, self._database)
        self._ground.note(self.ownership.boot_id)
        await self._litestream.start()

    async def keep_claimed(self) -> None:
        """Claim until it works, then see again and again that nobody else has taken the path."""
        while True:
            again_s = self.ownership.every_s
            try:
                if self._refused is not None:
                    await self.claim()
                    log.warning("replica_claimed")
                elif not await self.ownership.check():
                    await self._again()
            except PathTaken as exc:
                await self._refuse(exc)
                log.error("replica_taken", error=str(exc), hint=exc.hint)
            except LitestreamUnavailable as exc:
                log.error("litestream_unavailable", error=str(exc))
            except ReplicationError as exc:
                if isinstance(exc, Asking):
                    again_s = min(again_s, exc.again_s)
                log.warning("replica_unclaimed", error=str(exc))
            await asyncio.sleep(again_s)

    async def _again(self) -> None:
        """The path was emptied, or another has written there, too: begin it anew."""
        log.error("replica_begun_anew", hint="who removed it, or wrote to it?")
        await self._refuse(Asking("the replica is begun anew", 0.0))
        await self.ownership.claim()
        await self._begin(anew=True)
        self._refused = None

    async def _refuse(self, exc: ReplicationError) -> None:
        if self._refused is None:
            await self._litestream.hold()
        self._refused = exc

    async def guard(self, path: Path, wal_bytes_max: int) -> None:
        """Nothing is replicated from another file than ours; and while nothing is at all, the WAL
        stays small.
        """
        while True:
            await asyncio.sleep(GUARD_EVERY_S)
            if self._ground.is_swapped:
                if not isinstance(self._refused, Swapped):
                    await self._refuse(_swapped())
                    log.error("database_swapped", error=str(self._refused))
            elif self._refused is not None and wal_bytes(path) > wal_bytes_max:
                try:
                    await self._shrink_wal(path)
                except (ReplicationError, StoreError) as exc:
                    log.warning("checkpoint_failed", code=exc.code, error=str(exc))

    async def _shrink_wal(self, path: Path) -> None:
        async with self._litestream.paused():  # it does not start meanwhile
            if not is_vulnerable():  # two that move it at once are what its bug needs
                await asyncio.to_thread(move_wal, path)
            if not await self._database.run(checkpoint):
                log.warning("checkpoint_blocked", wal_bytes=wal_bytes(path))

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


@asynccontextmanager
async def replicating(
    section: ReplicaSection,
    store: StoreSection,
    boot: Boot,
    database: DatabaseThread,
    alarms: Alarms,
    *,
    lock_descriptor: int | None = None,
) -> AsyncIterator[Replica]:
    """Replicate while the body runs. Leaving waits, bounded, for the last commits.

    Raises:
        ConfigError, LitestreamUnavailable: see ``Litestream``.
    """
    path = Path(store.path)
    location = parse_location(section.url)
    objects = Objects(location, read_credentials(location))
    litestream = Litestream(section, path, boot.device_id, lock_descriptor=lock_descriptor)
    reader = await DatabaseThread.open(lambda: open_reader(path))
    ground = Ground(path)
    heads = Heads(objects, boot.device_id)

    async def lineage(owner: Owner | None, head: Head | None) -> Lineage:
        boot_id, timeline = (owner.boot_id, owner.timeline) if owner else ("", "")
        return await reader.run(read_lineage, boot_id, timeline, head)

    async def was_ours() -> bool:
        """Whether what lies there without an owner was written from here."""
        if ground.stand is not None:
            return True
        try:
            await read_extent(location, read_credentials(location), boot.device_id)
        except ReplicaNotFound:
            return True
        head = await heads.read()
        return head is not None and (await lineage(None, head)).holds_head

    claim = owner_of(boot.boot_id, boot.device_id, boot.timeline, path)
    claim = msgspec.structs.replace(claim, every_s=section.owner_check_s)
    ownership = Ownership(objects, claim, heads, lineage, was_ours)
    replica = Replica(litestream, ownership, heads, ground, database, alarms)
    try:
        async with litestream, asyncio.TaskGroup() as tasks:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_AT_START_S):
                    await _claim_first(replica)
            running = [
                tasks.create_task(replica.keep_claimed()),
                tasks.create_task(replica.guard(path, store.wal_bytes_max)),
                tasks.create_task(replica.tell(reader, boot)),
            ]
            try:
                yield replica
            finally:
                for task in running:
                    task.cancel()
    finally:
        await reader.close()


async def _claim_first(replica: Replica) -> None:
    try:
        await replica.claim()
    except LitestreamUnavailable:
        raise
    except ReplicationError as exc:
        log.error("replica_unclaimed", error=str(exc), hint=exc.hint)


def _swapped() -> Swapped:
    return Swapped(
        "another file, or none, lies where the database was: what this daemon writes now goes into "
        "the former file, and nothing of it is replicated",
        hint="put the former file back; or stop the daemon, and what it has written since is lost",
    )
