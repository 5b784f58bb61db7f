"""How much room the database's disk has, and what is given up for it, in this order: the copy of
the last restore drill, without which the next one restores from nothing; the search index, which
can be built again; the bodies of new results; new requests.
"""

import shutil
from enum import IntEnum
from pathlib import Path

from edge_store.errors import DiskFull
from edge_store.loggers import get_logger

__all__ = ["DRILL_COPY", "SEARCH_INDEX", "Disk", "DiskLevel"]

log = get_logger(__name__)

DRILL_COPY = (".drill.kept.json", ".drill.kept.db")  # replica/kept.py
SEARCH_INDEX = ("search.db", "search.db-wal", "search.db-shm")
DROPPED = (("drill_copy_dropped", DRILL_COPY), ("search_index_dropped", SEARCH_INDEX))


class DiskLevel(IntEnum):
    """What has been given up; each level includes those before it."""

    OK = 0
    NO_SEARCH = 1  # below the reserve
    NO_BODIES = 2  # below three quarters of it
    REFUSING = 3  # below half of it: what is in flight, and the marks, need the rest


class Disk:
    """The disk that holds ``database``, with ``reserve_bytes`` that ordinary work may not use."""

    def __init__(self, database: Path, reserve_bytes: int) -> None:
        self._folder = database.parent
        self._reserve_bytes = reserve_bytes
        self._level = DiskLevel.OK

    @property
    def level(self) -> DiskLevel:
        """As of the last ``check``."""
        return self._level

    def free_bytes(self) -> int:
        """Bytes that an ordinary process may still write."""
        return shutil.disk_usage(self._folder).free

    def check(self) -> int:
        """Measure, drop what must go, log a change. Returns the free bytes."""
        free, level = self.measure()
        for event, names in DROPPED:
            if level is not DiskLevel.OK and self._drop(event, names):
                free, level = self.measure()
        if level is not self._level:
            tell = log.error if level > self._level else log.warning
            tell(
                "disk_level_changed",
                level=level.value,
                meaning=level.name.lower(),
                free_bytes=free,
                reserve_bytes=self._reserve_bytes,
            )
            self._level = level
        return free

    def shortage(self) -> DiskFull | None:
        """Measure. The error to refuse requests with, or None while there is room."""
        free = self.check()
        if self._level is not DiskLevel.REFUSING:
            return None
        return DiskFull(
            f"{self._folder} has {free} bytes free, less than half of store.disk_reserve_bytes = "
            f"{self._reserve_bytes}",
            hint="free space on that disk; the box goes on by itself",
        )

    def refusal_of(self, size: int) -> DiskFull | None:
        """Why ``size`` bytes that are no result may not be written: they would take the reserve."""
        free, _ = self.measure()
        if not self._reserve_bytes or free - size >= self._reserve_bytes:
            return None
        return DiskFull(
            f"{self._folder} has {free} bytes free: with {size} more written, less than "
            f"store.disk_reserve_bytes = {self._reserve_bytes} would be left for results",
            hint="delete files that are not needed, or free space on that disk",
        )

    def measure(self) -> tuple[int, DiskLevel]:
        """The free bytes and the level that goes with them; nothing is given up yet."""
        reserve = self._reserve_bytes
        try:
            free = self.free_bytes()
        except OSError as exc:  # a file system that was shut down
            log.error("disk_not_measured", error=str(exc))
            return 0, DiskLevel.REFUSING
        if free >= reserve:
            return free, DiskLevel.OK
        if 4 * free >= 3 * reserve:
            return free, DiskLevel.NO_SEARCH
        return free, DiskLevel.NO_BODIES if 2 * free >= reserve else DiskLevel.REFUSING

    def _drop(self, event: str, names: tuple[str, ...]) -> bool:
        """Whether there was one and it is gone."""
        found = [path for name in names if (path := self._folder / name).exists()]
        try:
            dropped_bytes = sum(path.stat().st_size for path in found)
            for path in found:
                path.unlink(missing_ok=True)
        except OSError as exc:  # a file system that has become read-only
            log.error("not_dropped", of=event, error=str(exc))
            return False
        if found:
            log.error(event, bytes=dropped_bytes)
        return bool(found)
