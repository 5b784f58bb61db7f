"""Whether a path still leads to the file that was opened by it, and what lies there instead.

A database that is moved, removed or replaced while it is open goes on taking commits, which nobody
finds afterwards. The file is only looked at, never opened (see sqlite.py).
"""

import os
from pathlib import Path

from edge_store.errors import NotAnEdgeStoreFile

__all__ = ["FOLDER_HINT", "NO_DATABASE", "ZSTD_MAGIC", "Place", "packed_hint", "unopened_hint"]

NO_DATABASE = (
    "was there a box: is its disk mounted, was the file moved? bring it back, or `edge-store "
    "replica restore` rebuilds it; --db names another; a new box: `edge-store init`"
)
FOLDER_HINT = (
    "the box in a folder is asked by --config FOLDER, a file in it by --db FOLDER/results.db"
)
PACKED_HINT = "backups are compressed: `edge-store restore FILE --to restored.db` unpacks one"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Place:
    """Of a file that is open from now on. Looking takes microseconds, on any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _identity(path)

    @property
    def is_left(self) -> bool:
        """Whether the path leads to nothing or to another file; not where that cannot be seen."""
        try:
            return _identity(self._path) != self._file
        except OSError:
            return False

    def require(self) -> None:
        """Raises ``NotAnEdgeStoreFile`` when it ``is_left``."""
        if not self.is_left:
            return
        what = "another file lies in its place" if self._path.exists() else "it is gone"
        raise NotAnEdgeStoreFile(
            f"{self._path} was moved, removed or replaced while it was open: {what}. What was "
            "acknowledged is in the file that was there and in the -wal beside its place",
            hint="put that file back and start again",
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def packed_hint(path: Path) -> str:
    """What to do about a file that SQLite calls no database: nobody has it open as one."""
    with path.open("rb") as file:
        is_packed = file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
    return PACKED_HINT if is_packed else ""


def unopened_hint(path: Path) -> str:
    """What to do about a database that is there, and that SQLite cannot open for reading."""
    if not os.access(path, os.R_OK):
        return "run it as a user of the group that owns the file"
    if not os.access(path.parent, os.W_OK):
        return (
            f"{path.parent} cannot be written, and SQLite keeps the index of a WAL beside it: copy "
            f"{path.name} and, if it is there, {path.name}-wal into another folder while no daemon "
            "runs, and give that copy as --db"
        )
    return ""
