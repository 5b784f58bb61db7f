"""Replication as the daemon has it: the path is claimed, then Litestream runs, and the head tells
how far it is.

Until the path is known to be ours no Litestream runs, and the box serves on: what it commits waits
on its disk. A path that somebody else takes later stops it again.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import msgspec

from edge_store.clock import rfc3339
from edge_store.errors import (
    LitestreamUnavailable,
    PathTaken,
    ReplicationError,
)
from edge_store.loggers import get_logger
from edge_store.replica.anew import Ground
from edge_store.replica.control import Synced
from edge_store.replica.explain import is_full
from edge_store.replica.external import External
from edge_store.replica.heads import Proven
from edge_store.replica.health import Watch
from edge_store.replica.ownership import Asking, Ownership
from edge_store.replica.past import Past
from edge_store.replica.pause import Pause
from edge_store.replica.status import Cause, ReplicaState, ReplicaStatus
from edge_store.replica.supervisor import Litestream
from edge_store.replica.telling import Telling
from edge_store.replica.traffic import Ledger
from edge_store.result import NotReplicated

__all__ = ["Replica"]

log = get_logger(__name__)

PAUSE_SYNC_S = 5.0
UNSEEN_LOOKS, UNSEEN_MIN_S = 4, 5.0  # then the store counts as away, whatever Litestream says

REFUSALS = (Cause.TAKEN, Cause.UNREACHABLE, Cause.FULL, Cause.STARTING)


class Replica:
    """What the rest of the daemon sees of it."""

    def __init__(  # noqa: PLR0913  (all that it is made of)
        self,
        litestream: Litestream | External,
        ownership: Ownership,
        telling: Telling,
        ground: Ground,
        watch: Watch,
        pause: Pause,
        ledger: Ledger,
        past: Past,
    ) -> None:
        self._litestream = litestream
        self.ownership = ownership
        self._telling = telling
        self._ground = ground
        self._watch = watch
        self._pause = pause
        self.ledger = ledger
        self._past = past
        self._refused: ReplicationError | None = Asking("the store has not answered yet", 0.0)
        self._store_answered_at = -math.inf  # monotonic
        self._unseen: str | None = None  # why the last look at the owner failed
        self._settling = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self._is_held = True  # until it is claimed
        self.is_unproven = False  # begun anew, or seen to lack commits, and not drilled since

    @property
    def status(self) -> ReplicaStatus:
        """How far the replica is, as last seen."""
        status = self._litestream.status
        cause, error = self._obstacle(), status.error
        known = (Cause.UNREAD, Cause.FULL)
        is_stalled = status.state is ReplicaState.STALLED and status.cause not in known
        if cause is None and is_stalled:  # only if the store is known to have answered since
            stalled_s = max(0.0, status.lag_s - self._litestream.stalled_after_s)
            if self._store_answered_at < time.monotonic() - stalled_s:
                cause = Cause.UNREACHABLE
        if cause in REFUSALS and self._refused is not None:
            error = str(self._refused)
        elif cause is None and status.state is ReplicaState.OK and self._is_unseen:
            cause, error = Cause.UNREACHABLE, self._unseen  # whose the path is by now, who knows
        paused = self._pause.now
        return msgspec.structs.replace(
            status,
            state=cause.state if cause else status.state,
            cause=cause or status.cause,
            error=error,
            paused_until=paused.until if paused else None,
            health=self._watch.health,
            proven=self._telling.proven,
            drill_failure=self._telling.drill_failure,
            usage=self.ledger.usage,
        )

    @property
    def _is_unseen(self) -> bool:
        """Whether it is not known for several looks that the path is still ours."""
        bound_s = max(UNSEEN_LOOKS * self.ownership.every_s, UNSEEN_MIN_S)
        return time.monotonic() - self._store_answered_at > bound_s

    def drilled(self, proven: Proven | None, failure: str | None) -> None:
        """What the newest one that passed proves, for the next head; why the newest failed."""
        self._telling.proven, self._telling.drill_failure = proven, failure
        if proven is not None and failure is None:
            self._litestream.positions.proven(int(proven.txid, 16))

    def lacks_proof(self) -> bool:
        """Whether a drill should come soon, as what others have proven says nothing any more."""
        if self._litestream.status.cause is Cause.UNREAD:
            self.is_unproven = True  # Litestream may take the whole database by itself
        return self.is_unproven

    async def snapshot(self) -> None:
        """See ``Litestream.snapshot``."""
        await self._litestream.snapshot()

    async def tell(self) -> None:
        """Keep the head as it is, until cancelled; nothing while this box replicates nothing."""
        await self._telling.run(self._obstacle, lambda: self._litestream.status)

    async def leave(self) -> None:
        """Before the last sync: there is none of a file that nobody finds any more."""
        if self._watch.look_at_file():
            with suppress(ReplicationError):
                await self._settle()

    async def tell_last(self) -> None:
        """At the stop, when the last commit is in the replica."""
        self.keep_ground()
        if self._obstacle() is None and self._litestream.is_replicated:
            await self._telling.tell_last(self._litestream.status)

    def keep_ground(self) -> None:
        """With commits that Litestream has passed over the next start begins the replica anew, and
        so does one after a crash: its files would not show it any more.

        Raises:
            ReplicationError: the disk does not take that.
        """
        if self._litestream.positions.has_passed_over:
            self._ground.forget()
        elif self._refused is None and self._ground.stand != self.ownership.boot_id:
            self._ground.note(self.ownership.boot_id)  # it was made good

    def _obstacle(self) -> Cause | None:
        """Why no Litestream may run now."""
        if self._watch.is_swapped:
            return Cause.SWAPPED
        if self._refused is not None:
            if isinstance(self._refused, Asking):
                return Cause.STARTING
            if isinstance(self._refused, PathTaken):
                return Cause.TAKEN
            return Cause.FULL if is_full(str(self._refused)) else Cause.UNREACHABLE
        return Cause.PAUSED if self._pause.now is not None else None

    async def pause(self, for_s: float) -> int:
        """Replicate nothing from now, for ``for_s``; returns the end (UTC ms).

        Raises:
            ReplicationError: Litestream does not end, or the pause cannot be kept.
        """
        with suppress(ReplicationError):
            await self._litestream.sync(PAUSE_SYNC_S)
        try:
            until = self._pause.begin(for_s)
        except OSError as exc:
            raise ReplicationError(f"the pause cannot be kept: {exc.strerror}") from exc
        await self._settle()
        log.warning("replica_paused", until=rfc3339(until))
        return until

    async def resume(self) -> None:
        """End a pause; no error when there is none.

        Raises:
            LitestreamUnavailable: Litestream does not stay up.
            ReplicationError: the pause cannot be ended.
        """
        try:
            self._pause.end()
        except OSError as exc:
            raise ReplicationError(f"the pause cannot be ended: {exc.strerror}") from exc
        await self._settle()
        log.warning("replica_resumed")

    async def _settle(self) -> None:
        """Let Litestream run, or not, as things are."""
        async with self._settling:
            if self._obstacle() is None:
                await self._litestream.start()
                self._is_held = False
            elif not self._is_held:
                await self._litestream.hold()
                self._is_held = True

    async def keep_healthy(self) -> None:
        """Look every 30 s; what has to stop stops, what may go on does, and the disk is kept."""
        while True:
            status, child = self.status, self._litestream.process_id
            again_s = await self._watch.look(status, self._pause.now, child)
            try:
                await self._settle()
                self.keep_ground()
            except ReplicationError as exc:
                log.error("replica_unsettled", code=exc.code, error=str(exc))
            await self._watch.keep_bounded(self._litestream, self.status.state)
            self.ledger.keep(self.ownership.traffic)
            await asyncio.sleep(again_s)

    @property
    def process_id(self) -> int | None:
        """Litestream's; None while there is none."""
        return self._litestream.process_id

    def follow(self, newest_seq: Callable[[], int]) -> None:
        """See ``Litestream.follow``."""
        self._litestream.follow(newest_seq)
        self._watch.newest_seq = newest_seq

    def committed(self) -> None:
        """There was a COMMIT; the next has not begun."""
        self._litestream.positions.committed()

    @property
    def replicated_seq(self) -> int:
        """Every result up to this one is in the replica; 0: of none is it known."""
        confirmed = self._litestream.status.confirmed
        return 0 if confirmed is None else confirmed.seq

    @property
    def hindered(self) -> NotReplicated | None:
        """Why nothing is known to be replicated until a person acts, for those who wait for it."""
        match self._obstacle():
            case Cause.TAKEN:
                return NotReplicated.TAKEN
            case Cause.PAUSED:
                return NotReplicated.PAUSED
        is_unread = self._litestream.status.cause is Cause.UNREAD
        return NotReplicated.UNREAD if is_unread else None

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
        async with self._claiming:
            if by_force:
                await self._refuse(Asking("the path is being taken over", 0.0))
            try:
                former = await self.ownership.claim(by_force=by_force)
                self._store_answered_at = time.monotonic()
                await self._begin(anew=not self._ground.continues(former))
            except ReplicationError as exc:
                self._refused = exc
                raise

    async def take_over(self) -> float:
        """Take the path away from whoever has it. Returns in how many seconds replication begins:
        a former owner that runs needs them to see it.

        Raises:
            ReplicationError: the store does not answer.
        """
        log.warning("replica_taken_over")
        try:
            await self.claim(by_force=True)
        except Asking as exc:
            return exc.again_s
        return 0.0

    async def _begin(self, *, anew: bool) -> None:
        """The path is ours. ``anew``: what Litestream has here is of no use there."""
        if anew:
            self.is_unproven |= await self._ground.clear(self._litestream)
            self._litestream.remember(None)
        elif (known := await self._telling.remembered()) is not None:
            self._litestream.remember(known)
        self._ground.note(self.ownership.boot_id)
        self.ownership.begun()
        before, self._refused = self._refused, None
        try:
            await self._settle()
        except ReplicationError as exc:
            self._refused = before or exc
            raise

    async def _refuse(self, exc: ReplicationError) -> None:
        self._refused = exc
        await self._settle()

    async def keep_claimed(self) -> None:
        """Claim until it works, then see again and again that nobody else has taken the path."""
        while True:
            again_s = self.ownership.every_s
            try:
                if not self._watch.is_swapped:  # else this file has nothing to say there
                    await self._claim_or_check()
            except PathTaken as exc:
                log.error("replica_taken", error=str(exc), hint=exc.hint)
            except LitestreamUnavailable as exc:
                log.error("litestream_unavailable", error=str(exc))
            except ReplicationError as exc:
                if isinstance(exc, Asking):
                    again_s = min(again_s, exc.again_s)
                self._unseen = str(exc)
                log.warning("replica_unclaimed", error=str(exc))
            await asyncio.sleep(again_s)

    async def _claim_or_check(self) -> None:
        if self._refused is not None:
            await self.claim()
            log.warning("replica_claimed")
        elif not await self._check():  # it lost files, or another has written there, too
            log.error("replica_begun_anew", hint="who removed it, or wrote to it?")
            await self.claim()

    async def _check(self) -> bool:
        """See ``Ownership.check``. What it finds wrong stops Litestream."""
        async with self._claiming:
            if self._refused is not None:  # by who had the turn before
                return True
            try:
                is_whole = await self.ownership.check()
            except PathTaken as exc:
                await self._refuse(exc)
                raise
            self._store_answered_at = time.monotonic()
            if is_whole and self._litestream.status.cause is Cause.UNMOVED:
                is_whole = not await self._past.is_cut_off()
            if not is_whole:
                self._ground.forget()
                await self._refuse(Asking("the replica is begun anew", 0.0))
            return is_whole
