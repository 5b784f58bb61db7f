"""A box whose clock is wrong until it is set, as of a board without a battery."""

import time
from pathlib import Path
from typing import Any

import pytest
from support.records import DEVICE
from support.retaining import DAY_MS, Box

import edge_store.clock
import edge_store.ids
import edge_store.recorder.boot
import edge_store.retention.choice
from edge_store.clock import now_ms
from edge_store.ids import Uuid7
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot, end_boot

NOW = 1_790_000_000_000  # UTC ms, by a right clock
MODULES = (edge_store.clock, edge_store.recorder.boot, edge_store.retention.choice)


class Wall:
    """The time, what the clock is off by, in ms, and whether the kernel calls it synced."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.true, self.off, self.is_synced = NOW, 0, False
        patch.setattr(time, "time_ns", lambda: (self.true + self.off) * 1_000_000)
        patch.setattr(edge_store.ids, "_uuid7", Uuid7())  # else later tests' ids are years ahead
        for module in MODULES:
            patch.setattr(module, "is_clock_synced", lambda: self.is_synced)

    def wait(self, days: float) -> None:
        self.true += round(days * DAY_MS)

    def sync(self) -> None:
        self.off, self.is_synced = 0, True

    def off_to(self, at: int) -> None:
        """Set it by hand, or start there."""
        self.off = at - self.true


class ClockedBox(Box):
    """Its results are stamped and committed by ``wall``."""

    def __init__(self, folder: Path, wall: Wall) -> None:
        self.wall = wall
        self.ends: dict[int, int] = {}  # when each really ended
        super().__init__(folder, [])

    def boot_again(self, *, is_clean: bool = True) -> None:
        if is_clean:
            end_boot(self.connection, self.boot)
        self.boot = begin_boot(
            self.connection, device_id=DEVICE, version="0", engine="demo", engine_version="0"
        )
        self.admitted = 0

    def record(self, count: int = 1, **changes: Any) -> None:
        """That many results of a second each, one to a COMMIT."""
        for _ in range(count):
            at, is_synced = now_ms(), self.wall.is_synced
            self.wall.true += 1000
            self.commit(at + 1000, clock_synced=is_synced, **changes)

    def commit(self, ended_at: int, **changes: Any) -> None:
        """One that says that it ended then."""
        self.admitted += 1
        head = read_head(self.connection)
        result = self.result(self.admitted, ended_at, **changes)
        write_batch(self.connection, self.boot, head, self.admitted, [result])
        self.ends[head.seq + 1] = self.wall.true
