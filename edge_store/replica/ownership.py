"""Whose a replica's path is. Two boxes that write to one destroy the replica, and neither is told.

An object beside the replica names the boot that writes there. Whoever holds everything that was
written there may go on; but a clone does, too. So unless the former boot is known to have ended,
it is asked, in that very object, and has time to answer: one that runs looks there again and again.
Anybody else (a second box under the same id, a box set up anew or set back) may not, until its
operator says so. docs/adr/0016 has the whole of it.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import LitestreamUnavailable, PathTaken, ReplicationError
from edge_store.ids import BootId, new_boot_id
from edge_store.loggers import get_logger
from edge_store.replica.heads import Head, Heads
from edge_store.replica.lineage import Lineage
from edge_store.replica.machine import ClockOffset
from edge_store.replica.objects import Found, Objects
from edge_store.replica.owner import Asker, Owner, owner_key, read_owner
from edge_store.replica.traffic import Traffic

__all__ = ["SILENT_S", "Asking", "Ownership", "claim_first"]

log = get_logger(__name__)

CLAIM_AT_START_S = 5.0
SILENT_S = 900.0  # three heartbeats of a head
RENEW_S = 300.0  # a copy of a running machine is told from its original by whose the last one is
SETTLE_MIN_S, SETTLE_MAX_S = 1.0, 2.0  # where the store knows no conditions
AGAIN_MIN_S = 0.2
OR_TAKE_OVER = "or take the path from it: `edge-store replica take-over`"
TAKEN = {  # how somebody else has it: what is said of the owner, and what may be done
    "now": (
        "is written by {} now: it is no longer this box's",
        "a clone of this box, or a box in its place; end one of them, " + OR_TAKE_OVER,
    ),
    "clone": (
        "is written by {}, which is running: one of the two boxes is a clone of the other",
        "give one of them a database and a device.id of its own, " + OR_TAKE_OVER,
    ),
    "restored": (
        "is written by {}, which is running; this database was restored from an earlier state",
        "stop that box, and start this one again, " + OR_TAKE_OVER,
    ),
    "older": (
        "was last written by {}, and holds more than this database, an earlier state or a clone",
        "get the newer state by `edge-store init --from-replica URL`, " + OR_TAKE_OVER,
    ),
    "foreign": (
        "is of {}, which this database knows nothing of",
        "a second box needs a device.id of its own; one that was set up anew gets its results back "
        "by `edge-store init --from-replica URL`; " + OR_TAKE_OVER,
    ),
}


class Asking(ReplicationError):
    """Whether the path is ours is not known yet. ``again_s``: when to look again."""

    def __init__(self, message: str, again_s: float) -> None:
        super().__init__(message, hint="what is committed waits on this box's disk meanwhile")
        self.again_s = max(again_s, AGAIN_MIN_S)


class Ownership:
    """The claim of one boot on its path.

    ``lineage`` tells what our own file knows of an owner and a head; ``was_ours`` whether a replica
    whose owner nobody names was written from here.
    """

    def __init__(
        self,
        objects: Objects,
        claim: Owner,
        heads: Heads,
        lineage: Callable[[Owner | None, Head | None], Awaitable[Lineage]],
        was_ours: Callable[..., Awaitable[bool]],
    ) -> None:
        self._objects = objects
        self._claim = claim
        self._heads = heads
        self._lineage = lineage
        self._was_ours = was_ours
        self._key = owner_key(claim.device_id)
        self._nonces: set[str] = set()
        self.offset = ClockOffset()  # of our clock and the store's
        self._previous: BootId | None = None
        self._trusted_at = 0.0  # before then, to read our own claim there proves nothing
        self._renewed_at = 0.0
        self._asked_at: float | None = None
        self._was_answered = False
        self._other_asker: tuple[BootId, float] | None = None

    @property
    def boot_id(self) -> BootId:
        """The boot whose claim it is."""
        return self._claim.boot_id

    @property
    def every_s(self) -> float:
        """How often the owner looks."""
        return self._claim.every_s

    @property
    def traffic(self) -> Traffic:
        """What the daemon has asked of the store for its claim and its head."""
        return self._objects.traffic

    async def seen(self) -> tuple[Owner | None, int | None]:
        """Who has the path now, and when the store was last given the head (UTC ms).

        Raises:
            ReplicationError: the store does not answer.
        """
        _, owner = await read_owner(self._objects, self._key)
        head = await self._heads.find()
        return owner, head[0].written_at if head is not None else None

    def begun(self) -> None:
        """From now on it is our boot that wrote there last."""
        self._previous = self.boot_id

    async def claim(self, *, by_force: bool = False) -> BootId | None:
        """Make the path ours, or find that it is. Returns the boot that wrote there before.

        Raises:
            PathTaken: another box writes there. ``by_force`` takes it away from that one.
            Asking: that is being found out.
            ReplicationError: the store does not answer.
        """
        began = time.monotonic()
        found, owner = await read_owner(self._objects, self._key)
        if owner is not None and self._is_mine(owner):
            assert found is not None
            if owner.asked_by is not None:
                await self._renew(found)
            await self._settled()
            return self._previous
        is_forced, quiet_s = by_force, 0.0
        if by_force:
            quiet_s = owner.answers_within_s if owner is not None else 0.0
        elif owner is None or found is None:
            if not await self._was_ours(had_it=self._previous == self.boot_id):
                raise self._strange()
        else:
            is_forced, quiet_s = await self._right(found, owner)
        self._previous = owner.boot_id if owner is not None else None
        await self._write(found, began, is_forced=is_forced, quiet_s=quiet_s)
        await self._settled()
        return self._previous

    async def check(self) -> bool:
        """Whether what lies there is ours and whole; if not, it is to be made anew.

        Raises:
            PathTaken: somebody else has taken it.
            ReplicationError: the store does not answer.
        """
        found, owner = await read_owner(self._objects, self._key)
        if owner is None or found is None:
            return False
        self.offset.read(owner.nonce, found.written_at)
        if not self._is_mine(owner):
            lineage = await self._lineage(owner, None)
            if not (self._is_here(owner) and lineage.knows_boot):
                asker = Asker(boot_id=self._claim.boot_id, host=self._claim.host, wrote=True)
                await self._put(found, msgspec.structs.replace(owner, asked_by=asker))
                raise self._taken(owner, "now")
            # who asked our former boot, with no conditions in the store, wrote over our claim
        elif not (owner.asked_by or owner.quiet_s) and self._is_fresh():
            return True
        if owner.asked_by is not None:
            log.warning("replica_path_asked_for", by=owner.asked_by.host)
        await self._renew(found)
        return owner.asked_by is None or not owner.asked_by.wrote

    def _is_fresh(self) -> bool:
        return time.monotonic() < self._renewed_at + RENEW_S

    def _is_mine(self, owner: Owner) -> bool:
        """Raises PathTaken when a copy of this running machine has written it."""
        if owner.boot_id != self._claim.boot_id:
            return False
        if owner.nonce not in self._nonces:
            raise PathTaken(
                f"the replica of {owner.device_id} is written by a copy of this running machine "
                f"({owner.host}), too",
                hint="end one of them; then start this one's daemon again",
            )
        return True

    def _is_here(self, owner: Owner) -> bool:
        return owner.place == self._claim.place

    async def _right(self, found: Found, owner: Owner) -> tuple[bool, float]:
        """Return once we may take the place of ``owner``: whether the replica may hold more than
        our database, and how long to write nothing there yet.
        """
        head = await self._heads.find()
        lineage = await self._lineage(owner, head[1] if head else None)
        goes_on = lineage.knows_boot and (lineage.holds_head or owner.is_forced)
        if goes_on and (self._is_here(owner) or lineage.has_ended):
            return not lineage.holds_head, owner.quiet_s
        if goes_on:
            await self._ask(found, owner, "")
            return not lineage.holds_head, 0.0
        is_back = lineage.knows_timeline and owner.timeline != self._claim.timeline
        if not (lineage.was_restored and is_back):
            raise self._taken(owner, "older" if lineage.knows_timeline else "foreign")
        asked = await self._ask(found, owner, "restored")
        if head is not None:
            silent_s = asked + (found.written_at - head[0].written_at) / 1000
            if silent_s < SILENT_S:
                raise Asking(
                    f"the replica holds more than this restored database; its last writer, {owner},"
                    f" has been silent for {silent_s:.0f} s, and {SILENT_S:.0f} s are waited for",
                    min(SILENT_S - silent_s, self._claim.every_s),
                )
        return True, 0.0

    async def _ask(self, found: Found, owner: Owner, kind: str) -> float:
        """Return, once the owner has had time to answer and has not, the seconds since we asked."""
        asker = owner.asked_by
        now = time.monotonic()
        if asker is not None and asker.boot_id == self._claim.boot_id:
            self._asked_at = self._asked_at or now  # the answer to our question may have been lost
            waited_s = now - self._asked_at
            if waited_s >= owner.answers_within_s:
                return waited_s
            raise self._wait(owner, owner.answers_within_s - waited_s)
        if self._was_answered or (asker is None and self._asked_at is not None):
            self._was_answered = True
            raise self._taken(owner, kind or "clone")
        if asker is not None and not self._is_stale(asker, now, owner):
            raise Asking(f"{asker.host} asks for this path, too", owner.every_s)
        ours = Asker(boot_id=self._claim.boot_id, host=self._claim.host)
        if await self._put(found, msgspec.structs.replace(owner, asked_by=ours)):
            self._asked_at = time.monotonic()
        raise self._wait(owner, owner.answers_within_s)

    def _is_stale(self, asker: Asker, now: float, owner: Owner) -> bool:
        """Whether another asker has neither been answered nor taken the path for a long time."""
        if self._other_asker is None or self._other_asker[0] != asker.boot_id:
            self._other_asker = (asker.boot_id, now)
        return now - self._other_asker[1] >= 2 * owner.answers_within_s

    async def _write(
        self, found: Found | None, began: float, *, is_forced: bool, quiet_s: float
    ) -> None:
        """Write our claim over ``found``, read since ``began``."""
        nonce = new_boot_id()
        claim = msgspec.structs.replace(
            self._claim, nonce=nonce, is_forced=is_forced, quiet_s=quiet_s
        )
        self._claim = claim
        self._nonces.add(nonce)
        self._trusted_at = began + max(claim.answers_within_s, quiet_s)  # if no answer comes
        if not await self._put(found, claim):
            raise ReplicationError(
                f"{self._key} was written by another at the same moment",
                hint="it is read again soon",
            )
        now = self._renewed_at = time.monotonic()
        has_conditions = not await self._put(found, claim)  # what it was is no longer there
        if has_conditions:
            settled_at = now
        elif time.monotonic() - began < SETTLE_MIN_S:  # as did who read before we had written
            settled_at = time.monotonic() + random.uniform(SETTLE_MIN_S, SETTLE_MAX_S)  # noqa: S311
        else:
            settled_at = time.monotonic() + claim.answers_within_s
        self._trusted_at = max(settled_at, now + quiet_s)

    async def _settled(self) -> None:
        """Our claim is read there once nobody may write over it any more."""
        left_s = self._trusted_at - time.monotonic()
        if left_s > SETTLE_MAX_S:
            raise Asking(
                f"the path is this box's; replication begins in {left_s:.0f} s, when its former "
                "owner has seen that",
                left_s,
            )
        if left_s > 0:
            await asyncio.sleep(left_s)
            _, owner = await read_owner(self._objects, self._key)
            if owner is None or not self._is_mine(owner):
                raise ReplicationError(
                    f"{self._key} was written by another at the same moment",
                    hint="it is read again soon",
                )

    async def _renew(self, found: Found) -> None:
        nonce = new_boot_id()
        self._nonces.add(nonce)
        if await self._put(found, msgspec.structs.replace(self._claim, nonce=nonce, quiet_s=0)):
            self._renewed_at = time.monotonic()

    async def _put(self, found: Found | None, owner: Owner) -> bool:
        content = msgspec.json.format(msgspec.json.encode(owner), indent=2)
        began = now_ms()
        if found is None:
            is_there = await self._objects.create(self._key, content)
        else:
            is_there = await self._objects.replace(self._key, content, found)
        if is_there and owner.nonce in self._nonces:
            self.offset.wrote(owner.nonce, began)
        return is_there

    def _wait(self, owner: Owner, again_s: float) -> Asking:
        return Asking(f"{owner} wrote there, and is asked whether it is still running", again_s)

    def _taken(self, owner: Owner, how: str) -> PathTaken:
        said, hint = TAKEN[how]
        return PathTaken(f"the replica of {owner.device_id} {said.format(owner)}", hint=hint)

    def _strange(self) -> PathTaken:
        said, hint = TAKEN["foreign"]
        return PathTaken(
            f"the replica of {self._claim.device_id} {said.format('somebody')}", hint=hint
        )


async def claim_first(claim: Callable[[], Awaitable[None]]) -> None:
    """At the start, which waits so long for the store and then goes on without."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLAIM_AT_START_S):
            try:
                await claim()
            except LitestreamUnavailable:
                raise
            except ReplicationError as exc:
                log.error("replica_unclaimed", error=str(exc), hint=exc.hint)
