"""The floor of the disk, ``retention.disk_floor_bytes``, and what results go for it.

To delete gives nothing back to the disk: it makes room inside the file, for results to come. So
while the floor is missed the database holds what it held when that began: the oldest results make
room for those that come, and no more go than have come. However full other programs make the disk,
as many results stay as there were.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

from edge_store.config import Config, RetentionSection
from edge_store.queue.files import FOLDER as FILES
from edge_store.queue.held import FOLDER as HELD
from edge_store.recorder.deletions import What
from edge_store.recorder.disk import DRILL_COPY, SEARCH_INDEX
from edge_store.retention.choice import Size
from edge_store.wal import wal_bytes

__all__ = ["Floor", "Unmet", "find_unmet", "is_alarming"]

SLACK = 8  # of the floor: by less it is missed without an alarm
BLOCK = 512  # bytes of st_blocks
OWN_FOLDERS = ("litestream", FILES, HELD)


class Floor:
    """What the database may hold while the floor is missed: what it held when the floor was last
    met, or is first looked at.
    """

    def __init__(self, config: RetentionSection) -> None:
        self._bytes = config.disk_floor_bytes
        self._since: Size | None = None
        self._gone = dict.fromkeys(What, 0)

    def look(self, size: Size) -> None:
        """Learn what may be held."""
        if self._since is None or not size.missing(self._bytes):
            self._since = size
            self._gone = dict.fromkeys(What, 0)

    def over(self, size: Size) -> int:
        """How many bytes of the database are to go; 0 where no result has come in their place."""
        if self._since is None or all(self.rows(what, size) <= 0 for what in What):
            return 0
        return max(0, min(size.missing(self._bytes), size.used - self._since.used))

    def rows(self, what: What, size: Size) -> int:
        """How many results, or bodies, may go: no more than have come."""
        since = size if self._since is None else self._since
        return max(0, size.newest - since.newest - self._gone[what])

    def took(self, what: What, rows: int) -> None:
        """So many go."""
        self._gone[what] += rows


class Unmet(NamedTuple):
    """The floor is not met. All in bytes: ``ours`` is what this box's files take of the disk, the
    ``database`` and the ``wal`` among them; ``others``: everything else there.
    """

    floor: int
    missing: int
    size: Size
    disk: int
    ours: int
    database: int
    wal: int
    others: int

    def __str__(self) -> str:
        size = self.size
        moved = f", {size.unmoved} of which the WAL will take," if size.unmoved else ""
        said = (
            f"retention.disk_floor_bytes = {self.floor} is not met: {size.disk_free} bytes of the "
            f"disk are free{moved} and {size.inside} inside the database, {self.missing} too few. "
            f"Of the disk's {self.disk} this box takes {self.ours}, its database "
            f"{self.database} and the WAL {self.wal}; all else there {self.others}"
        )
        return f"{said}. To delete results gives the disk nothing back: no more go than come"


def is_alarming(config: RetentionSection, size: Size) -> bool:
    """Whether the floor is missed by more than what comes and goes."""
    return size.missing(config.disk_floor_bytes) > config.disk_floor_bytes // SLACK


def find_unmet(config: Config, size: Size) -> Unmet | None:
    """None where there is no floor, or it is met.

    Raises:
        OSError: the disk cannot be measured.
    """
    floor = config.retention.disk_floor_bytes
    missing = size.missing(floor)
    if not missing:
        return None
    database = Path(config.store.path)
    disk = os.statvfs(database.parent)
    ours = _taken(_own(config, database), database.parent.stat().st_dev)
    taken = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    return Unmet(
        floor=floor,
        missing=missing,
        size=size,
        disk=disk.f_blocks * disk.f_frsize,
        ours=ours,
        database=size.used + size.inside,
        wal=wal_bytes(database),
        others=max(0, taken - ours),
    )


def _own(config: Config, database: Path) -> Iterator[Path]:
    """What this box writes, as far as it may be on the database's disk."""
    files = [f"{database.name}{ending}" for ending in ("", "-wal", "-shm")]
    for name in (*files, *SEARCH_INDEX, *DRILL_COPY, *OWN_FOLDERS):
        yield database.with_name(name)
    replica = config.replica.url if config.replica.enabled else ""
    for address in (replica, config.retention.archive):
        path = address.removeprefix("file://")
        if path.startswith("/"):
            yield Path(path)


def _taken(paths: Iterable[Path], device: int) -> int:
    """Bytes of these files and folders on that disk, each once; what goes meanwhile counts not."""
    seen: set[int] = set()
    left, count = list(paths), 0
    while left:
        path = left.pop()
        try:
            found = path.lstat()
            if found.st_dev != device or found.st_ino in seen:
                continue
            seen.add(found.st_ino)
            count += found.st_blocks * BLOCK
            if S_ISDIR(found.st_mode):
                left.extend(path.iterdir())
        except OSError:
            continue
    return count
