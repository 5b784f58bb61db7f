"""Rebuilds a database from a replica, and believes it only after checking it.

Everything happens in a scratch folder beside the target, which is gone afterwards, however it ends;
the target appears by one rename, complete, checked, and closed outside WAL mode. Litestream has no
timeout of its own and can wait for ever, so the deadline is ours: it covers the download and the
checks. A copy whose checks fail is kept as ``<target>.damaged``.
"""

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edge_store.chain import ChainCheck, verify_chain
from edge_store.config import ReplicaSection
from edge_store.errors import (
    Corrupt,
    ReplicaNotFound,
    RestoreFailed,
    SchemaTooNew,
    StoreError,
    VerifyFailed,
)
from edge_store.identity import create_identity, read_device_id
from edge_store.ids import DeviceId
from edge_store.replica.extent import read_extent
from edge_store.replica.litestream import (
    UNSAFE_CHARACTERS,
    find_litestream,
    has_unsafe_path,
    render_config,
    spawn,
)
from edge_store.replica.location import Credentials, Location, read_credentials
from edge_store.result import Record
from edge_store.schema import SCHEMA_VERSION
from edge_store.sqlite import open_copy, translated

__all__ = ["Restored", "restore"]

STEPS_BETWEEN_CHECKS = 100_000  # SQLite virtual machine steps; about 10 ms
FAULTS_SHOWN = 3
SCRATCH_END = ".restoring"
SCRATCH_STALE_S = 3600.0
COPY_MODE = 0o640  # as the database of a box: its group may read it
SIDECARS = ("-wal", "-shm", "-journal")


class Restored(Record, frozen=True, kw_only=True):
    """A checked copy. ``newest_at``: UTC ms of its newest commit; None when it has none."""

    path: Path
    device_id: DeviceId
    txid: str
    results: int
    commits: int
    newest_at: int | None
    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """What ``litestream restore -json`` prints."""

    txid: str


async def restore(  # noqa: PLR0913  (each is the caller's to decide)
    location: Location,
    device_id: DeviceId,
    to: Path,
    *,
    timeout_s: float,
    at: datetime | None = None,
    new_timeline: bool = False,
    before_replacing: Callable[[Path], None] | None = None,
) -> Restored:
    """Rebuild the newest state of ``device_id`` at ``to``, or the one that was replicated by
    ``at`` (with a time zone). Safe to cancel: nothing is left behind.

    ``new_timeline`` is for a copy that will be served: it hands out used ``seq`` numbers again.
    With ``before_replacing`` the rename may take the place of an older copy: it is called with the
    new one once that is checked, on a thread, and what it raises leaves the older one there.

    Raises:
        RestoreFailed: ``to`` is there already, the deadline has passed, or Litestream failed.
        ReplicaNotFound: there is nothing to restore.
        ReplicationError: the store does not answer or refuses the keys.
        VerifyFailed: the copy is damaged; it is kept as ``<to>.damaged``.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    to = Path(os.path.abspath(to))  # noqa: ASYNC240, PTH100  (no input or output; `..` is resolved)
    if has_unsafe_path(to):
        raise RestoreFailed(
            f"{to} has one of {UNSAFE_CHARACTERS} in its path: litestream would write elsewhere",
            hint="restore to another name",
        )
    replace = before_replacing is not None
    _refuse_overwriting(to, replace=replace)
    credentials = read_credentials(location)
    try:
        async with asyncio.timeout(timeout_s):
            extent = await read_extent(location, credentials, device_id)
            if at is not None and at.timestamp() * 1000 >= extent.written_at:
                at = None  # litestream knows no time after its newest file: that is the state then
            with _scratch(to) as folder:
                copy = folder / to.name
                txid = await _download(location, credentials, device_id, copy, at)
                cancelled = threading.Event()
                try:
                    check = await asyncio.to_thread(
                        _finish, copy, device_id, deadline, cancelled, new_timeline
                    )
                except (VerifyFailed, Corrupt) as exc:
                    raise _kept(copy, to, exc) from exc
                finally:
                    cancelled.set()
                if before_replacing is not None:
                    await asyncio.to_thread(before_replacing, copy)
                _refuse_overwriting(to, replace=replace)
                _publish(copy, to)
    except TimeoutError:
        raise RestoreFailed(
            f"{device_id} was not restored from {location} within {timeout_s:g} s",
            hint="raise --timeout, or check the network to the store",
        ) from None
    return Restored(
        path=to,
        device_id=device_id,
        txid=txid,
        results=check.results,
        commits=check.commits,
        newest_at=check.newest_at,
        seconds=round(time.monotonic() - began, 3),
    )


def _refuse_overwriting(to: Path, *, replace: bool) -> None:
    """A WAL or journal that lies beside would be played into the new file, so it counts too."""
    taken = [] if replace else [to]
    taken += [to.with_name(to.name + end) for end in SIDECARS]
    for path in taken:
        if path.exists() or path.is_symlink():
            raise RestoreFailed(
                f"{path} is there already: nothing was written",
                hint="restore to another name, or move it away",
            )


@contextmanager
def _scratch(to: Path) -> Iterator[Path]:
    """A private folder on the target's file system, so that a rename can publish from it."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        _remove_stale(to)
        folder = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=SCRATCH_END, dir=to.parent))
    except OSError as exc:
        raise RestoreFailed(
            f"{to.parent} cannot be written: {exc.strerror}", hint="choose another folder"
        ) from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(to: Path) -> None:
    """Remove what restores to this file left that were killed. A younger one may be at work."""
    oldest = time.time() - SCRATCH_STALE_S
    for folder in to.parent.iterdir():
        ours = folder.name.startswith(f".{to.name}.") and folder.name.endswith(SCRATCH_END)
        if ours and folder.lstat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


async def _download(
    location: Location,
    credentials: Credentials | None,
    device_id: DeviceId,
    copy: Path,
    at: datetime | None,
) -> str:
    """Run ``litestream restore``; a configuration spares the quoting of a URL. Returns the TXID."""
    program = await asyncio.to_thread(find_litestream)
    source = copy.with_name("source.db")  # a name in the configuration only: it is never made
    config = copy.with_name("litestream.yml")
    content = render_config(
        database=source,
        meta_path=copy.with_name("litestream"),
        socket=None,
        replica=location.litestream_replica(device_id),
        section=ReplicaSection(),
    )
    config.write_bytes(content)
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z" if at else None
    process = await spawn(
        program,
        *("restore", "-no-expand-env", "-config", str(config), "-json"),
        *(("-timestamp", moment) if moment else ()),
        *("-integrity-check", "full", "-o", str(copy), str(source)),
        credentials=credentials,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:  # the deadline, or we are being cancelled
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _failure(stderr.decode(errors="replace"), location, device_id, moment)
    start = stdout.find(b"{")  # other lines come before it
    try:
        return msgspec.json.decode(stdout[start:], type=Answer).txid
    except msgspec.DecodeError as exc:
        raise RestoreFailed(f"litestream's answer is not understood: {stdout[-200:]!r}") from exc


def _failure(
    output: str, location: Location, device_id: DeviceId, moment: str | None
) -> RestoreFailed | ReplicaNotFound:
    lines = [line for line in output.splitlines() if line.strip()]
    reason = lines[-1].strip()[:500] if lines else "it said nothing"
    is_missing = "no matching backup files" in output
    if moment and (is_missing or "timestamp does not exist" in output):
        return ReplicaNotFound(
            f"{location} holds no state of {device_id} from {moment} or before",
            hint="choose a later --timestamp: snapshots are kept for replica.snapshot_retention_s",
        )
    if is_missing:
        return ReplicaNotFound(
            f"{location} has no complete replica of {device_id}",
            hint="wait until the box has uploaded its first snapshot",
        )
    return RestoreFailed(
        f"{device_id} cannot be restored from {location}: {reason}",
        hint="its replica is damaged: try an earlier point, `edge-store replica restore "
        "--timestamp TIME`",
    )


def _finish(
    copy: Path,
    device_id: DeviceId,
    deadline: float,
    cancelled: threading.Event,
    new_timeline: bool,  # noqa: FBT001  (handed through to_thread)
) -> ChainCheck:
    """Check the copy and close it as one file. On a thread of its own; ends by the deadline."""

    def is_over() -> bool:
        return cancelled.is_set() or time.monotonic() > deadline

    connection = open_copy(copy)
    try:
        connection.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
        with translated(f"the copy of {device_id} cannot be checked"):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise SchemaTooNew(
                    f"{device_id} writes schema {version}; this edge-store knows {SCHEMA_VERSION}",
                    hint="upgrade edge-store here first, then on the boxes",
                )
            owner = read_device_id(connection)
            if owner != device_id:
                raise VerifyFailed(
                    f"the replica of {device_id} holds the database of {owner}",
                    hint="two boxes have written under one id: give each its own",
                )
            check = verify_chain(connection)
            if check.faults:
                shown = "; ".join(check.faults[:FAULTS_SHOWN])
                raise VerifyFailed(
                    f"the digest chain of {device_id} does not hold ({len(check.faults)} faults): "
                    f"{shown}"
                )
            if new_timeline:
                create_identity(connection, device_id, reason="restored")
    except StoreError as exc:
        if is_over():
            raise RestoreFailed(f"the copy of {device_id} could not be checked in time") from exc
        raise
    finally:
        connection.close()
    return check


def _kept(copy: Path, to: Path, exc: Exception) -> VerifyFailed:
    """Keep the damaged copy for whoever must find out why."""
    damaged = to.with_name(f"{to.name}.damaged")
    copy.chmod(COPY_MODE)
    copy.replace(damaged)
    return VerifyFailed(
        f"{exc}", hint=f"the copy is kept as {damaged}; {getattr(exc, 'hint', '')}".rstrip("; ")
    )


def _publish(copy: Path, to: Path) -> None:
    """Make the copy and its name last a power cut."""
    copy.chmod(COPY_MODE)
    _fsync(copy)
    copy.replace(to)
    _fsync(to.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
