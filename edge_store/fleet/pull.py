"""Brings the boxes' databases here: one checked copy per box, replaced only by a good newer one.

Boxes are independent: each has its deadline and its line in the report, and one that fails leaves
its older copy and the others alone; where the store did not answer, it is asked again. A box whose
head is as it was costs nothing; a copy is brought forward by what is new (see advance.py) where
that can be, and restored where not. One pull at a time works in a folder. History never vanishes:
an older copy whose commits are not all in the new one is kept beside it (see history.py).
"""

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.errors import AlreadyRunning, ReplicaNotFound, ReplicationError, StoreError
from edge_store.fleet.box import BoxPull
from edge_store.fleet.budget import DiskBudget, Evicted
from edge_store.fleet.copies import work_folder
from edge_store.fleet.find import FoundBox
from edge_store.fleet.forget import all_older_copies
from edge_store.fleet.met import note_met
from edge_store.fleet.report import BoxReport, Manner
from edge_store.fleet.waits import Waits
from edge_store.ids import DeviceId
from edge_store.replica.bucket import shared_buckets
from edge_store.replica.extent import read_extent
from edge_store.replica.location import Credentials, Location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.result import Record

__all__ = ["ATTEMPTS_DEFAULT", "JOBS_DEFAULT", "PullPlan", "Pulled", "pull"]

JOBS_DEFAULT = 4
ATTEMPTS_DEFAULT = 3
PAUSE_S, PAUSE_MAX_S = 1.0, 30.0  # before an attempt: 1, 2, 4 … s
LOCK_NAME = ".pull.lock"


class PullPlan(Record, frozen=True, kw_only=True):
    """At most ``jobs`` boxes at a time, each tried at most ``attempts`` times. ``disk_max``: bytes
    that the copies may take; None: as there is. ``may_go``: see ``DiskBudget``. ``waits``: those
    of a watch.
    """

    manner: Manner
    jobs: int = JOBS_DEFAULT
    attempts: int = ATTEMPTS_DEFAULT
    disk_max: int | None = None
    may_go: Callable[[Path], bool] = lambda _path: True
    waits: Waits | None = None


class Pulled(NamedTuple):
    """``evicted``: older copies that were deleted at the beginning, as the folder held too much.
    ``over``: that it still does at the end, and why. ``left``: boxes that are at their location no
    more, of which a failure was remembered until now.
    """

    reports: list[BoxReport]
    evicted: list[Evicted]
    over: str | None = None
    left: Sequence[DeviceId] = ()


async def pull(
    plan: PullPlan,
    boxes: Sequence[FoundBox],
    on_report: Callable[[BoxReport], None] = lambda _report: None,
    there: Mapping[str, Collection[DeviceId]] | None = None,
) -> Pulled:
    """Bring every one of ``boxes`` up to date. ``there``: see ``Found``.

    ``on_report`` is called as each one ends; the first error that it raises is raised at the end,
    when all boxes are done. The reports are in the order of ``boxes``. Safe to
    cancel: copies that are done stay, the others are as they were.

    Raises:
        AlreadyRunning: another pull works in ``into``.
        StoreError: ``into`` cannot be written.
        ConfigError: there are no keys for a store.
    """
    untold: list[Exception] = []
    stores = {each: _opened(each) for each in {box.location for box in boxes}}

    async def one(box: FoundBox, budget: DiskBudget | None) -> BoxReport:
        report = plan.waits.still(box) if plan.waits else None
        if report is None:
            began = time.monotonic()
            report = await _without_replica(box, stores[box.location][0])
            if report is None:
                those = older.get(box.device_id, ())
                pulling = BoxPull(box, plan.manner, *stores[box.location], budget, those)
                report = await _tried(pulling, plan.attempts)
            seconds = round(time.monotonic() - began, 3)
            report = msgspec.structs.replace(report, seconds=seconds)
            report = plan.waits.note(box, report) if plan.waits else report
        try:
            on_report(report)
        except Exception as exc:  # noqa: BLE001  (it is not the other boxes')
            untold.append(exc)
        return report

    async def some(budget: DiskBudget | None) -> None:
        """One of the jobs. There is no task for each box: of ten thousand they are a lot."""
        for box in left:
            reports[box.device_id] = await one(box, budget)

    with _exclusive(plan.manner.into), shared_buckets():
        budget = None
        if plan.disk_max is not None:
            budget = DiskBudget(plan.manner.into, plan.disk_max, plan.may_go)
        evicted = budget.make_room(0) if budget else []
        older = all_older_copies(plan.manner.into)
        left, reports = iter(boxes), dict[DeviceId, BoxReport]()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(plan.jobs):
                tasks.create_task(some(budget))
        done = [(box, reports[box.device_id]) for box in boxes]
        left_there = await asyncio.to_thread(note_met, plan.manner.into, done, there or {})
        over = await asyncio.to_thread(budget.over) if budget else None
    if untold:
        raise untold[0]
    return Pulled([report for _box, report in done], evicted, over, left_there)


def _opened(location: Location) -> tuple[Credentials | None, Objects]:
    credentials = read_credentials(location)
    return credentials, Objects(location, credentials, makes_folder=False)


async def _without_replica(box: FoundBox, credentials: Credentials | None) -> BoxReport | None:
    """The failure of a box whose replica was gone when folders were listed, and is."""
    if not box.is_alone:
        return None
    try:
        await read_extent(box.location, credentials, box.device_id)
    except ReplicaNotFound as exc:
        said = (
            f"its head is in {box.location}, and its replica is gone: was it deleted, or moved? "
            "What was pulled of it stays here; of a box that is no more, delete the head, too"
        )
        return BoxReport(device_id=box.device_id, store=box.store, error=said, code=exc.code)
    except ReplicationError as exc:
        return BoxReport(device_id=box.device_id, store=box.store, error=str(exc), code=exc.code)
    return None


async def _tried(pulling: BoxPull, attempts: int) -> BoxReport:
    """Again after a pause, as long as it is the store that fails."""
    for attempt in range(1, attempts + 1):
        report = await pulling.pull()
        if report.code != ReplicationError.code or attempt == attempts:
            break
        await asyncio.sleep(min(PAUSE_MAX_S, PAUSE_S * 2 ** (attempt - 1)))
    return msgspec.structs.replace(report, attempts=attempt)


@contextmanager
def _exclusive(into: Path) -> Iterator[None]:
    """Hold the folder's lock. Released when this process ends, however."""
    try:
        into.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(into / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        raise StoreError(
            f"{into} cannot be written: {exc.strerror}", hint="choose another --into"
        ) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(
            f"another pull works in {into}", hint="wait for it, or use another --into"
        ) from None
    try:
        shutil.rmtree(work_folder(into), ignore_errors=True)
        yield
    finally:
        os.close(descriptor)
