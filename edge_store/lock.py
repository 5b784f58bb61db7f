"""The lock beside the database: one process writes, and what it knew of the file outlives it.

``edge-store.lock`` holds the process id of who has the lock, and in a second line which database
was last open for writing, in which boot of the kernel. Only a file that was never open may be
missing; only in the same boot is the WAL's index known to be no newer than the WAL. A third line
names a file that was found damaged: what showed that, the index, is gone once somebody reads it.
A fourth holds the box's id, to find its replica by when the database is gone.
"""

import errno
import fcntl
import os
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Self

from edge_store.errors import AlreadyRunning, StoreError
from edge_store.ids import DeviceId

__all__ = ["DatabaseLock", "LastBoot", "kernel_boot", "lock_holder", "noted_device_id"]

NAME = "edge-store.lock"
ORPHAN_TIMEOUT_S = 10.0  # the kernel kills it with its daemon: milliseconds
ORPHAN_POLL_S = 0.02
HOLDER_BYTES = 16  # the first line: a process id, filled up with blanks
NOTE_BYTES_MAX = 4096
REASON_CHARS_MAX = 500
HINTS = {
    errno.EROFS: "its disk is mounted read-only, as a kernel does with one that fails: see `dmesg`",
    errno.ENOSPC: "free space on the database's disk",
    errno.ENOENT: "store.path names a folder in which no file can be made: set another",
}
KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")


class LastBoot(StrEnum):
    """What is known of the newest boot when the file holds no end of it."""

    GOES_ON = "goes_on"
    CUT = "cut"  # no daemon answers, none holds the file
    COPIED = "copied"  # the file is a copy, made while it went on or after it was cut


class DatabaseLock:
    """Holds the flock of ``edge-store.lock``, so that one process writes.

    Litestream inherits ``descriptor``: until it has ended too, the lock is held, so that no second
    one can be started beside it. Entering waits a little for one whose daemon was killed.
    """

    def __init__(self, database: Path, *, orphan_timeout_s: float = ORPHAN_TIMEOUT_S) -> None:
        self.path = database.with_name(NAME)
        self._name = database.name
        self._orphan_timeout_s = orphan_timeout_s
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """What holds the lock, while it is held."""
        assert self._descriptor is not None
        return self._descriptor

    @property
    def was_open(self) -> bool:
        """Whether this database was ever open under this lock."""
        return self._noted()[1] == self._name

    @property
    def was_open_in_this_boot(self) -> bool:
        """Whether it was, since the kernel booted: no power cut lies between."""
        return self._noted() == (kernel_boot(), self._name)

    def note_open(self, device_id: DeviceId) -> None:
        """The database, which is that box's, is whole, and will now be written."""
        self._note(f"{kernel_boot()} {self._name}", "", device_id)

    def note_damage(self, database: Path, reason: str) -> None:
        """``database``, as it lies there, was found damaged; forgotten by ``note_open``."""
        said = " ".join(reason.split())[:REASON_CHARS_MAX]
        opened, _, device_id = self._lines()
        self._note(opened, f"{_state_of(database)} {said}", device_id)

    def _note(self, *lines: str) -> None:
        note = "".join(f"{line}\n" for line in lines).encode()
        with suppress(OSError):  # a full disk: without the note less is noticed, no more
            os.pwrite(self.descriptor, note, HOLDER_BYTES)
            os.ftruncate(self.descriptor, HOLDER_BYTES + len(note))

    def damage_of(self, database: Path) -> str | None:
        """Why ``database`` was found damaged, if neither it nor its WAL has changed since."""
        state, _, reason = self._lines()[1].partition(" ")
        return reason if state and state == _state_of(database) else None

    def _noted(self) -> tuple[str, str]:
        """Boot of the kernel and name of the file; empty where nothing was noted."""
        boot, _, name = self._lines()[0].partition(" ")
        return boot, name

    def _lines(self) -> tuple[str, str, str]:
        return _parts(os.pread(self.descriptor, NOTE_BYTES_MAX, HOLDER_BYTES))

    def __enter__(self) -> Self:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except PermissionError:
            raise
        except OSError as exc:
            raise StoreError(
                f"{self.path} cannot be written: {exc.strerror}", hint=HINTS.get(exc.errno or 0, "")
            ) from exc
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.pwrite(descriptor, f"{os.getpid():<{HOLDER_BYTES - 1}}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._orphan_timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, HOLDER_BYTES, 0).decode(errors="replace").strip()
                if _is_alive(holder):
                    raise AlreadyRunning(
                        f"{self.path} is held by process {holder}: another edge-store writes this "
                        "database",
                        hint="stop that one first, or give this one another store.path",
                    ) from None
                if time.monotonic() > deadline:
                    raise AlreadyRunning(
                        f"{self.path} is held by what process {holder or 'unknown'} left running: "
                        "its Litestream has not ended",
                        hint="end that litestream; `fuser edge-store.lock` names it",
                    ) from None
                time.sleep(ORPHAN_POLL_S)
            else:
                return

    def __exit__(self, *_exc: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_holder(database: Path) -> int | None:
    """The process that holds the writer's lock, from /proc/locks: taking the lock to find out would
    be in the way of a daemon that starts.
    """
    try:
        path = database.with_name(NAME)
        there, noted = path.stat(), path.read_bytes()[:HOLDER_BYTES].decode(errors="replace")
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    device = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}"
    for line in lines:  # 1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF
        fields = line.split()
        if fields[1] != "FLOCK" or fields[5].rpartition(":")[2] != str(there.st_ino):
            continue
        # of one disk: another may have that number. Btrfs and overlays call theirs otherwise here
        if fields[5] == f"{device}:{there.st_ino}" or fields[4] == noted.strip():
            return int(fields[4])
    return None


def noted_device_id(database: Path) -> DeviceId | None:
    """The box whose file was last open there for writing; None where nothing tells."""
    try:
        note = database.with_name(NAME).read_bytes()[HOLDER_BYTES:]
    except OSError:
        return None
    opened, _, device_id = _parts(note)
    is_its = opened.partition(" ")[2] == database.name
    return DeviceId(device_id) if device_id and is_its else None


def _parts(note: bytes) -> tuple[str, str, str]:
    """When which file was opened, what is damaged, whose it is; empty where that is not said."""
    opened, damaged, device_id, *_ = [*note.decode(errors="replace").split("\n"), "", "", ""]
    return opened, damaged, device_id


def _is_alive(process_id: str) -> bool:
    if not process_id.isdecimal():
        return False
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kernel_boot() -> str:
    """Changes when the machine starts."""
    try:
        return KERNEL_BOOT.read_text(encoding="ascii").strip()
    except OSError:  # without /proc: then no boot is known to be this one
        return f"unknown-{os.getpid()}"


def _state_of(database: Path) -> str:
    """Changes when the file is replaced or written, or its WAL is; not when they are read."""
    try:
        file = database.stat()
    except OSError:
        return "none"
    wal = database.with_name(f"{database.name}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    return f"{file.st_ino}:{file.st_size}:{file.st_mtime_ns}:{size}"
