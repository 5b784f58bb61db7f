"""Rebuilds a database from a replica, and believes it only after checking it.

The files that lead to the wanted state are fetched into a scratch folder beside the target, from
which a run that follows one that was cut short goes on (see scratch.py); Litestream makes the
database of them there. The target appears by one rename, complete, checked, and closed outside WAL
mode. Litestream has no timeout of its own and can wait for ever, so the deadline is ours: it covers
the download and the checks. A copy whose checks fail is kept as ``<target>.damaged``.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from edge_store.chain import ChainCheck, check_links, verify_chain
from edge_store.errors import (
    Corrupt,
    EdgeStoreError,
    RestoreTimedOut,
    SchemaTooNew,
    StoreError,
    VerifyFailed,
)
from edge_store.identity import create_identity, read_device_id
from edge_store.ids import DeviceId
from edge_store.replica.download import Pace, unpaced
from edge_store.replica.litestream import UNSAFE_CHARACTERS, has_unsafe_path
from edge_store.replica.location import Location, read_credentials
from edge_store.replica.points import Txid
from edge_store.replica.rebuild import Progress, Rebuilt, Source, Stage
from edge_store.replica.scratch import Scratch, fsync, scratch_for
from edge_store.result import Record
from edge_store.schema import SCHEMA_VERSION
from edge_store.sqlite import check_integrity, open_copy, translated
from edge_store.sqlitefiles import PARTS

__all__ = [
    "STEPS_BETWEEN_CHECKS",
    "Progress",
    "Restored",
    "Stage",
    "damaged_path",
    "make_last",
    "publish",
    "restore",
]

STEPS_BETWEEN_CHECKS = 100_000  # SQLite virtual machine steps; about 10 ms
FAULTS_SHOWN = 3
SNAPSHOTS_TRIED = 3  # each costs a restore
OLDER_HINT = (
    "what was changed in the live file is in its replica, too: `edge-store replica points` lists "
    "older states, and --at TIME restores one of them"
)
COPY_MODE = 0o640  # as the database of a box: its group may read it


class Restored(Record, frozen=True, kw_only=True):
    """A checked copy. Times are UTC ms. ``newest_at``: of its newest commit; None when it has none.

    ``replicated_at``: when the state of ``txid`` was in the store.
    """

    path: Path
    device_id: DeviceId
    txid: str
    replicated_at: int
    downloaded_bytes: int
    reused_bytes: int  # of those that an earlier run had downloaded
    passed_over: tuple[str, ...]  # TXIDs of snapshots that do not hold what they should
    results: int
    commits: int
    newest_at: int | None
    seconds: float


async def restore(  # noqa: PLR0913  (each is the caller's to decide)
    location: Location,
    device_id: DeviceId,
    to: Path,
    *,
    timeout_s: float,
    at: datetime | Txid | None = None,
    new_timeline: bool = False,
    may_be_newer: bool = False,
    before_replacing: Callable[[Path], None] | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    pace: Pace = unpaced,
    by_litestream: bool = True,
) -> Restored:
    """Rebuild the newest state of ``device_id`` at ``to``, or the one that was replicated by
    ``at`` (with a time zone), or that of exactly the TXID ``at``. Safe to cancel: of it only
    downloads are left, in a hidden folder beside ``to``, from which the next restore to ``to`` goes
    on.

    ``new_timeline`` is for a copy that will be served: it hands out used ``seq`` numbers again.
    ``may_be_newer`` is for one that is only read: of a newer schema, whose rows' digests cannot be
    taken here, the chain over them is checked.
    With ``before_replacing`` the rename may take the place of an older copy: it is called with the
    new one once that is checked, on a thread, and what it raises leaves the older one there.
    ``on_progress`` is called now and then, on any thread; ``pace``: see ``Download``,
    ``by_litestream``: see ``Source``.

    Raises:
        RestoreFailed: Litestream failed.
        RestoreTimedOut: the deadline has passed.
        ReplicaNotFound: there is nothing to restore, or no such state.
        ReplicationError: the store does not answer or refuses the keys.
        DiskFull: there is too little space for it.
        StoreError: ``to`` is there already, or its folder cannot be written.
        AlreadyRunning: another restore to ``to`` is at work.
        VerifyFailed: the copy is damaged; it is kept as ``<to>.damaged``.
    """
    began = time.monotonic()
    to = _safe_place(to)
    replace = before_replacing is not None
    _refuse_overwriting(to, replace=replace)
    source = Source(
        location, read_credentials(location), device_id, on_progress, pace,
        by_litestream=by_litestream,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            with scratch_for(to) as scratch:
                finish = _finishing(device_id, began + timeout_s, (new_timeline, may_be_newer))
                copy, rebuilt, check = await _believable(
                    source, scratch, to, at, lambda made: finish(made, on_progress)
                )
                if before_replacing is not None:
                    await asyncio.to_thread(before_replacing, copy)
                _refuse_overwriting(to, replace=replace)
                publish(copy, to)
    except TimeoutError:
        raise RestoreTimedOut(
            f"{device_id} was not restored from {location} within {timeout_s:g} s",
            hint="raise --timeout, or check the network to the store; what has arrived is kept",
        ) from None
    seconds = round(time.monotonic() - began, 3)
    return _restored(to, device_id, rebuilt, check, seconds)


def _safe_place(to: Path) -> Path:
    to = Path(os.path.abspath(to))  # noqa: PTH100  (no input or output; `..` is resolved)
    if has_unsafe_path(to):
        raise StoreError(
            f"{to} has one of {UNSAFE_CHARACTERS} in its path: litestream would write elsewhere",
            hint="restore to another name",
        )
    return to


def _finishing(
    device_id: DeviceId, deadline: float, purpose: tuple[bool, bool]
) -> Callable[[Path, Callable[[Progress], None]], Awaitable[ChainCheck]]:
    """``_finish`` on a thread. Cancelled, it ends soon."""

    async def finish(copy: Path, on_progress: Callable[[Progress], None]) -> ChainCheck:
        on_progress(Progress(stage=Stage.CHECKING))
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(_finish, copy, device_id, deadline, cancelled, purpose)
        finally:
            cancelled.set()

    return finish


def _restored(
    to: Path, device_id: DeviceId, rebuilt: Rebuilt, check: ChainCheck, seconds: float
) -> Restored:
    return Restored(
        path=to,
        device_id=device_id,
        txid=f"{rebuilt.point.txid:016x}",
        replicated_at=rebuilt.point.at,
        downloaded_bytes=rebuilt.fetched.downloaded,
        reused_bytes=rebuilt.fetched.reused,
        passed_over=tuple(f"{txid:016x}" for txid in rebuilt.passed_over),
        results=check.results,
        commits=check.commits,
        newest_at=check.newest_at,
        seconds=seconds,
    )


async def _believable(
    source: Source,
    scratch: Scratch,
    to: Path,
    at: datetime | Txid | None,
    finish: Callable[[Path], Awaitable[ChainCheck]],
) -> tuple[Path, Rebuilt, ChainCheck]:
    """A copy that passes ``finish``. Where one does not, a snapshot may be to blame, made of a
    database that was damaged by then: the next is made without it, of the one before.

    Raises as ``restore`` does; the first copy is kept.
    """
    failed: tuple[Path, VerifyFailed | Corrupt] | None = None
    without: tuple[Txid, ...] = ()
    for number in range(SNAPSHOTS_TRIED):
        copy = scratch.work / f"{number}" / to.name
        copy.parent.mkdir()
        try:
            rebuilt = await source.rebuild(scratch, copy, at, without)
        except EdgeStoreError:
            if failed is None:
                raise
            break  # the checks' failure says more
        try:
            return copy, rebuilt, await finish(copy)
        except (VerifyFailed, Corrupt) as exc:
            failed = failed or (copy, exc)
        if rebuilt.snapshot is None:
            break
        without = (*rebuilt.passed_over, rebuilt.snapshot)
    assert failed is not None, "it ends earlier"
    raise _kept(failed[0], to, failed[1]) from failed[1]


def _refuse_overwriting(to: Path, *, replace: bool) -> None:
    """A WAL or journal that lies beside would be played into the new file, so it counts too."""
    taken = [] if replace else [to]
    taken += [to.with_name(to.name + end) for end in PARTS]
    for path in taken:
        if path.exists() or path.is_symlink():
            raise StoreError(
                f"{path} is there already: nothing was written",
                hint="restore to another name, or move it away",
            )


def _finish(
    copy: Path,
    device_id: DeviceId,
    deadline: float,
    cancelled: threading.Event,
    purpose: tuple[bool, bool],
) -> ChainCheck:
    """Check the copy and close it as one file. On a thread of its own; ends by the deadline.

    ``purpose``: ``new_timeline`` and ``may_be_newer``, see ``restore``.
    """
    new_timeline, may_be_newer = purpose

    def is_over() -> bool:
        return cancelled.is_set() or time.monotonic() > deadline

    connection = open_copy(copy)
    try:
        connection.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
        with (
            ThreadPoolExecutor(1, thread_name_prefix="pages") as threads,
            translated(f"the copy of {device_id} cannot be checked"),
        ):
            checking_pages = threads.submit(_check_pages, copy, device_id, is_over)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            is_newer = version > SCHEMA_VERSION
            if is_newer and not may_be_newer:
                raise _too_new(device_id, version)
            owner = read_device_id(connection)
            if owner != device_id:
                raise VerifyFailed(
                    f"the replica of {device_id} holds the database of {owner}",
                    hint="two boxes have written under one id: give each its own",
                )
            check = check_links(connection) if is_newer else verify_chain(connection)
            if check.faults:
                if is_newer:
                    raise _too_new(device_id, version)
                shown = "; ".join(check.faults[:FAULTS_SHOWN])
                raise VerifyFailed(
                    f"the digest chain of {device_id} does not hold ({len(check.faults)} faults): "
                    f"{shown}"
                )
            checking_pages.result()
            if new_timeline:
                create_identity(connection, device_id, reason="restored")
    except StoreError as exc:
        if is_over():
            raise RestoreTimedOut(f"the copy of {device_id} could not be checked in time") from exc
        raise
    finally:
        connection.close()
    return check


def _too_new(device_id: DeviceId, version: int) -> SchemaTooNew:
    return SchemaTooNew(
        f"{device_id} writes schema {version}; this edge-store knows {SCHEMA_VERSION}",
        hint="upgrade edge-store here first, then on the boxes",
    )


def _check_pages(copy: Path, device_id: DeviceId, is_over: Callable[[], bool]) -> None:
    """On a thread of its own, beside the digest chain: SQLite lets go of Python's lock.

    The connection may write: on one that may not, SQLite 3.53.4's integrity check passes over CHECK
    constraints.
    """
    connection = open_copy(copy)
    try:
        connection.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
        with translated(f"the pages of the copy of {device_id} cannot be checked"):
            found = check_integrity(connection, full=True)
    finally:
        connection.close()
    if found != "ok":
        raise VerifyFailed(f"the copy of {device_id} is damaged: {found}")


def _kept(copy: Path, to: Path, exc: Exception) -> VerifyFailed:
    """Keep the damaged copy for whoever must find out why."""
    damaged = damaged_path(to)
    copy.chmod(COPY_MODE)
    copy.replace(damaged)
    hint = getattr(exc, "hint", "") or OLDER_HINT
    return VerifyFailed(f"{exc}", hint=f"the copy is kept as {damaged}; {hint}")


def damaged_path(to: Path) -> Path:
    """Where a restore to ``to`` leaves a copy that does not hold."""
    return to.with_name(f"{to.name}.damaged")


def publish(copy: Path, to: Path) -> None:
    """Make the copy and its name last a power cut."""
    make_last(copy)
    copy.replace(to)
    fsync(to.parent)


def make_last(copy: Path) -> None:
    """What is in it, before it gets the name under which it is read."""
    copy.chmod(COPY_MODE)
    fsync(copy)
