"""Brings the boxes' databases here: one checked copy per box, replaced only by a good newer one.

Boxes are independent: each has its deadline and its line in the report, and one that fails leaves
its older copy and the others alone. A box whose head is as it was costs nothing; a copy is brought
forward by what is new (see advance.py) where that can be, and restored where not. One pull at a
time works in a folder. History never vanishes: an older copy whose commits are not all in the new
one is kept beside it (see history.py).
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.errors import AlreadyRunning, EdgeStoreError, StoreError
from edge_store.fleet.advance import NotOnwards, advance
from edge_store.fleet.copies import (
    Standing,
    copy_path,
    keep_standing,
    read_standing,
    witnesses_of,
)
from edge_store.fleet.forget import forget_in_all
from edge_store.fleet.history import settle
from edge_store.ids import DeviceId
from edge_store.replica.heads import Head, Heads
from edge_store.replica.location import Credentials, Location, read_credentials
from edge_store.replica.objects import Entry, Objects
from edge_store.replica.points import LtxFile, Txid, list_files
from edge_store.replica.restore import restore
from edge_store.replica.scratch import discard_scratch
from edge_store.result import Record

__all__ = ["JOBS_DEFAULT", "BoxReport", "How", "PullPlan", "pull"]

JOBS_DEFAULT = 4
LOCK_NAME = ".pull.lock"


class How(StrEnum):
    """What a copy was made by."""

    UNCHANGED = "unchanged"  # the box's head is as it was: nothing was asked for
    ADVANCED = "advanced"  # by the files that were new
    RESTORED = "restored"


class BoxReport(Record, frozen=True, kw_only=True):
    """What became of one box. Without an ``error`` its copy is up to date; ``newest_at`` is UTC ms.

    ``kept`` is where the older copy lies, when the new one does not continue it. ``forgotten``
    results were deleted in such copies, as the box has forgotten them; ``not_forgotten`` are those
    that could not be written. ``because``: why an older copy was not brought forward.
    """

    device_id: DeviceId
    how: How | None = None
    because: str | None = None
    downloaded_bytes: int = 0
    results: int | None = None
    newest_at: int | None = None
    kept: Path | None = None
    forgotten: int = 0
    not_forgotten: tuple[Path, ...] = ()
    seconds: float = 0.0
    error: str | None = None
    code: str | None = None


class PullPlan(Record, frozen=True, kw_only=True):
    """What is pulled from where, and how. ``heads`` are those of all boxes, as just listed.

    At most ``jobs`` boxes at a time, each within ``timeout_s``; ``is_full``: by a restore, whatever
    is in ``into``.
    """

    location: Location
    heads: Mapping[DeviceId, Entry]
    into: Path
    jobs: int = JOBS_DEFAULT
    timeout_s: float
    is_full: bool = False


async def pull(
    plan: PullPlan,
    devices: Sequence[DeviceId],
    on_report: Callable[[BoxReport], None] = lambda _report: None,
) -> list[BoxReport]:
    """Bring every box of ``devices`` up to date.

    ``on_report`` is called as each one ends. Returns the reports in the order of ``devices``. Safe
    to cancel: copies that are done stay, the others are as they were.

    Raises:
        AlreadyRunning: another pull works in ``into``.
        StoreError: ``into`` cannot be written.
    """
    places = asyncio.Semaphore(plan.jobs)
    credentials = read_credentials(plan.location)
    objects = Objects(plan.location, credentials)

    async def one(device_id: DeviceId) -> BoxReport:
        async with places:
            began = time.monotonic()
            report = await _Box(plan, credentials, objects, device_id).pull()
            report = msgspec.structs.replace(report, seconds=round(time.monotonic() - began, 3))
        on_report(report)
        return report

    with _exclusive(plan.into):
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(device_id)) for device_id in devices]
    return [task.result() for task in running]


class Renewed(NamedTuple):
    """A new copy, and what is known of it: see ``Standing``."""

    report: BoxReport
    txid: Txid
    witnesses: tuple[LtxFile, ...]


class _Box:
    """One box of a pull."""

    def __init__(
        self, plan: PullPlan, credentials: Credentials | None, objects: Objects, device_id: DeviceId
    ) -> None:
        self._plan = plan
        self._credentials = credentials
        self._heads = Heads(objects, device_id)
        self._listed = plan.heads.get(device_id)
        self._device_id = device_id
        self._path = copy_path(plan.into, device_id)

    async def pull(self) -> BoxReport:
        """Bring its copy up to date. Raises nothing of its own: what failed is in the report."""
        path, location = self._path, str(self._plan.location)
        try:
            here = None if self._plan.is_full else read_standing(path, location)
            if here is not None and self._listed and self._listed.version == here.head_version:
                return self._unchanged(here)
            found = await self._heads.find() if self._listed else None
            content = found[0].content.decode() if found else None
            if here is not None and content is not None and content == here.head:
                return self._unchanged(here)
            report, txid, witnesses = await self._renewed(here, found[1] if found else None)
            standing = Standing(
                location=location,
                txid=txid,
                witnesses=witnesses,
                results=report.results or 0,
                newest_at=report.newest_at,
                head=content,
                head_version=found[0].version.get("e_tag") if found else None,
            )
            await asyncio.to_thread(keep_standing, path, standing)
            forgotten, not_forgotten = await asyncio.to_thread(forget_in_all, path)
        except (EdgeStoreError, OSError) as exc:
            code = exc.code if isinstance(exc, EdgeStoreError) else "store_error"
            return BoxReport(device_id=self._device_id, error=str(exc), code=code)
        return msgspec.structs.replace(report, forgotten=forgotten, not_forgotten=not_forgotten)

    def _unchanged(self, here: Standing) -> BoxReport:
        discard_scratch(self._path)
        return BoxReport(
            device_id=self._device_id,
            how=How.UNCHANGED,
            results=here.results,
            newest_at=here.newest_at,
        )

    async def _renewed(self, here: Standing | None, head: Head | None) -> Renewed:
        """Bring the copy forward, or restore it."""
        because: str | None = None
        if here is not None and head is not None:
            try:
                done = await advance(
                    self._plan.location,
                    self._credentials,
                    self._path,
                    here=here,
                    head=head,
                    timeout_s=self._plan.timeout_s,
                )
            except NotOnwards as exc:
                because = str(exc)
            else:
                report = BoxReport(
                    device_id=self._device_id,
                    how=How.ADVANCED,
                    downloaded_bytes=done.downloaded_bytes,
                    results=done.results,
                    newest_at=done.newest_at,
                )
                return Renewed(report, done.txid, done.witnesses)
        return await self._restored(because)

    async def _restored(self, because: str | None) -> Renewed:
        kept: Path | None = None

        def keep_history(new: Path) -> None:
            nonlocal kept
            kept = settle(self._path, new)

        files = await list_files(self._plan.location, self._credentials, self._device_id)
        restored = await restore(
            self._plan.location,
            self._device_id,
            self._path,
            timeout_s=self._plan.timeout_s,
            before_replacing=keep_history,
        )
        txid = Txid(int(restored.txid, 16))
        report = BoxReport(
            device_id=self._device_id,
            how=How.RESTORED,
            because=because,
            downloaded_bytes=restored.downloaded_bytes,
            results=restored.results,
            newest_at=restored.newest_at,
            kept=kept,
        )
        return Renewed(report, txid, witnesses_of(files, txid))


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
