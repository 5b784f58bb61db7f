"""What a benchmark reports: a named figure with its unit, its bound, and how it was made."""

import os
import random
import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edge_store.result import Record

__all__ = [
    "Figure",
    "at_least",
    "at_most",
    "cpu_seconds",
    "lower_bound",
    "median",
    "peak_resident_bytes",
    "percentile",
    "resident_bytes",
    "tree_cpu_seconds",
]

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
STAT_FIELDS_BEFORE_UTIME = 11  # after the command's closing parenthesis (proc(5))
RESAMPLES = 10_000


class Figure(Record, frozen=True, kw_only=True):
    """One measured number. ``holds`` is whether it is on the right side of ``bound``."""

    name: str
    value: float
    unit: str
    bound: str = ""
    holds: bool = True

    @property
    def shown(self) -> str:
        """The value in as many digits as say something."""
        return f"{self.value:.4g}" if abs(self.value) < 1e4 else f"{self.value:.0f}"


def at_least(name: str, value: float, bound: float, unit: str = "ratio") -> Figure:
    """A figure that may not be below its bound."""
    return Figure(name=name, value=value, unit=unit, bound=f"≥ {bound:g}", holds=value >= bound)


def at_most(name: str, value: float, bound: float, unit: str = "ratio") -> Figure:
    """A figure that may not be above its bound."""
    return Figure(name=name, value=value, unit=unit, bound=f"≤ {bound:g}", holds=value <= bound)


def median(values: Sequence[float]) -> float:
    """The middle of at least one value."""
    assert values
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least ``share`` of all at or below it."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def lower_bound(values: Sequence[float], confidence: float = 0.95) -> float:
    """What the median of such values is above, at a one-sided confidence.

    By bootstrap over the values, with a fixed seed: the same values give the same bound.
    """
    rng = random.Random(0)  # noqa: S311  (no secret)
    medians = [median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return percentile(medians, 1 - confidence)


def cpu_seconds(pid: int, *, with_ended: bool = False) -> float:
    """User and system time of all threads of a process so far; ``with_ended``: and of its children
    that have ended.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    times = fields[STAT_FIELDS_BEFORE_UTIME:][: 4 if with_ended else 2]
    return sum(map(int, times)) / CLOCK_TICKS


def tree_cpu_seconds(pid: int, *, with_ended: bool = False) -> float:
    """The same of a process and of all that descend from it and still run."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    total, left = 0.0, [pid]
    while left:
        each = left.pop()
        left += children.get(each, [])
        with suppress(OSError):
            total += cpu_seconds(each, with_ended=with_ended)
    return total


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return _status_bytes(pid, "VmRSS:")


def peak_resident_bytes(pid: int) -> int:
    """The most that it ever was."""
    return _status_bytes(pid, "VmHWM:")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
