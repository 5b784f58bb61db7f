"""How much disk a folder of copies may take, and which older copies go to make room.

A box's newest copy never goes. Of the older ones that are kept beside, the one whose newest commit
is the oldest goes first, whichever box it is of; each that went is told of. Where none is left that
may go, a copy that would be too large is refused, and the box keeps the one that it has.
"""

import threading
from bisect import insort
from collections.abc import Callable
from pathlib import Path

from edge_store.errors import DiskBudgetSpent
from edge_store.fleet.forget import all_older_copies
from edge_store.fleet.history import DAMAGED, Kept
from edge_store.result import Record
from edge_store.search.file import drop_index, index_bytes, index_of_copy

__all__ = ["DiskBudget", "Evicted", "copies_bytes"]


class Evicted(Record, frozen=True, kw_only=True):
    """An older copy that was deleted to make room, with the search index beside it."""

    path: Path
    bytes: int


class DiskBudget:
    """Of one pull into ``folder``, which is listed once. For any thread. ``may_go`` tells which
    older copies may, and is asked of each until it has said no.
    """

    def __init__(
        self, folder: Path, bytes_max: int, may_go: Callable[[Path], bool] = lambda _path: True
    ) -> None:
        self._folder = folder
        self._may_go = may_go
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._used = copies_bytes(folder)
        self._older = _oldest_first(folder)
        self._spared: set[Path] = set()
        self._staying: set[Path] = set()

    def settled(self, settle: Callable[[], Kept | None]) -> Kept | None:
        """What ``settle`` keeps aside: until it is ``released`` it goes for no other box."""
        with self._lock:
            kept = settle()
            if kept is not None:
                self._spared.add(kept.path)
                if kept.path not in self._older and kept.path.suffix != DAMAGED:
                    insort(self._older, kept.path, key=_age)
            return kept

    def release(self, kept: Path) -> None:
        """It is an older copy as any other is, or not there any more."""
        with self._lock:
            self._spared.discard(kept)

    def make_room(self, more: int) -> list[Evicted]:
        """Have ``more`` bytes fit, and count them.

        Raises:
            DiskBudgetSpent: they do not fit. Nothing was deleted.
        """
        with self._lock:
            over = self._used + more - self._bytes_max
            going: list[Evicted] = []
            for path in self._older if over > 0 else ():
                if path in self._spared or not self._goes(path):
                    continue
                size = path.stat().st_size + index_bytes(index_of_copy(path))
                going.append(Evicted(path=path, bytes=size))
                if sum(each.bytes for each in going) >= over:
                    break
            freed = sum(each.bytes for each in going)
            if over > 0 and freed < over and more > 0:
                raise DiskBudgetSpent(
                    f"{self._folder} holds {_mb(self._used)} of {_mb(self._bytes_max)}, "
                    f"{_mb(freed)} of it in older copies that may go: {_mb(more)} more do not fit",
                    hint="raise --disk-max, or have `edge-store fleet export` bring the older ones "
                    "into the lake",
                )
            for each in going:
                drop_index(index_of_copy(each.path))  # first: else nobody would know whose it is
                each.path.unlink()
                self._older.remove(each.path)
            self._used += more - freed
            return going

    def _goes(self, path: Path) -> bool:
        if path in self._staying or not path.exists():
            return False
        if not self._may_go(path):
            self._staying.add(path)
        return path not in self._staying

    def over(self) -> str | None:
        """That the folder holds more than it may, and why nothing goes for it."""
        with self._lock:
            used = copies_bytes(self._folder)
            if used <= self._bytes_max:
                return None
            waiting = [path for path in _oldest_first(self._folder) if not self._may_go(path)]
            damaged = sum(1 for _ in self._folder.glob("*.db.damaged"))
        said = f"{self._folder} holds {_mb(used)}, over --disk-max {_mb(self._bytes_max)}: "
        said += "the newest copy of a box never goes"
        if waiting:
            said += f"; {len(waiting)} older ones may once `edge-store fleet export` has run"
        if damaged:
            said += f"; {damaged} damaged ones (*.db.damaged) are left to you"
        return said


def copies_bytes(folder: Path) -> int:
    """What the copies of a folder take with their search indexes, older and damaged ones included;
    a twin counts once.
    """
    found = [path.stat() for path in folder.glob("*.db*") if path.is_file()]
    return sum({(state.st_dev, state.st_ino): state.st_size for state in found}.values())


def _oldest_first(folder: Path) -> list[Path]:
    """The older copies, by the time that is in their names."""
    older = [path for those in all_older_copies(folder).values() for path in those]
    return sorted(older, key=_age)


def _age(older: Path) -> str:
    return older.name.partition(".")[2]


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
