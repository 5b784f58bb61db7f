"""Uploaded files and those that batches make: on the disk, under the SHA-256 of their bytes.

They lie in ``files/`` beside the database, for its owner and group. A file is whole or not there:
it is written under another name, flushed to the disk, then renamed, and only then entered in the
database. What is entered nowhere, after a crash, is removed at the next start.
"""

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from edge_store.errors import DiskFull, StoreError

__all__ = ["FileStore", "NewFile", "Refusal"]

T = TypeVar("T")

FOLDER = "files"
FOLDER_MODE, FILE_MODE = 0o750, 0o640
NAMES_PER_LOOK = 1000  # of a sweep, at the database
UNFINISHED = ".unfinished-"  # then whose it is, and a random name


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say what the disk refused as an error of ours."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"{what}: {exc.strerror}", hint="free space on that disk") from exc
        raise StoreError(f"{what}: {exc.strerror}", hint="see `edge-store doctor`") from exc


Refusal = Callable[[int], DiskFull | None]  # of so many more bytes

Needed = Callable[[list[str]], Awaitable[set[str]]]  # those of these names that are needed


class NewFile:
    """A file that is being written. Left without ``FileStore.publish``, it is gone again."""

    def __init__(self, folder: Path, prefix: str, refusal_of: Refusal) -> None:
        self._refusal_of = refusal_of
        self.bytes = 0
        self.sha256 = ""
        self._digest = hashlib.sha256()
        self._path = folder / f"{prefix}{secrets.token_hex(8)}"
        with told(f"{folder} cannot be written to"):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        """Add to its end. Raises ``DiskFull``, ``StoreError``."""
        if data and (refusal := self._refusal_of(len(data))) is not None:
            raise refusal
        with told(f"{self._path} cannot be written"):
            self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def finish(self) -> None:
        """Have all of it on the disk, so that it can be published."""
        with told(f"{self._path} cannot be written"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self.sha256 = self._digest.hexdigest()

    def rename(self, folder: Path) -> None:
        """Let it be found."""
        assert self.sha256
        with told(f"{folder} cannot be written to"):
            self._path.rename(folder / self.sha256)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def discard(self) -> None:
        """Remove what was not renamed."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


class FileStore:
    """The folder. Runs on the event loop; what touches the disk on other threads."""

    def __init__(self, database: Path, refusal_of: Refusal = lambda _size: None) -> None:
        """``refusal_of`` tells why so many more bytes may not be written, if they may not."""
        self._refusal_of = refusal_of
        self.folder = database.with_name(FOLDER)
        self._prefix = f"{UNFINISHED}{secrets.token_hex(4)}-"
        # between the rename of a file and its entry nothing may be swept
        self._sweeping = asyncio.Lock()

    def path(self, sha256: str) -> Path:
        """Where the bytes are, if they are there."""
        return self.folder / sha256

    def create(self, size: int = 0) -> NewFile:
        """Begin a file of ``size`` bytes, if that is known. On any thread.

        Raises:
            DiskFull, StoreError: the disk has no room, or fails.
        """
        if (refusal := self._refusal_of(size)) is not None:
            raise refusal
        with told(f"{self.folder} cannot be made"):
            self.folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        return NewFile(self.folder, self._prefix, self._refusal_of)

    async def publish(self, new: list[NewFile], enter: Callable[[], Awaitable[T]]) -> T:
        """Rename finished files, then have them entered in the database."""
        async with self._sweeping:
            for file in new:
                await asyncio.to_thread(file.rename, self.folder)
            return await enter()

    async def sweep(self, needed: Needed, since_ms: int = 0, names: list[str] | None = None) -> int:
        """Remove bytes that nobody needs, and what another daemon left unfinished; of these names,
        or all that are there. Returns how many files that were. What is older than ``since_ms``
        stays: a database that was restored knows nothing of it, and the one that was put aside may
        come back.
        """
        async with self._sweeping:
            found = iter(await asyncio.to_thread(self._names) if names is None else names)
            removed = 0
            while some := list(islice(found, NAMES_PER_LOOK)):
                unneeded = set(some) - await needed(some)
                removed += await asyncio.to_thread(self._remove, unneeded, since_ms)
            return removed

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return [name for name in names if not name.startswith(self._prefix)]

    def _remove(self, names: set[str], since_ms: int) -> int:
        removed = 0
        for path in map(self.path, names):
            with suppress(OSError):
                if path.stat().st_mtime_ns >= since_ms * 1_000_000:
                    path.unlink()
                    removed += 1
        return removed
