"""The folder beside a target in which a restore works, and which a later run goes on from.

It lies on the target's file system, so that a rename can publish from it. Downloaded files are
named after what they are in the store, its place and version included: one of that name is that
file, whichever run fetched it. One restore at a time works towards a target.

What need not outlast the machine's own boot (a drill's) is not flushed: a flush makes the disk's
other users wait. Then a later boot does not go on from it.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_store.errors import (
    AlreadyRunning,
    DiskFull,
    ReplicationError,
    RestoreTimedOut,
    StoreError,
)
from edge_store.lock import kernel_boot
from edge_store.replica.location import Location
from edge_store.replica.points import LtxFile

__all__ = ["Scratch", "discard_scratch", "fsync", "is_begun", "scratch_for"]

SCRATCH_END = ".restoring"
FILES = "files"
PART_END = ".part"


class Scratch:
    """``work`` is empty at the start of each run; ``kept`` holds the downloads. Unless it
    ``is_lasting``, nothing in it is flushed.
    """

    def __init__(self, folder: Path, *, is_lasting: bool = True) -> None:
        self.folder = folder
        self.is_lasting = is_lasting
        self.work = folder / "work"
        self.kept = folder / (FILES if is_lasting else f"{FILES}-{kernel_boot()}")

    def begin(self, *, is_new: bool = False) -> None:
        """Make its folders, and remove what this run cannot go on from; nothing where the folder
        ``is_new``.

        Raises:
            OSError: another restore has just ended, and removed the folder.
        """
        if not is_new:
            shutil.rmtree(self.work, ignore_errors=True)
            for path in self.folder.glob(f"{FILES}*"):
                if path != self.kept:
                    shutil.rmtree(path, ignore_errors=True)
        self.work.mkdir()
        self.kept.mkdir(exist_ok=True)

    def begin_again(self) -> None:
        """Empty ``work``."""
        shutil.rmtree(self.work)
        self.work.mkdir()

    def place(self, location: Location, file: LtxFile) -> Path:
        """Where the download of ``file`` lies once it is whole."""
        what = (location, file.key, file.size, file.written_at, file.version)
        return self.kept / hashlib.sha256("\0".join(map(str, what)).encode()).hexdigest()[:32]

    def keep_only(self, places: Iterable[Path]) -> None:
        """Remove the downloads that are of no use any more."""
        names = {place.name for place in places}
        for path in self.kept.iterdir():
            if path.name.removesuffix(PART_END) not in names:
                path.unlink()


def part_of(place: Path) -> Path:
    """Where a download lies until it is whole."""
    return place.with_name(place.name + PART_END)


@contextmanager
def scratch_for(to: Path, *, is_lasting: bool = True) -> Iterator[Scratch]:
    """The folder for ``to``. Afterwards it is gone, unless there are downloads and the restore was
    cut short: by a deadline, a cancellation, the store, a full disk; or killed.

    Raises:
        AlreadyRunning: another restore works in it.
        StoreError: it cannot be made.
    """
    scratch = Scratch(_folder(to), is_lasting=is_lasting)
    try:
        is_new = _made(scratch.folder)
        lock = os.open(scratch.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            scratch.begin(is_new=is_new)
        except OSError:
            os.close(lock)
            raise
    except BlockingIOError:
        raise AlreadyRunning(
            f"another restore to {to} is at work", hint="wait for it, or use another name"
        ) from None
    except OSError as exc:
        raise StoreError(
            f"{to.parent} cannot be written: {exc.strerror}", hint="choose another folder"
        ) from exc
    is_resumable = False
    try:
        yield scratch
    except (TimeoutError, asyncio.CancelledError, DiskFull):
        is_resumable = True
        raise
    except ReplicationError as exc:
        # after its other kinds, of a damaged replica, the next run would fail as this one did
        is_resumable = type(exc) in (ReplicationError, RestoreTimedOut)
        raise
    finally:
        is_left = is_resumable and any(scratch.kept.iterdir())
        shutil.rmtree(scratch.work if is_left else scratch.folder, ignore_errors=True)
        os.close(lock)


def discard_scratch(to: Path) -> None:
    """Remove what a killed restore to ``to`` has left. Raises as ``scratch_for`` does."""
    if is_begun(to):
        with scratch_for(to):
            pass


def _made(folder: Path) -> bool:
    """Make it, and the one that it is in; false where it is there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        folder.mkdir(mode=0o700)
    return True


def is_begun(to: Path) -> bool:
    """Whether a restore to ``to`` was killed, or is at work."""
    return _folder(to).exists()


def _folder(to: Path) -> Path:
    return to.parent / f".{to.name}{SCRATCH_END}"


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, last a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
