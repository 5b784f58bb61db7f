"""What a benchmark reports: a named figure with its unit, its bound, and how it was made."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from edge_store.result import Record

__all__ = ["Figure", "cpu_seconds", "median", "resident_bytes"]

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
STAT_FIELDS_BEFORE_UTIME = 11  # after the command's closing parenthesis (proc(5))


class Figure(Record, frozen=True, kw_only=True):
    """One measured number. ``holds`` is whether it is on the right side of ``bound``."""

    name: str
    value: float
    unit: str
    bound: str = ""
    holds: bool = True


def median(values: Sequence[float]) -> float:
    """The middle of at least one value."""
    assert values
    return statistics.median(values)


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    user, system = fields[STAT_FIELDS_BEFORE_UTIME : STAT_FIELDS_BEFORE_UTIME + 2]
    return (int(user) + int(system)) / CLOCK_TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
