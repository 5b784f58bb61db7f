"""Brings the boxes' databases here: one checked copy per box, replaced only by a good newer one.

Boxes are independent: each has its deadline and its line in the report, and one that fails leaves
its older copy and the others alone. One pull at a time works in a folder. History never vanishes:
an older copy whose commits are not all in the new one is kept beside it (see history.py).
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge_store.errors import AlreadyRunning, EdgeStoreError, StoreError
from edge_store.fleet.forget import forget_in_all
from edge_store.fleet.history import settle
from edge_store.ids import DeviceId
from edge_store.replica.location import Location
from edge_store.replica.restore import restore
from edge_store.result import Record

__all__ = ["JOBS_DEFAULT", "BoxReport", "copy_path", "pull"]

JOBS_DEFAULT = 4
LOCK_NAME = ".pull.lock"


class BoxReport(Record, frozen=True, kw_only=True):
    """What became of one box. Without an ``error`` its copy is new; ``newest_at`` is UTC ms.

    ``kept`` is where the older copy lies, when the new one does not continue it. ``forgotten``
    results were deleted in such copies, as the box has forgotten them; ``not_forgotten`` are those
    that could not be written.
    """

    device_id: DeviceId
    results: int | None = None
    newest_at: int | None = None
    kept: Path | None = None
    forgotten: int = 0
    not_forgotten: tuple[Path, ...] = ()
    seconds: float
    error: str | None = None
    code: str | None = None


def copy_path(into: Path, device_id: DeviceId) -> Path:
    """Where the copy of a box lies."""
    return into / f"{device_id}.db"


async def pull(
    location: Location,
    devices: Sequence[DeviceId],
    into: Path,
    *,
    jobs: int = JOBS_DEFAULT,
    timeout_s: float,
    on_report: Callable[[BoxReport], None] = lambda _report: None,
) -> list[BoxReport]:
    """Restore every box of ``devices``, at most ``jobs`` at a time, each within ``timeout_s``.

    ``on_report`` is called as each one ends. Returns the reports in the order of ``devices``. Safe
    to cancel: copies that are done stay, the others are as they were.

    Raises:
        AlreadyRunning: another pull works in ``into``.
        StoreError: ``into`` cannot be written.
    """
    places = asyncio.Semaphore(jobs)

    async def one(device_id: DeviceId) -> BoxReport:
        async with places:
            report = await _pull_one(location, device_id, into, timeout_s)
        on_report(report)
        return report

    with _exclusive(into):
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(device_id)) for device_id in devices]
    return [task.result() for task in running]


async def _pull_one(
    location: Location, device_id: DeviceId, into: Path, timeout_s: float
) -> BoxReport:
    began = time.monotonic()
    path = copy_path(into, device_id)
    kept: Path | None = None

    def keep_history(new: Path) -> None:
        nonlocal kept
        kept = settle(path, new)

    try:
        restored = await restore(
            location, device_id, path, timeout_s=timeout_s, before_replacing=keep_history
        )
        forgotten, not_forgotten = await asyncio.to_thread(forget_in_all, path)
    except (EdgeStoreError, OSError) as exc:
        return BoxReport(
            device_id=device_id,
            seconds=round(time.monotonic() - began, 3),
            error=str(exc),
            code=exc.code if isinstance(exc, EdgeStoreError) else "store_error",
        )
    return BoxReport(
        device_id=device_id,
        results=restored.results,
        newest_at=restored.newest_at,
        kept=kept,
        forgotten=forgotten,
        not_forgotten=not_forgotten,
        seconds=restored.seconds,
    )


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
        yield
    finally:
        os.close(descriptor)
