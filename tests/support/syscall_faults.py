"""Faults below SQLite: the n-th system call on the database's files fails, as a disk makes it fail.

``syscall_faults.c`` is compiled and preloaded; a shared file arms it, from this process or another.
"""

import errno
import mmap
import os
import struct
import subprocess
from pathlib import Path

__all__ = ["ALL", "FLUSH", "OPEN", "TRUNCATE", "UNLINK", "WRITE", "SyscallFaults", "built_shim"]

OPEN, WRITE, FLUSH, TRUNCATE, UNLINK = 1, 2, 4, 8, 16
ALL = OPEN | WRITE | FLUSH | TRUNCATE | UNLINK
LAYOUT = struct.Struct("=7i")
SOURCE = Path(__file__).with_suffix(".c")


def built_shim(folder: Path) -> Path:
    """The shared object, compiled into ``folder``."""
    library = folder / "syscall_faults.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(SOURCE), "-ldl", "-lpthread"], check=True, timeout=120)
    return library


class SyscallFaults:
    """The control that a preloaded process shares; created if it is not there."""

    def __init__(self, control: Path) -> None:
        if not control.exists():
            control.write_bytes(bytes(LAYOUT.size))
        descriptor = os.open(control, os.O_RDWR | os.O_CLOEXEC)
        self._shared = mmap.mmap(descriptor, LAYOUT.size)
        os.close(descriptor)
        self.control = control

    def environment(self, library: Path, prefix: Path) -> dict[str, str]:
        """What preloads it in a child; ``prefix`` begins the path of each file concerned."""
        return {
            "LD_PRELOAD": str(library),
            "FAULTS_CONTROL": str(self.control),
            "FAULTS_PREFIX": str(prefix),
        }

    def arm(self, at: int, *, lasting: bool, error: int = errno.EIO, kinds: int = ALL) -> None:
        """From now on, count; the ``at``-th call fails."""
        LAYOUT.pack_into(self._shared, 0, 0, at, lasting, error, kinds, 0, 0)
        struct.pack_into("=i", self._shared, 0, 1)

    def mend(self) -> None:
        """No fault from now on."""
        struct.pack_into("=i", self._shared, 0, 0)

    @property
    def calls(self) -> int:
        """Calls counted since the arming."""
        return int(LAYOUT.unpack_from(self._shared)[5])

    @property
    def hits(self) -> int:
        """Those that failed."""
        return int(LAYOUT.unpack_from(self._shared)[6])
