"""Keeps the head of this box as it is, in the store; and knows from it, over a restart, how far the
replica was.

A head is written when the replica has got further, so many seconds after the last one at the
earliest, and at the stop. While nothing changes the same bytes are put there again now and then:
a heartbeat, which says that everything the box had committed by then is in the replica. One that is
behind and gets no further has none. While another box has the path, a refusal says that this
one is there, too (see refused.py). Runs on the event loop; the file is read on a thread.
"""

import asyncio
from collections.abc import Callable

import msgspec

from edge_store.errors import EdgeStoreError
from edge_store.loggers import get_logger
from edge_store.replica.heads import (
    HEARTBEAT_S,
    Counted,
    Head,
    Heads,
    Proven,
    is_of_file,
    read_head,
)
from edge_store.replica.machine import Machine
from edge_store.replica.objects import Objects
from edge_store.replica.refused import Refusal
from edge_store.replica.status import Cause, Confirmed, ReplicaStatus
from edge_store.sqlite import DatabaseThread

__all__ = ["Telling"]

log = get_logger(__name__)

LOOK_S = 1.0
LAST_S = 5.0  # the store took the last sync just now


class Telling:
    """Has the head that was told last, and what has been counted for it."""

    def __init__(
        self, objects: Objects, reader: DatabaseThread, machine: Machine, every_s: float
    ) -> None:
        self._boot = machine.boot
        self._heads = Heads(objects, self._boot.device_id)
        self._refusal = Refusal(objects, self._boot)
        self._refusal_at: float | None = None
        self._reader = reader
        self._machine = machine
        self._every_s = every_s
        self._told: Head | None = None
        self._told_at = self._tried_at = -HEARTBEAT_S
        self._is_failing = False
        self._counted: Counted | None = None
        self.proven: Proven | None = None  # by the newest drill of this timeline that passed
        self.drill_failure: str | None = None  # of the newest drill

    async def remembered(self) -> Confirmed | None:
        """How far the replica was, by its head. None when that is not of this very file: of another
        timeline, or of commits that are not here.
        """
        try:
            found = await self._heads.find()
            if found is None or not await self._reader.run(is_of_file, found[1], self._boot):
                return None
        except EdgeStoreError as exc:  # the first look tells, a little later
            log.warning("head_not_read", code=exc.code, error=str(exc))
            return None
        stored, head = found
        return Confirmed(seq=head.seq, txid=head.txid, at=stored.written_at)

    async def run(
        self, obstacle: Callable[[], Cause | None], look: Callable[[], ReplicaStatus]
    ) -> None:
        """Tell, until cancelled. ``look`` gives the status; with an ``obstacle`` to replication
        there is none to tell.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                cause = obstacle()
                await self._keep_refusal(is_taken=cause is Cause.TAKEN)
                if cause is None:
                    await self._tell_if_due(look())
            except EdgeStoreError as exc:
                if not self._is_failing:
                    log.warning("head_not_written", code=exc.code, error=str(exc))
                self._is_failing = True

    async def tell_last(self, status: ReplicaStatus) -> None:
        """At the stop, after the last sync."""
        try:
            async with asyncio.timeout(LAST_S):
                await self._tell_if_due(status, at_once=True)
        except (EdgeStoreError, TimeoutError) as exc:
            log.warning("head_not_written", error=str(exc))

    async def _keep_refusal(self, *, is_taken: bool) -> None:
        if is_taken and (self._refusal_at is None or self._now() - self._refusal_at >= HEARTBEAT_S):
            self._refusal_at = self._now()
            await self._refusal.put()
        elif not is_taken and self._refusal_at is not None:
            self._refusal_at = None
            await self._refusal.remove()

    async def _tell_if_due(self, status: ReplicaStatus, *, at_once: bool = False) -> None:
        if status.confirmed is None:
            return
        confirmed, told, now = status.confirmed, self._told, self._now()
        if now - self._tried_at < self._every_s and not at_once:
            return
        machine = told.machine if told is not None else None
        is_failed = self.drill_failure is not None
        if told is not None and (
            told.proven != self.proven or (machine and machine.drill_failed != is_failed)
        ):
            told = None
        if told is not None and (confirmed.seq, confirmed.txid) == (told.seq, told.txid):
            if now - self._told_at < HEARTBEAT_S or status.lag_s > 0:
                return
            head = told
        else:
            head, self._counted = await self._reader.run(
                read_head, self._boot, confirmed.txid, confirmed.seq, self._counted
            )
        machine = await asyncio.to_thread(self._machine.look, machine, drill_failed=is_failed)
        head = msgspec.structs.replace(head, proven=self.proven, machine=machine)
        self._tried_at = now
        await self._heads.write(head)
        self._told, self._told_at, self._is_failing = head, now, False

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
