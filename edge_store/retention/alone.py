"""The lock of a pass: ``retention.lock`` beside the database, empty, held while one is at work."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_store.errors import AlreadyRunning, StoreError

__all__ = ["alone_at_it"]

NAME = "retention.lock"


@contextmanager
def alone_at_it(database: Path) -> Iterator[None]:
    """One pass at a time, of the daemon or of a command.

    Raises:
        AlreadyRunning: another is under way.
        StoreError: the lock cannot be opened.
    """
    descriptor = _opened(database)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                "retention is at work already", hint="see the daemon's log; try again later"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _opened(database: Path) -> int:
    """Where root has made it, it is the database's owner's: the daemon's, as SQLite's -wal is."""
    path = database.with_name(NAME)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    except OSError as exc:
        raise StoreError(
            f"{path} cannot be opened: {exc.strerror}",
            hint=f"is it another user's? `sudo chown --reference={database} {path}`"
            if isinstance(exc, PermissionError)
            else "look at its disk",
        ) from exc
    if os.geteuid() == 0:
        owner = database.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
