"""Other processes that hold the database open for writing, from ``/proc``.

A foreign writer checkpoints on its own: with SQLite's default of 1000 pages that makes replicas
that do not restore, and nothing says so (FACTS 3). ``/proc/locks`` names every process that is
connected, whoever it belongs to; only those are looked into. One that is another user's and does
not write at this moment cannot be judged, and is not named.
"""

import os
from contextlib import suppress
from pathlib import Path

from edge_store.result import Record

__all__ = ["Foreign", "foreign_writers"]

WRITE_LOCK = "120"  # WAL_WRITE_LOCK: this byte of the -shm file, while a transaction writes
LOCKS = Path("/proc/locks")
FOREIGN_MAX = 8  # named at a time


class Foreign(Record, frozen=True, kw_only=True):
    """One of them. ``program``: the name of what it runs, as the kernel has it."""

    process_id: int
    program: str


def foreign_writers(database: Path, ours: frozenset[int]) -> tuple[Foreign, ...]:
    """Those that may write, but for the processes in ``ours``."""
    try:
        index = database.with_name(f"{database.name}-shm").stat().st_ino
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return ()
    connected: dict[int, bool] = {}  # whether it writes at this moment
    for line in lines:  # 1: POSIX  ADVISORY  READ 1234 fe:01:5678 128 128
        fields = line.split()
        if len(fields) == 8 and fields[5].rpartition(":")[2] == str(index):
            process_id = int(fields[4])
            writes = fields[3] == "WRITE" and fields[6] == WRITE_LOCK
            connected[process_id] = connected.get(process_id, False) or writes
    others = [(number, writes) for number, writes in sorted(connected.items()) if number > 0]
    found = [
        Foreign(process_id=number, program=_program(number))
        for number, writes in others
        if number not in ours and (writes or _may_write(number, database))
    ]
    return tuple(found[:FOREIGN_MAX])


def _may_write(process_id: int, database: Path) -> bool:
    """Whether one of its descriptors has the database open for more than reading."""
    with suppress(OSError):  # it is another user's, or has ended
        file = database.stat()
        for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
            with suppress(OSError):
                held = descriptor.stat()
                is_it = (held.st_dev, held.st_ino) == (file.st_dev, file.st_ino)
                if is_it and _mode(process_id, descriptor.name) != os.O_RDONLY:
                    return True
    return False


def _mode(process_id: int, descriptor: str) -> int:
    for line in Path(f"/proc/{process_id}/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "flags":
            return int(value, 8) & os.O_ACCMODE
    return os.O_RDONLY


def _program(process_id: int) -> str:
    try:
        return Path(f"/proc/{process_id}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
