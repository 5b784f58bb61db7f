"""Fetches the LTX files of a restore into its scratch folder, so that a later run can go on.

Litestream's own restore starts again from nothing whenever a connection breaks. Here each file is
read on a thread, appended to a part, and taken up again at that offset, as long as some of it
arrives; a store that ignores ranges is read from the start. The size and the version are the
listing's; the checksums inside are checked by Litestream. Files of a folder are not copied.
"""

import asyncio
import errno
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from obstore.exceptions import BaseError, NotFoundError, PreconditionError

from edge_store.errors import DiskFull, EdgeStoreError, ReplicationError, StoreError
from edge_store.replica.bucket import REFUSALS, open_bucket
from edge_store.replica.explain import explained
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.replica.ltx import HEADER_BYTES, Source, read_header
from edge_store.replica.points import LtxFile
from edge_store.replica.scratch import Scratch, fsync, part_of
from edge_store.replica.traffic import Count, uncounted
from edge_store.result import Record

__all__ = ["Download", "Fetched", "Pace", "Vanished", "fetch_small", "lay_out", "unpaced"]

JOBS = 6  # files at a time
CHUNK_BYTES = 128 << 10
HEAD_TRIES = 3
TRIES, RETRY_PAUSE_S = 5, 0.5  # without a byte more; then 0.5 + 1 + 2 + 4 s have passed
Pace: TypeAlias = Callable[[int], None]
GONE = (NotFoundError, PreconditionError, FileNotFoundError)


def unpaced(_count: int) -> None:
    """As fast as it comes."""


class Vanished(Exception):
    """A file is not there any more as it was listed: the box has merged it into another."""


class Fetched(Record, frozen=True, kw_only=True):
    """Bytes. ``reused`` are those that an earlier run had fetched."""

    downloaded: int
    reused: int


class Download:
    """Files of one replica, into ``scratch``. ``on_bytes`` is told how many are there, on a thread,
    those of an earlier run included. ``pace`` is told of each part that arrived, on a thread, and
    may take its time; ``count`` of what is asked of the store, as it is.
    """

    def __init__(
        self,
        location: Location,
        credentials: Credentials | None,
        scratch: Scratch,
        on_bytes: Callable[[int], None] = lambda _bytes: None,
        pace: Pace = unpaced,
        count: Count = uncounted,
    ) -> None:
        self._location = location
        self._bucket = open_bucket(location, credentials, for_download=True)
        self._scratch = scratch
        self._on_bytes = on_bytes
        self._pace = pace
        self._count = count
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._present = 0
        self.is_needed = location.scheme is not Scheme.FILE

    def missing(self, files: Sequence[LtxFile]) -> int:
        """Bytes that are still to be fetched."""
        if not self.is_needed:
            return 0
        return sum(file.size for file in files) - sum(map(self._arrived, files))

    def path(self, file: LtxFile) -> Path:
        """Where it lies here, once it is fetched."""
        if not self.is_needed:
            return Path(self._location.path) / file.key
        return self._scratch.place(self._location, file)

    def has_all(self, files: Sequence[LtxFile]) -> bool:
        """Whether they are still in the folder that they are read from."""
        return self.is_needed or all(self.path(file).exists() for file in files)

    async def database_bytes(self, file: LtxFile) -> int:
        """The size of the database in the state to which ``file``, the last of a chain, leads."""
        header = read_header(await self._read_head(file), f"{self._location}: {file.key}")
        return header.page_size * header.pages

    async def fetch(self, files: Sequence[LtxFile]) -> Fetched:
        """Have all of them here. Safe to cancel: what has arrived stays.

        Raises:
            Vanished: one is not there any more.
            ReplicationError: the store does not answer, again and again.
            DiskFull, StoreError: the scratch folder cannot be written.
        """
        if not self.is_needed:
            return Fetched(downloaded=0, reused=0)
        reused = self._present = sum(map(self._arrived, files))
        self._on_bytes(self._present)
        threads = ThreadPoolExecutor(JOBS, thread_name_prefix="ltx") if len(files) > 1 else None
        loop = asyncio.get_running_loop()
        self._scratch.keep_only(map(self.path, files))
        try:
            largest_first = sorted(files, key=lambda file: -file.size)
            fetching = [loop.run_in_executor(threads, self._fetch, file) for file in largest_first]
            await asyncio.gather(*fetching)
        except GONE as exc:
            raise Vanished from exc
        except BaseError as exc:
            raise explained(exc, self._location) from exc
        except OSError as exc:
            raise self._unwritten(exc) from exc
        finally:
            self._cancelled.set()
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)
        if self._scratch.is_lasting:
            await asyncio.to_thread(fsync, self._scratch.kept)
        return Fetched(downloaded=sum(file.size for file in files) - reused, reused=reused)

    def _unwritten(self, exc: OSError) -> EdgeStoreError:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(
                f"{self._scratch.folder}: no space is left for the download",
                hint="make room, and run it again: it goes on from what has arrived",
            )
        return StoreError(
            f"{self._scratch.folder} cannot be written: {exc.strerror}",
            hint="choose another folder",
        )

    async def _read_head(self, file: LtxFile) -> bytes:
        for left in reversed(range(HEAD_TRIES)):
            try:
                return await asyncio.to_thread(self._head, file)
            except GONE as exc:
                raise Vanished from exc
            except (BaseError, OSError) as exc:
                if not left or isinstance(exc, REFUSALS):
                    raise explained(exc, self._location) from exc
        raise AssertionError

    def _head(self, file: LtxFile) -> bytes:
        here = self.path(file)
        for path in (here, part_of(here)):
            if path.exists() and path.stat().st_size >= HEADER_BYTES:
                with path.open("rb") as opened:
                    return opened.read(HEADER_BYTES)
        return next(self._stream(file, 0, HEADER_BYTES), b"")  # the rest of it is not read

    def _arrived(self, file: LtxFile) -> int:
        here = self.path(file)
        if here.exists():
            return file.size
        part = part_of(here)
        return min(part.stat().st_size, file.size) if part.exists() else 0

    def _fetch(self, file: LtxFile) -> None:
        """One file, on a thread. Ends soon after a cancellation."""
        here = self.path(file)
        if here.exists():
            return
        part = part_of(here)
        failures, furthest = 0, -1
        while not self._cancelled.is_set():
            try:
                self._append(file, part)
            except (*GONE, *REFUSALS):
                raise
            except BaseError as exc:
                arrived = part.stat().st_size if part.exists() else 0
                if "NotPartial" in str(exc):  # the store ignores ranges: from the start then
                    self._arrive(-arrived)
                    part.unlink(missing_ok=True)
                    continue
                failures = 0 if arrived > furthest else failures + 1
                furthest = max(furthest, arrived)
                if failures >= TRIES:
                    raise
                self._cancelled.wait(RETRY_PAUSE_S * 2**failures if failures else 0)
                continue
            if self._cancelled.is_set():
                return
            if self._scratch.is_lasting:
                fsync(part)
            part.rename(here)
            return

    def _append(self, file: LtxFile, part: Path) -> None:
        """Read from where the part ends to the end of the file."""
        with part.open("ab") as writing:
            arrived = writing.tell()
            if arrived < file.size:
                for chunk in self._stream(file, arrived):
                    writing.write(chunk)
                    arrived += len(chunk)
                    self._arrive(len(chunk))
                    self._pace(len(chunk))
                    if self._cancelled.is_set():
                        return
        if arrived != file.size:
            part.unlink()
            raise ReplicationError(
                f"{self._location}: {file.key} has {arrived} bytes, and {file.size} were listed",
                hint="try again: it was being written; if it stays so, it is damaged",
            )

    def _stream(
        self, file: LtxFile, offset: int, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        if not self.is_needed:
            yield from self._bucket.stream(file.key, offset, chunk_bytes, None)
            return
        self._count("GET", 1, 0)
        for chunk in self._bucket.stream(file.key, offset, chunk_bytes, file.version):
            self._count("GET", 0, len(chunk))
            yield chunk

    def _arrive(self, more: int) -> None:
        with self._lock:
            self._present += more
            self._on_bytes(self._present)


def fetch_small(location: Location, credentials: Credentials | None, file: LtxFile) -> Source:
    """All of ``file``, or where it lies on this machine. On the caller's thread: for who has many
    replicas to look at, and of each a file that is soon read.

    Raises:
        Vanished: it is not there any more.
        ReplicationError: the store does not answer, or gave something else than it listed.
    """
    if location.scheme is Scheme.FILE:
        return Path(location.path) / file.key
    try:
        bucket = open_bucket(location, credentials)
        content = b"".join(bucket.stream(file.key, 0, max(1, file.size), file.version))
    except GONE as exc:
        raise Vanished from exc
    except (BaseError, OSError) as exc:
        raise explained(exc, location) from exc
    if len(content) != file.size:
        raise ReplicationError(
            f"{location}: {file.key} has {len(content)} bytes, and {file.size} were listed",
            hint="try again: it was being written; if it stays so, it is damaged",
        )
    return content


def lay_out(files: Sequence[LtxFile], download: Download, folder: Path) -> None:
    """Make ``folder`` a replica of these downloads, as Litestream reads one.

    By hard links: of a symbolic one Litestream takes the length for the file's. A file system that
    has none, FAT's, loses the downloads to the rebuilding; files of a folder are copied there.

    Raises:
        Vanished: one is not in that folder any more.
    """
    for file in files:
        name = folder / "ltx" / f"{file.level:x}" / f"{file.first:016x}-{file.last:016x}.ltx"
        name.parent.mkdir(parents=True, exist_ok=True)
        here = download.path(file)
        try:
            name.hardlink_to(here)
        except FileNotFoundError as exc:
            raise Vanished from exc
        except OSError:
            if download.is_needed:
                here.rename(name)
            else:
                shutil.copyfile(here, name)
