"""How much room the database's disk has, and whether that is enough to admit more."""

import shutil
from pathlib import Path

from edge_store.errors import DiskFull

__all__ = ["Disk"]


class Disk:
    """The disk that holds ``database``, with ``reserve_bytes`` that requests may not use."""

    def __init__(self, database: Path, reserve_bytes: int) -> None:
        self._folder = database.parent
        self._reserve_bytes = reserve_bytes

    def free_bytes(self) -> int:
        """Bytes that an ordinary process may still write."""
        return shutil.disk_usage(self._folder).free

    def shortage(self) -> DiskFull | None:
        """The error to refuse requests with, or None while there is room."""
        free = self.free_bytes()
        if free >= self._reserve_bytes:
            return None
        return DiskFull(
            f"{self._folder} has {free} bytes free, less than store.disk_reserve_bytes = "
            f"{self._reserve_bytes}",
            hint="free space on that disk; the box goes on by itself",
        )
