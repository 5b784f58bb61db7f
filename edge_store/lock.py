"""The lock beside the database: one process writes, and what it knew of the file outlives it.

``edge-store.lock`` holds the process id of who has the lock, and in a second line which database
was last open for writing, in which boot of the kernel. Only a file that was never open may be
missing; only in the same boot is the WAL's index known to be no newer than the WAL. A third line
names a file that was found damaged: what showed that, the index, is gone once somebody reads it.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from edge_store.errors import AlreadyRunning

__all__ = ["DatabaseLock", "kernel_boot"]

ORPHAN_TIMEOUT_S = 10.0  # the kernel kills it with its daemon: milliseconds
ORPHAN_POLL_S = 0.02
HOLDER_BYTES = 16  # the first line: a process id, filled up with blanks
NOTE_BYTES_MAX = 4096
REASON_CHARS_MAX = 500
KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")


class DatabaseLock:
    """Holds the flock of ``edge-store.lock``, so that one process writes.

    Litestream inherits ``descriptor``: until it has ended too, the lock is held, so that no second
    one can be started beside it. Entering waits a little for one whose daemon was killed.
    """

    def __init__(self, database: Path, *, orphan_timeout_s: float = ORPHAN_TIMEOUT_S) -> None:
        self.path = database.with_name("edge-store.lock")
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

    def note_open(self) -> None:
        """The database is whole, and will now be written."""
        note = f"{kernel_boot()} {self._name}\n".encode()
        with suppress(OSError):  # a full disk: without the note less is noticed, no more
            os.pwrite(self.descriptor, note, HOLDER_BYTES)
            os.ftruncate(self.descriptor, HOLDER_BYTES + len(note))

    def note_damage(self, database: Path, reason: str) -> None:
        """``database``, as it lies there, was found damaged; forgotten by ``note_open``."""
        said = " ".join(reason.split())[:REASON_CHARS_MAX]
        note = f"{self._lines()[0]}\n{_state_of(database)} {said}\n".encode()
        with suppress(OSError):
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

    def _lines(self) -> tuple[str, str]:
        note = os.pread(self.descriptor, NOTE_BYTES_MAX, HOLDER_BYTES).decode(errors="replace")
        opened, _, damaged = note.partition("\n")
        return opened, damaged.rstrip("\n")

    def __enter__(self) -> Self:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
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
