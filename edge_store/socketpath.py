"""Where the admin socket lies: beside the database, however long the path to it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NAME", "reachable_socket"]

NAME = "edge-store.sock"
PATH_BYTES_MAX = 107  # sun_path of unix(7)


@contextmanager
def reachable_socket(database: Path) -> Iterator[Path]:
    """A path to the socket that fits an address: by the folder's descriptor if it is long."""
    path = database.with_name(NAME)
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield path
        return
    folder = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{folder}") / NAME
    finally:
        os.close(folder)
