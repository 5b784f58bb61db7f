"""What a box tells of itself in its head that no copy of its database says: room on its disk, its
clock, whether the newest drill failed.

A head stays the same bytes while nothing changes, so nothing here follows a figure that moves by
itself: what was told stands until it is off by a whole step.
"""

import shutil
from pathlib import Path

from edge_store.clock import now_ms
from edge_store.result import Boot, Record

__all__ = ["ClockOffset", "Machine", "MachineState"]

DISK_STEPS = 64  # free space is told in 64ths of the disk
OFFSET_STEP_S = 10


class MachineState(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """``clock_offset_s``: how far the box's clock is ahead of the store's, at least, in tens of
    seconds; None: not known yet. ``clock_synced`` is the kernel's opinion at the start.
    """

    disk_bytes: int
    disk_free_bytes: int
    clock_synced: bool
    clock_offset_s: int | None = None
    drill_failed: bool = False


class ClockOffset:
    """The store's time of an object, beside ours before and after we had put it there."""

    def __init__(self) -> None:
        self._written: tuple[str, int, int] | None = None
        self.ahead_s: float | None = None

    def wrote(self, nonce: str, before: int) -> None:
        """It was put just now; ``before`` was then ours (UTC ms)."""
        self._written = (nonce, before, now_ms())

    def read(self, nonce: str, written_at: int) -> None:
        """As it is read there. A store may know no more than the second, cut or rounded."""
        if self._written is None or self._written[0] != nonce:
            return
        _, before, after = self._written
        ahead, behind = before - written_at - 1000, written_at - after - 1000
        self.ahead_s = max(0, ahead) / 1000 or -max(0, behind) / 1000


class Machine:
    """One box, as its daemon sees it."""

    def __init__(self, database: Path, boot: Boot, offset: ClockOffset) -> None:
        self.boot = boot
        self._folder = database.parent
        self._offset = offset

    def look(self, before: MachineState | None, *, drill_failed: bool) -> MachineState | None:
        """What is to be told, where ``before`` was. None: the disk cannot be measured."""
        try:
            disk = shutil.disk_usage(self._folder)
        except OSError:
            return before
        was_free = before.disk_free_bytes if before and before.disk_bytes == disk.total else None
        return MachineState(
            disk_bytes=disk.total,
            disk_free_bytes=_stepped(disk.free, max(1, disk.total // DISK_STEPS), was_free),
            clock_synced=self.boot.clock_synced,
            clock_offset_s=self._offset_s(before.clock_offset_s if before else None),
            drill_failed=drill_failed,
        )

    def _offset_s(self, before: int | None) -> int | None:
        ahead_s = self._offset.ahead_s
        if ahead_s is None:
            return before
        if before is not None and abs(ahead_s - before) < OFFSET_STEP_S:
            return before
        return OFFSET_STEP_S * round(ahead_s / OFFSET_STEP_S)


def _stepped(actual: int, step: int, before: int | None) -> int:
    """``actual`` in whole steps; ``before`` while it is less than a step beyond that one's."""
    if before is not None and before - step < actual < before + 2 * step:
        return before
    return actual // step * step
