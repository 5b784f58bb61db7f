"""Drills of a running box: on a schedule, after an unclean start, soon after the replica was begun
anew or is known to lack commits, and when somebody asks.

A drill restores the replica beside the database, or brings the copy of the last one forward, and
compares (``proof.py``), leaves one row in ``drills``, and so proves every result up to its
position. A replica that fails is an alarm, is taken anew from the live file, and is proven again;
where the live file itself is damaged, that is the alarm, and the replica is left as it is. What
says nothing of the replica (its store does not answer, the disk is full) is tried again, and no
row. Runs on the event loop.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edge_store.alerts import AlarmName, Alarms
from edge_store.clock import now_ms
from edge_store.config import Config
from edge_store.errors import EdgeStoreError, ReplicationError
from edge_store.loggers import get_logger
from edge_store.replica.anew import upload_anew
from edge_store.replica.backoff import Backoff
from edge_store.replica.compare import read_marks
from edge_store.replica.heads import Proven
from edge_store.replica.kept import discard_copy
from edge_store.replica.proof import Job, Proof
from edge_store.replica.proving import prove_aside
from edge_store.replica.room import Replica
from edge_store.replica.status import Cause as ReplicaCause
from edge_store.result import Boot, Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader, translated

__all__ = ["UNKNOWN", "Cause", "Drilled", "Drills", "Serving", "drilling"]

log = get_logger(__name__)

FIRST_AFTER_S = 300.0  # of a box that has never had one: so long until the first
AFTER_UNCLEAN_S = 2.0  # Litestream takes up what the crash left
AGAIN_S = 600.0  # after one that was undecided, and after one that no healing helped
AGAIN_MAX_S = 86400.0
LOOK_S = 5.0  # at whether the replica lacks a proof; it does if two looks in a row say so
JITTER = 0.1
SYNC_TIMEOUT_S = 300.0  # after a crash the path may have to be asked for first
SYNC_AGAIN_S = 0.2
LASTING = (ReplicaCause.TAKEN, ReplicaCause.SWAPPED, ReplicaCause.PAUSED)  # until somebody acts
UNKNOWN = "`edge-store replica check` tries the store; then drill again: the replica may be good"
HEAL_TIMEOUT_S = 3600.0  # the whole database is uploaded


class Cause(StrEnum):
    """Why there is a drill."""

    SCHEDULE = "schedule"
    UNCLEAN_START = "unclean_start"
    ASKED = "asked"
    HEALED = "healed"


FULL = (Cause.UNCLEAN_START, Cause.HEALED)  # what was true of the replica before says nothing


class Drilled(Record, frozen=True, kw_only=True):
    """One drill as it is recorded; ``drill_id`` is None when it could not be."""

    drill_id: int | None
    cause: Cause
    proof: Proof

    @property
    def passed(self) -> bool:
        """Whether the copy was what the live file is."""
        return self.proof.fault is None


class Serving(NamedTuple):
    """What drills have of it: its way to write, and whether requests are in flight."""

    change: Callable[..., Awaitable[Any]]
    is_busy: Callable[[], bool]


class Means(NamedTuple):
    """``heal`` makes Litestream take the whole database anew."""

    reader: DatabaseThread
    serving: Serving
    heal: Callable[[], Awaitable[None]]


class Drills:
    """Runs them, one at a time."""

    def __init__(
        self,
        config: Config,
        boot: Boot,
        replica: Replica,
        means: Means,
        alarms: Alarms,
    ) -> None:
        self._config = config
        self._boot = boot
        self._replica = replica
        self._reader, self._serving, self._heal = means
        self._alarms = alarms
        self._one = asyncio.Lock()
        self._unheard_until = -math.inf  # monotonic: before it no lack of a proof starts a drill
        self.proven_at = 0  # UTC ms; 0 when no drill of this timeline has passed
        self._proven: Proven | None = None

    async def recall(self) -> None:
        """Know the newest drill that passed, and whether the newest one failed."""
        timeline = {"timeline": self._boot.timeline}
        row = await self._reader.run(_row, "select_proven", timeline)
        if row is not None:
            self.proven_at, seq, txid = row
            self._proven = Proven(txid=txid, seq=seq)
        last = await self._reader.run(_row, "select_last_drill", {})
        is_failed = last is not None and not last[1] and last[2] == self._boot.timeline
        self._replica.drilled(self._proven, last[3] if is_failed else None)

    async def run(self) -> None:
        """Drill when it is time, until cancelled. Nothing that comes of one ends the daemon."""
        interval_s = self._config.replica.drill_interval_s
        again_s = min(AGAIN_S, interval_s or AGAIN_S)
        failed = Backoff(again_s, interval_s or AGAIN_MAX_S)
        early = Backoff(AGAIN_S, AGAIN_MAX_S)
        try:
            pause_s, cause = await self._reader.run(self._first, interval_s)
        except Exception:  # see below
            log.exception("drill_postponed", again_in_s=again_s)
            pause_s, cause = again_s, Cause.SCHEDULE
        due_at = _after(pause_s)
        while True:
            is_early = await self._is_called(due_at)
            drilled = await self._tried(Cause.HEALED if is_early else cause, again_s)
            is_good = bool(drilled and drilled[-1].passed)
            if is_early:  # who damages it again and again has it uploaded ever more rarely
                self._unheard(early.begin(time.monotonic()) if drilled else again_s)
                if not is_good:
                    continue  # what is scheduled stays so: within the budget it may be enough
            elif not is_good:  # where no healing helped, each costs an upload
                pause_s = failed.begin(time.monotonic()) if drilled else again_s
                due_at = _after(self._unheard(pause_s))
                continue
            elif len(drilled) > 1:  # it had to be uploaded
                self._unheard(AGAIN_S)
            else:
                early.reset()
                self._unheard_until = -math.inf
            failed.reset()
            due_at, cause = _after(_jittered(interval_s or math.inf)), Cause.SCHEDULE

    async def _tried(self, cause: Cause, again_s: float) -> list[Drilled]:
        """None of them: nothing is known of the replica."""
        try:
            return await self.drill(cause)
        except EdgeStoreError as exc:
            log.warning("drill_postponed", code=exc.code, error=str(exc), again_in_s=again_s)
        except Exception:  # our own defect: the box goes on
            log.exception("drill_postponed", again_in_s=again_s)
        return []

    async def _is_called(self, due_at: float) -> bool:
        """Wait until ``due_at``, monotonic. True: the replica lacks a proof meanwhile."""
        looks = 0
        while (left_s := due_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, LOOK_S))
            looks = looks + 1 if self._replica.lacks_proof() else 0
            if looks > 1 and time.monotonic() >= self._unheard_until:
                return True
        return False

    def _unheard(self, pause_s: float) -> float:
        """For so long only the time starts a drill."""
        self._unheard_until = max(self._unheard_until, time.monotonic() + pause_s)
        return pause_s

    def _first(self, connection: Connection, interval_s: float) -> tuple[float, Cause]:
        """How long until the first of this boot, and why there is one."""
        boot_id = {"boot_id": self._boot.boot_id}
        (ended,) = _row(connection, "select_boot_before_ended", boot_id)
        if not ended:
            discard_copy(Path(self._config.store.path))
            return AFTER_UNCLEAN_S, Cause.UNCLEAN_START
        if not interval_s:
            return math.inf, Cause.SCHEDULE
        last = _row(connection, "select_last_drill", {})
        if last is None or not last[1]:
            return _jittered(min(FIRST_AFTER_S, interval_s)), Cause.SCHEDULE
        since_s = max(0.0, (now_ms() - last[0]) / 1000)  # the clock may have stepped
        return max(AFTER_UNCLEAN_S, _jittered(interval_s) - since_s), Cause.SCHEDULE

    async def drill(
        self,
        cause: Cause,
        say: Callable[[str], object] = lambda _step: None,
        *,
        is_full: bool = False,
    ) -> list[Drilled]:
        """Drill; and if it fails, heal and drill again. ``say`` is told each step.

        Raises:
            EdgeStoreError: nothing is known of the replica.
        """
        async with self._one:
            drilled = [await self._drill_once(cause, say, is_full=is_full)]
            if drilled[0].passed:
                return drilled
            if drilled[0].proof.live is not None:  # the replica may be the last good copy
                say("the database itself is damaged: its replica is left as it is")
                return drilled
            say("the replica is bad: the whole database is uploaded anew")
            try:
                await self._heal()
                await self._confirmed(HEAL_TIMEOUT_S, say)
            except EdgeStoreError as exc:
                log.error("replica_not_healed", code=exc.code, error=str(exc))
                return drilled
            return [*drilled, await self._drill_once(Cause.HEALED, say)]

    async def drill_asked(
        self, say: Callable[[str], object], *, is_full: bool = False
    ) -> list[Drilled]:
        """One that somebody asks for now. Raises as ``drill`` does."""
        return await self.drill(Cause.ASKED, say, is_full=is_full)

    async def _drill_once(
        self, cause: Cause, say: Callable[[str], object], *, is_full: bool = False
    ) -> Drilled:
        section = self._config.replica
        marks = await self._reader.run(read_marks)
        say("waiting until all that is committed is in the replica")
        await self._confirmed(SYNC_TIMEOUT_S, say)
        ledger, left = self._replica.ledger, None
        if section.bytes_per_day:
            left = max(0, section.bytes_per_day - ledger.drilled_bytes)
        database = Path(self._config.store.path)
        job = Job(
            url=section.url,
            device_id=self._boot.device_id,
            database=str(database),
            marks=marks,
            reserve_bytes=self._config.store.disk_reserve_bytes,
            bytes_left=left,
            is_full=is_full or cause in FULL,
            keeps=bool(section.drill_interval_s and section.drill_full_interval_s),
            full_every_s=section.drill_full_interval_s,
        )
        try:
            proof = await prove_aside(
                job,
                say,
                ledger.add_drill,
                idle_s=section.drill_idle_s,
                is_busy=self._serving.is_busy,
            )
        finally:  # one that was cut counts, too
            ledger.keep(self._replica.ownership.traffic)
        if proof.undecided is not None:
            raise ReplicationError(
                f"nothing is known of the replica: {proof.undecided}", hint=UNKNOWN
            )
        return await self._noted(cause, proof)

    async def _confirmed(self, timeout_s: float, say: Callable[[str], object]) -> None:
        """Wait until all that is committed by now is in the replica, and say what for; not where
        Litestream passes over it.

        Raises:
            ReplicationError: it is not in time, or will not be before somebody does something.
        """
        deadline = time.monotonic() + timeout_s
        told: str | None = None
        while True:
            left_s = max(1.0, deadline - time.monotonic())
            try:
                await self._replica.sync(left_s)
            except ReplicationError as exc:
                status = self._replica.status
                if status.cause is ReplicaCause.UNREAD:
                    return  # the copy lacks it, which is what a drill is to find
                why = status.error or (status.cause.meaning if status.cause else str(exc))
                if status.cause in LASTING:
                    raise ReplicationError(
                        f"nothing is replicated now: {why}", hint="see `edge-store replica status`"
                    ) from exc
                if time.monotonic() > deadline:
                    raise
                if why != told:
                    told = why
                    say(f"not yet: {why}")
                await asyncio.sleep(SYNC_AGAIN_S)  # it is being started again
            else:
                return

    async def _noted(self, cause: Cause, proof: Proof) -> Drilled:
        """Leave the row, and tell."""
        if proof.because is not None:
            log.warning("drill_not_incremental", because=proof.because)
        if proof.overdue is not None:
            log.warning("drill_not_full", because=proof.overdue)
        drill_id = None
        at = now_ms()
        try:
            drill_id = await self._serving.change(_insert, self._boot.timeline, at, cause, proof)
        except EdgeStoreError as exc:
            log.error("drill_not_recorded", code=exc.code, error=str(exc))
        drilled = Drilled(drill_id=drill_id, cause=cause, proof=proof)
        if drilled.passed and proof.txid is not None:
            self.proven_at = at
            self._proven = Proven(txid=proof.txid, seq=proof.seq_to)
            self._replica.is_unproven = False
        self._replica.drilled(self._proven, proof.fault)
        told = {
            "drill_id": drill_id,
            "cause": cause.value,
            "kind": proof.kind.value,
            "txid": proof.txid,
            "seq_to": proof.seq_to,
            "rows": proof.rows,
            "duration_ms": proof.duration_ms,
        }
        if proof.fault is None:
            log.info("drill_passed", **told)
            self._alarms.resolve(AlarmName.DRILL_FAILED)
            return drilled
        log.error("drill_failed", **told, failure=proof.fault)
        # that of the chain stands until the next start has examined the file
        name = AlarmName.DRILL_FAILED if proof.live is None else AlarmName.CHAIN_BROKEN
        self._alarms.raise_(name, proof.fault, drill_id=drill_id)
        return drilled


def _after(pause_s: float) -> float:
    return time.monotonic() + pause_s


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (boxes, not secrets)


def _row(connection: Connection, name: str, params: dict[str, Any]) -> Any:
    with translated("the drills cannot be read"):
        return connection.execute(sql(name), params).fetchone()


def _insert(connection: Connection, timeline: str, at: int, cause: Cause, proof: Proof) -> int:
    row = {
        "at": at,
        "timeline": timeline,
        "seq_to": proof.seq_to,
        "rows": proof.rows,
        "txid": proof.txid,
        "cause": cause.value,
        "kind": proof.kind.value,
        "bytes": proof.bytes,
        "duration_ms": proof.duration_ms,
        "passed": int(proof.fault is None),
        "failure": proof.fault,
    }
    drill_id = connection.execute(sql("insert_drill"), row).lastrowid
    assert drill_id is not None
    return drill_id


@asynccontextmanager
async def drilling(
    config: Config,
    boot: Boot,
    replica: Replica,
    database: DatabaseThread,
    serving: Serving,
    alarms: Alarms,
) -> AsyncIterator[Drills]:
    """Drill while the body runs. One that is under way at the end is cut, and leaves no row."""
    path = Path(config.store.path)
    reader = await DatabaseThread.open(lambda: open_reader(path))
    heal = partial(upload_anew, replica, database)
    drills = Drills(config, boot, replica, Means(reader, serving, heal), alarms)
    await drills.recall()
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(drills.run())
            try:
                yield drills
            finally:
                running.cancel()
    finally:
        await reader.close()
