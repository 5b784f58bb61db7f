"""The floor of the disk, ``retention.disk_floor_bytes``, and what results go for it.

To delete gives nothing back to the disk: it makes room inside the file, for results to come. So
results go for the floor as far as they themselves have grown since there was enough room, and never
for what other programs write meanwhile: however full those make the disk, the file holds what it
held when the floor was last met. Where that is not known, as when the floor is new, the missing
bytes are taken once, if all that may go is enough for them, else nothing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

import msgspec

from edge_store.config import Config, RetentionSection
from edge_store.errors import StoreError
from edge_store.queue.files import FOLDER as FILES
from edge_store.queue.held import FOLDER as HELD
from edge_store.result import Record
from edge_store.retention.choice import Size
from edge_store.wal import wal_bytes

__all__ = ["Floor", "Unmet", "find_unmet"]

NAME = "retention-floor.json"
SHARE = 64  # of the floor: what is known is written down again when it has moved by as much
SLACK = 8  # of the floor: by less it is missed without an alarm
BLOCK = 512  # bytes of st_blocks
OWN_FOLDERS = ("litestream", FILES, HELD)
OWN_ENDINGS = ("", "-wal", "-shm")
DRILL_COPY = ".drill.kept.db"


class Held(Record, frozen=True, kw_only=True):
    """The file. So much may the database hold while less than ``floor`` is free. Bytes."""

    floor: int
    used: int


class Floor:
    """Kept in ``retention-floor.json`` beside the database. A file that is not understood is none.
    ``afresh``: somebody has ordered that the missing bytes go, whatever was known before.
    """

    def __init__(self, database: Path, config: RetentionSection, *, afresh: bool = False) -> None:
        self._path = database.with_name(NAME)
        self._bytes = config.disk_floor_bytes
        self._afresh = afresh
        self._may_hold: int | None = None

    def missing(self, size: Size) -> int:
        """How many bytes are missing; 0 where none are."""
        return size.missing(self._bytes)

    def over(self, size: Size) -> int:
        """How many bytes of the database are to go; 0 until it is known what it may hold."""
        if self._may_hold is None:
            return 0
        return max(0, min(self.missing(size), size.used - self._may_hold))

    def look(self, size: Size) -> None:
        """Learn what the database may hold, where the floor is met, or it is written down."""
        if not self._bytes:
            return
        if not self.missing(size):
            self._may_hold = size.used
        elif self._may_hold is None:
            self._may_hold = self._read()

    def is_open(self, size: Size) -> bool:
        """Whether a pass has something to decide, or may make room."""
        return bool(self.missing(size)) and (self._may_hold is None or self.over(size) > 0)

    def decide(self, size: Size, reckon: Callable[[int], int]) -> None:
        """At the beginning of a pass. ``reckon(n)``: how many bytes may go, counted up to ``n``.

        Raises:
            StoreError: what was decided cannot be written down: then nothing may go for it.
        """
        if not self._bytes:
            return
        self.look(size)
        missing = self.missing(size)
        if missing and (self._may_hold is None or self._afresh):
            self._may_hold = size.used - (missing if reckon(missing) >= missing else 0)
        self._afresh = False
        self.keep(size)

    def keep(self, size: Size) -> None:
        """Write it down, where it is known and has moved. Raises as ``decide``."""
        if self._may_hold is None:
            return
        before = self._read()
        moves = 0 if self.missing(size) else self._bytes // SHARE
        if before is None or abs(before - self._may_hold) > moves:
            self._write(self._may_hold)

    def reread(self) -> None:
        """Somebody else has decided."""
        self._may_hold = None

    def _read(self) -> int | None:
        try:
            held = msgspec.json.decode(self._path.read_bytes(), type=Held)
        except (OSError, msgspec.DecodeError):
            return None
        return held.used if held.floor == self._bytes else None

    def _write(self, used: int) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(Held(floor=self._bytes, used=used)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as exc:
            raise StoreError(
                f"{self._path} cannot be written: {exc.strerror}; nothing goes for "
                "retention.disk_floor_bytes",
                hint="free space on that disk",
            ) from exc


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

    @property
    def is_alarming(self) -> bool:
        """By more than what comes and goes."""
        return self.missing > self.floor // SLACK

    def __str__(self) -> str:
        size = self.size
        moved = f", {size.unmoved} of which the WAL will take," if size.unmoved else ""
        said = (
            f"retention.disk_floor_bytes = {self.floor} is not met: {size.disk_free} bytes of the "
            f"disk are free{moved} and {size.inside} inside the database, {self.missing} too few. "
            f"Of the disk's {self.disk} this box takes {self.ours}, its database "
            f"{self.database} and the WAL {self.wal}; all else there {self.others}"
        )
        return f"{said}. Results stay: to delete them gives the disk nothing back"


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
    for name in (database.name, "search.db", DRILL_COPY):
        for ending in OWN_ENDINGS:
            yield database.with_name(f"{name}{ending}")
    for name in OWN_FOLDERS:
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
