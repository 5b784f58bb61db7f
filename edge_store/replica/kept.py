"""The copy that a full drill leaves beside the database, for drills that bring it forward by what
is new in the replica, and what is known of it.

It holds for the very file that it was written for, within one boot of the machine: nothing of it is
flushed, so after a power cut any page may be an older one. Whoever changes it, moves it or puts
another in its place changes its ``ctime``, which nobody can set. What is known goes before the copy
is touched and comes back after: a drill that is cut leaves a copy of which nothing is known.
"""

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_store.ids import DeviceId
from edge_store.lock import kernel_boot
from edge_store.replica.onwards import NotOnwards
from edge_store.replica.points import LtxFile, Txid
from edge_store.result import Record

__all__ = ["Kept", "copy_bytes", "discard_copy", "keep_copy", "read_kept", "since_boot_s", "take"]

COPY, KNOWN = ".drill.kept.db", ".drill.kept.json"  # recorder/disk.py gives them up
MODE = 0o600


class Kept(Record, frozen=True, kw_only=True):
    """``txid``: the position whose state the copy is, every page of it. ``witnesses``: all files of
    the replica that lay there then, of up to that position. ``full_s``: when the full drill was
    that it comes from, in seconds since the machine's boot.
    """

    location: str
    device_id: DeviceId
    timeline: str | None
    txid: Txid
    witnesses: tuple[LtxFile, ...]
    full_s: float
    machine_boot: str = ""
    file: tuple[int, ...] = ()


def since_boot_s() -> float:
    """A clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def copy_bytes(database: Path) -> int:
    """Of the copy; 0 where there is none."""
    try:
        return _copy(database).stat().st_size
    except OSError:
        return 0


def read_kept(database: Path, location: str, device_id: DeviceId) -> Kept | None:
    """What is known of the copy; None where there is none, or the machine was started since.

    Raises:
        NotOnwards: it is not the file that was kept, or of another replica.
    """
    if not (_copy(database).exists() or _known(database).exists()):
        return None
    try:
        kept = msgspec.json.decode(_known(database).read_bytes(), type=Kept)
        file = _identity(_copy(database))
    except (OSError, msgspec.DecodeError):
        raise NotOnwards("nothing is known of the copy that was kept") from None
    if kept.machine_boot != kernel_boot():
        return None
    if (kept.location, kept.device_id) != (location, device_id):
        raise NotOnwards("the copy that was kept is of another replica")
    if kept.file != file:
        raise NotOnwards("somebody has changed the copy that was kept")
    return kept


def keep_copy(database: Path, copy: Path, kept: Kept) -> None:
    """Move ``copy``, which nobody has open, there. Where that fails there is none: it was only to
    spare the next drill something.
    """
    discard_copy(database)
    try:
        copy.chmod(MODE)
        copy.replace(_copy(database))
        file = _identity(_copy(database))
        kept = msgspec.structs.replace(kept, machine_boot=kernel_boot(), file=file)
        _known(database).write_bytes(msgspec.json.encode(kept))
    except OSError:
        discard_copy(database)


def take(database: Path, to: Path) -> None:
    """Move the copy to ``to``. From then on nothing is known of it.

    Raises:
        NotOnwards: it is not there any more.
    """
    try:
        _known(database).unlink()
        _copy(database).rename(to)
    except OSError as exc:
        raise NotOnwards(f"the copy that was kept is gone: {exc.strerror}") from None


def discard_copy(database: Path) -> None:
    """Remove it. What cannot be removed is told by the next who writes there."""
    for path in (_known(database), _copy(database)):
        with suppress(OSError):
            path.unlink()


def _identity(path: Path) -> tuple[int, ...]:
    state = path.lstat()
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _copy(database: Path) -> Path:
    return database.with_name(COPY)


def _known(database: Path) -> Path:
    return database.with_name(KNOWN)
