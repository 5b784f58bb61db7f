"""Retention beside requests: a pass now and then, on a thread. What it deletes it asks of the
writer, which paces it beside results (``recorder/transactions.py``).
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec

from edge_store.alerts import AlarmName
from edge_store.errors import AlreadyRunning, EdgeStoreError
from edge_store.loggers import get_logger
from edge_store.recorder.around import Around
from edge_store.recorder.deletions import What
from edge_store.result import Record
from edge_store.retention.changes import RETENTION_CHANGES
from edge_store.retention.choice import SEQ_MAX, Rule, Size, excess, measure
from edge_store.retention.floor import Floor, find_unmet, is_alarming
from edge_store.retention.passes import Done, Make, Pass
from edge_store.retention.standstill import Standstill, Stays
from edge_store.sqlite import Connection, open_reader

__all__ = ["Room", "replicated_upto", "retain"]

log = get_logger(__name__)

FIRST_S = 30.0  # a start has other things to do
LOOK_S = 30.0  # at the file's size
UNMET_S = 600.0  # whose the disk is takes a look at each file


async def retain(around: Around) -> None:
    """Until cancelled; at once where nothing is ever to be deleted."""
    config = around.config.retention
    if not config.is_on and not config.archive:
        around.alarms.resolve(AlarmName.RETENTION_FAILING)  # of a boot with other settings
        return
    try:
        await _passes(around)
    except Exception as exc:
        is_known = isinstance(exc, EdgeStoreError)  # else its words may be a result's
        around.alarms.raise_(
            AlarmName.RETENTION_FAILING,
            str(exc) if is_known else f"a pass met {type(exc).__name__}, a defect: see the log",
        )
        raise


async def _passes(around: Around) -> None:
    config, loop = around.config.retention, asyncio.get_running_loop()
    room = Room(around)
    await _is_asked(around, min(FIRST_S, config.interval_s))
    next_at = loop.time()
    while True:
        is_due = loop.time() >= next_at
        if is_due or await asyncio.to_thread(room.may_make_room):
            await room.work(by_size=not is_due)
            next_at = loop.time() + config.interval_s if is_due else next_at
            pause_s = min(config.interval_s, LOOK_S)
        else:
            pause_s = min(LOOK_S, max(0.0, next_at - loop.time()))
        if await _is_asked(around, pause_s):
            next_at = loop.time()


async def _is_asked(around: Around, pause_s: float) -> bool:
    """Whether within that time somebody wants a pass."""
    try:
        async with asyncio.timeout(pause_s):
            await around.retention_asked.wait()
    except TimeoutError:
        return False
    around.retention_asked.clear()
    return True


def replicated_upto(around: Around) -> int:
    """Results after this seq are in no other place yet: they stay."""
    if around.config.retention.archive or around.replica is None:
        return SEQ_MAX
    confirmed = around.replica.status.confirmed
    return 0 if confirmed is None else int(confirmed.seq)


class Room:
    """What is known from pass to pass."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._known = Standstill()
        self._floor = Floor(around.config.retention)
        self._stays = Stays()
        self._unmet_at = -math.inf  # when the floor of the disk was last told
        self._has_failed = False  # the last pass: its alarm stands until one has not

    def may_make_room(self) -> bool:
        """Whether the file is too large, and something may go that was not looked at in vain.
        Where not, the alarm is brought up to date, unless it is of a pass that has failed.
        """
        with closing(open_reader(self._around.path)) as connection:
            size = measure(connection, self._around.path)
            self._floor.look(size)
            may = self._may_make_room(size, connection)
            if not may and not self._has_failed:
                self._tell(size)
        return may

    def _may_make_room(self, size: Size, connection: Connection) -> bool:
        around, known, floor = self._around, self._known, self._floor
        over, _ = excess(around.config.retention, size, 0)
        if max(over, floor.over(size)) <= 0:
            return False
        known.look(connection)
        upto = min(size.newest, replicated_upto(around))
        if over > 0 and not known.is_all(upto):
            return True
        # of each kind no more go than results have come, and of one kind none may be left
        return floor.over(size) > 0 and any(
            floor.rows(what, size) > 0 and known.after(what) < upto for what in What
        )

    async def work(self, *, by_size: bool) -> None:
        """One pass."""
        stop, loop, around = threading.Event(), asyncio.get_running_loop(), self._around

        def work_through(make: Make) -> Done:
            work = Pass(around.path, around.config.retention, make, stop, floor=self._floor)
            done = work.run(replicated_upto(around), self._known, by_size=by_size)
            self._stays = work.stays
            return done

        work = asyncio.create_task(asyncio.to_thread(_run, around, loop, work_through))
        try:
            done = await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([work])
            raise
        except AlreadyRunning:  # a command is at it
            return
        except EdgeStoreError as exc:
            self._has_failed, self._unmet_at = True, -math.inf
            around.alarms.raise_(AlarmName.RETENTION_FAILING, str(exc), code=exc.code)
            return
        if any(msgspec.structs.astuple(done)):
            log.info("retention_passed", **msgspec.structs.asdict(done))
        self._has_failed = False
        await asyncio.to_thread(self._measure_and_tell)

    def _measure_and_tell(self) -> None:
        with closing(open_reader(self._around.path)) as connection:
            size = measure(connection, self._around.path)
        self._floor.look(size)
        self._tell(size)

    def _tell(self, size: Size) -> None:
        """Raise the alarm with what holds now, or resolve it."""
        around, config = self._around, self._around.config.retention
        over, rule = excess(config, size, self._floor.over(size))
        upto = replicated_upto(around)
        is_all = self._known.is_all(min(size.newest, upto))
        if over > 0 and rule is not None and is_all:
            message = _stays_text(over, rule, self._stays, max(0, size.newest - upto))
            around.alarms.raise_(AlarmName.RETENTION_FAILING, message, bytes=over)
        elif is_alarming(config, size):
            if time.monotonic() - self._unmet_at < UNMET_S:
                return
            unmet = find_unmet(around.config, size)
            around.alarms.raise_(AlarmName.RETENTION_FAILING, str(unmet))
            self._unmet_at = time.monotonic()
            return
        elif over <= 0:  # else the next pass takes more
            around.alarms.resolve(AlarmName.RETENTION_FAILING)
        self._unmet_at = -math.inf


def _stays_text(over: int, rule: Rule, stays: Stays, waiting: int) -> str:
    why = [
        f"{count} {what}"
        for count, what in (
            (stays.pinned, "pinned"),
            (stays.held, "held"),
            (stays.needed, "needed by what has not ended"),
            (waiting, "not yet in the replica"),
        )
        if count
    ]
    said = f"{over} bytes more than retention.{rule} allows stay"
    if not why:
        return f"{said}: all results that may go have gone; what is left is the ledger, the queue"
    return f"{said}: of the results are {', '.join(why)}"


def _run(
    around: Around, loop: asyncio.AbstractEventLoop, work_through: Callable[[Make], Done]
) -> Done:
    def make(name: str, params: Record) -> Any:
        carry_out = RETENTION_CHANGES[name][1]

        async def asked() -> Any:
            return await around.change(carry_out, params)

        return msgspec.to_builtins(asyncio.run_coroutine_threadsafe(asked(), loop).result())

    return work_through(make)
