"""Retention beside requests: a pass now and then, on a thread. What it deletes it asks of the
writer, which paces it beside results (``recorder/transactions.py``).
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import structlog

from edge_store.alerts import AlarmName
from edge_store.errors import AlreadyRunning, EdgeStoreError
from edge_store.recorder.around import Around
from edge_store.result import Record
from edge_store.retention.changes import RETENTION_CHANGES
from edge_store.retention.choice import SEQ_MAX, excess, measure
from edge_store.retention.passes import Done, Make, Pass
from edge_store.retention.standstill import Standstill
from edge_store.sql import sql
from edge_store.sqlite import open_reader

__all__ = ["may_make_room", "replicated_upto", "retain"]

log = structlog.get_logger(__name__)

FIRST_S = 30.0  # a start has other things to do
LOOK_S = 30.0  # at the file's size


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
    await asyncio.sleep(min(FIRST_S, config.interval_s))
    next_at = loop.time()
    known = Standstill()
    while True:
        is_due = loop.time() >= next_at
        if is_due or await asyncio.to_thread(may_make_room, around, known):
            await _pass(around, known, by_size=not is_due)
            next_at = loop.time() + config.interval_s if is_due else next_at
            await asyncio.sleep(min(config.interval_s, LOOK_S))
        else:
            await asyncio.sleep(min(LOOK_S, max(0.0, next_at - loop.time())))


def replicated_upto(around: Around) -> int:
    """Results after this seq are in no other place yet: they stay."""
    if around.config.retention.archive or around.replica is None:
        return SEQ_MAX
    confirmed = around.replica.status.confirmed
    return 0 if confirmed is None else int(confirmed.seq)


async def _pass(around: Around, known: Standstill, *, by_size: bool) -> None:
    stop, loop = threading.Event(), asyncio.get_running_loop()

    def work_through(make: Make) -> Done:
        work = Pass(around.path, around.config.retention, make, stop)
        return work.run(replicated_upto(around), known, by_size=by_size)

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
        around.alarms.raise_(AlarmName.RETENTION_FAILING, str(exc), code=exc.code)
        return
    if any(msgspec.structs.astuple(done)):
        log.info("retention_passed", **msgspec.structs.asdict(done))
    over = await asyncio.to_thread(_over, around)
    if over > 0:
        around.alarms.raise_(
            AlarmName.RETENTION_FAILING,
            f"{over} bytes more than retention allows are pinned, held, or not yet in the replica",
            bytes=over,
        )
    else:
        around.alarms.resolve(AlarmName.RETENTION_FAILING)


def _over(around: Around) -> int:
    with closing(open_reader(around.path)) as connection:
        return excess(around.config.retention, measure(connection, around.path))[0]


def may_make_room(around: Around, known: Standstill) -> bool:
    """Whether the file is too large, and something may go that was not looked at in vain."""
    with closing(open_reader(around.path)) as connection:
        if excess(around.config.retention, measure(connection, around.path))[0] <= 0:
            return False
        known.look(connection)
        (newest,) = connection.execute(sql("select_newest_seq")).fetchone()
        return not known.is_all(min(newest, replicated_upto(around)))


def _run(
    around: Around, loop: asyncio.AbstractEventLoop, work_through: Callable[[Make], Done]
) -> Done:
    def make(name: str, params: Record) -> Any:
        carry_out = RETENTION_CHANGES[name][1]

        async def asked() -> Any:
            return await around.change(carry_out, params)

        return msgspec.to_builtins(asyncio.run_coroutine_threadsafe(asked(), loop).result())

    return work_through(make)
