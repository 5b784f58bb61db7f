"""The files of a folder into which somebody writes meanwhile."""

import os
from pathlib import Path

__all__ = ["files_in"]


def files_in(folder: Path) -> dict[Path, bytes]:
    """Each regular file below it with what is in it; but for those that go while they are read."""
    found: dict[Path, bytes] = {}
    for place, _, names in os.walk(folder):  # it goes on where a folder has gone
        for path in (Path(place, name) for name in names):
            try:
                if path.is_file():
                    found[path] = path.read_bytes()
            except FileNotFoundError:
                continue
    return found
