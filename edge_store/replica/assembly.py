"""Puts replication together for a daemon, and keeps it running while that serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from edge_store.alerts import Alarms
from edge_store.config import ReplicaMode, ReplicaSection
from edge_store.replica.anew import Ground
from edge_store.replica.external import External
from edge_store.replica.heads import Heads
from edge_store.replica.health import Watch
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.machine import Machine
from edge_store.replica.objects import Objects
from edge_store.replica.owner import owner_of
from edge_store.replica.ownership import Ownership, claim_first
from edge_store.replica.past import Past
from edge_store.replica.pause import Pause
from edge_store.replica.room import Replica
from edge_store.replica.supervisor import Litestream
from edge_store.replica.telling import Telling
from edge_store.replica.traffic import Ledger
from edge_store.result import Boot
from edge_store.sqlite import DatabaseThread, open_reader

__all__ = ["replicating"]


@asynccontextmanager
async def replicating(
    section: ReplicaSection,
    path: Path,
    boot: Boot,
    alarms: Alarms,
    database: DatabaseThread,
    *,
    lock_descriptor: int | None = None,
) -> AsyncIterator[Replica]:
    """Replicate while the body runs. Leaving waits, bounded, for the last commits.

    Raises:
        ConfigError, LitestreamUnavailable: see ``Litestream``.
    """
    location = parse_location(section.url)
    objects = Objects(location, read_credentials(location))
    ledger = Ledger(path)
    litestream: Litestream | External = (
        Litestream(section, path, boot.device_id, lock_descriptor=lock_descriptor, count=ledger.add)
        if section.mode is ReplicaMode.CHILD
        else External(section, path)
    )
    reader = await DatabaseThread.open(lambda: open_reader(path))
    ground = Ground(path, litestream.ltx, database)
    heads = Heads(objects, boot.device_id)
    past = Past(section, boot, reader, ground, heads, ledger)
    claim = owner_of(boot.boot_id, boot.device_id, boot.timeline, path)
    claim = msgspec.structs.replace(claim, every_s=section.owner_check_s)
    ownership = Ownership(objects, claim, heads, past.lineage, past.was_ours)
    watch = Watch(path, litestream.ltx, database, alarms, local_bytes_max=section.local_bytes_max)
    machine = Machine(path, boot, ownership.offset)
    telling = Telling(objects, reader, machine, section.pace.head_every_s)
    replica = Replica(litestream, ownership, telling, ground, watch, Pause(path), ledger, past)
    try:
        async with litestream, _kept(replica):
            yield replica
        await replica.tell_last()
        ledger.keep(ownership.traffic)
    finally:
        await reader.close()


@asynccontextmanager
async def _kept(replica: Replica) -> AsyncIterator[None]:
    """Claim the path, and see to the rest, until the body ends."""
    async with asyncio.TaskGroup() as tasks:
        await claim_first(replica.claim)
        running = [
            tasks.create_task(replica.keep_claimed()),
            tasks.create_task(replica.tell()),
            tasks.create_task(replica.keep_healthy()),
        ]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await replica.leave()
