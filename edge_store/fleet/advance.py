"""Brings a copy forward by those files of its replica that are newer than it, on a clone of it.

Which they are, and that they are of the same history, is ``replica/onwards.py``'s. What comes of
them is checked: SQLite's structure (``quick_check``: whether an index has each row is for the
restore in ``--full-every`` days), the chain of digests on from the copy's newest commit, the rows
that came, and the box's head. Whatever does not fit is ``NotOnwards``, and the caller restores.
"""

import asyncio
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeAlias

from edge_store.chain import SEQ_MAX, check_links, check_rows, find_link
from edge_store.errors import DiskFull, RestoreFailed, RestoreTimedOut, StoreError
from edge_store.fleet.copies import Standing, witnesses_of, work_folder
from edge_store.fleet.departed import retired_since
from edge_store.fleet.history import End, end_of, holds, look_up_end
from edge_store.identity import read_device_id
from edge_store.replica.download import Download, Pace, Vanished, fetch_small
from edge_store.replica.heads import Head, holds_commit
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.replica.ltx import Source, database_bytes
from edge_store.replica.onwards import NotOnwards, apply_onwards, find_onwards
from edge_store.replica.points import LtxFile, Txid
from edge_store.replica.rebuild import require_space
from edge_store.replica.restore import STEPS_BETWEEN_CHECKS, make_last
from edge_store.replica.scratch import scratch_for
from edge_store.result import Record
from edge_store.schema import SCHEMA_VERSION
from edge_store.sql import sql
from edge_store.sqlite import Connection, check_integrity, open_copy, open_reader, translated

__all__ = ["Advanced", "Limits", "advance", "holds_told", "is_told"]

AT_ONCE_BYTES = 1 << 20  # files of so many are fetched before the database's size is known
COPIED_BYTES = 1 << 20  # at a time
FICLONE = 0x40049409  # Linux: share the blocks of another file
NUMBERS = count()  # of new copies in this process, so that none has another's name
MAPPED_BYTES = 16 << 20  # of what was just copied, and is in memory still: a read may not fail

Files: TypeAlias = Sequence[tuple[Source, LtxFile]]


class Advanced(Record, frozen=True, kw_only=True):
    """A copy in its new state, and where that ends."""

    txid: Txid
    downloaded_bytes: int
    results: int
    end: End
    witnesses: tuple[LtxFile, ...]
    schema_version: int


class Limits(NamedTuple):
    """Of one copy. ``pace``: see ``Download``. ``before_replacing`` is called with the new state
    once that is checked, and whether the box's retention has deleted anything since the copy, on a
    thread; what it raises leaves the copy as it is.
    """

    timeout_s: float
    pace: Pace
    before_replacing: Callable[[Path, bool], object]


class _Made(NamedTuple):
    """What is known of a new state: see ``Limits`` for the last."""

    results: int
    version: int
    end: End
    has_retired: bool


async def advance(
    location: Location,
    credentials: Credentials | None,
    copy: Path,
    *,
    here: Standing,
    head: Head,
    limits: Limits,
) -> Advanced:
    """Bring ``copy``, of which ``here`` is known, to the newest state of its replica, of which
    ``head`` tells. Safe to cancel and to kill: until one rename the copy is the older one, whole.

    Raises:
        NotOnwards: no files lead on from there, or what came of them does not hold.
        ReplicationError: the store does not answer.
        RestoreTimedOut: the deadline has passed.
        DiskFull, StoreError: there is no room for it.
    """
    device_id = head.device_id
    try:
        async with asyncio.timeout(limits.timeout_s):
            onwards = await find_onwards(
                location, credentials, device_id, here.txid, here.witnesses
            )
            if onwards.point.txid < head.txid:
                raise NotOnwards(f"its head tells of TXID {head.txid:016x}, which is not there")
            making = _Making(copy, here, head, limits)
            if sum(file.size for file in onwards.chosen) <= AT_ONCE_BYTES:
                made = await making.small(_Small(location, credentials, onwards.chosen))
            else:
                with scratch_for(copy) as scratch:
                    download = Download(
                        location, credentials, scratch, lambda _bytes: None, limits.pace
                    )
                    size = await onwards.database_bytes(download)  # asks for the last one's head
                    require_space(scratch.folder, size, download.missing(onwards.chosen))
                    await onwards.fetch(download)
                    files = [(download.path(file), file) for file in onwards.chosen]
                    made = await making.large(scratch.work / copy.name, files)
    except RestoreFailed as exc:
        raise NotOnwards(str(exc)) from exc
    except TimeoutError:
        raise RestoreTimedOut(
            f"{device_id} was not pulled from {location} within {limits.timeout_s:g} s",
            hint="raise --timeout, or check the network to the store; what has arrived is kept",
        ) from None
    is_here = location.scheme is Scheme.FILE
    return Advanced(
        txid=onwards.point.txid,
        downloaded_bytes=0 if is_here else sum(file.size for file in onwards.chosen),
        results=made.results,
        end=made.end,
        witnesses=witnesses_of(onwards.listed, onwards.point.txid),
        schema_version=made.version,
    )


class _Small(NamedTuple):
    """Files that are fetched on the thread that applies them."""

    location: Location
    credentials: Credentials | None
    chosen: Sequence[LtxFile]

    def fetch(self, pace: Pace) -> Files:
        """Raises as ``Onwards.fetch`` does."""
        files: list[tuple[Source, LtxFile]] = []
        for file in self.chosen:
            try:
                source = fetch_small(self.location, self.credentials, file)
            except Vanished:
                raise NotOnwards("its files are merged while they are read") from None
            files.append((source, file))
            if isinstance(source, bytes):
                pace(file.size)
        return files


class _Making:
    """The new state of a copy. It is made and checked on a thread, in one go: each hop between
    threads costs a tenth of a millisecond, and a box has little more to do than ten.
    """

    def __init__(self, copy: Path, here: Standing, head: Head, limits: Limits) -> None:
        self._copy = copy
        self._here = here
        self._head = head
        self._limits = limits
        self._cancelled = threading.Event()

    async def small(self, small: _Small) -> _Made:
        """Of files that are fetched first, in the folder that a pull empties when it begins."""
        folder = work_folder(self._copy.parent)
        new = folder / f"{next(NUMBERS)}-{self._copy.name}"

        def make() -> _Made:
            made = None
            try:
                folder.mkdir(parents=True, exist_ok=True)
                made = self._made(new, small.fetch(self._limits.pace))
                return made
            finally:
                if made is None or self._cancelled.is_set():
                    new.unlink(missing_ok=True)

        return await self._replaced(new, make)

    async def large(self, new: Path, files: Files) -> _Made:
        """At ``new``, of files that are here."""
        return await self._replaced(new, lambda: self._made(new, files))

    async def _replaced(self, new: Path, make: Callable[[], _Made]) -> _Made:
        try:
            made = await asyncio.to_thread(make)
        finally:
            self._cancelled.set()
        os.rename(new, self._copy)  # noqa: PTH104  (a power cut may undo it: the older is there)
        return made

    def _made(self, new: Path, files: Files) -> _Made:
        """Ends soon after a cancellation. Raises as ``advance`` does, and what ``before_replacing``
        raises.
        """
        try:
            require_space(new.parent, database_bytes(*files[-1]) if files else 0, 0)
            made = self._make(new, files)
        except StoreError as exc:
            if isinstance(exc, DiskFull):
                raise
            raise NotOnwards(f"what came of its files: {exc}") from exc
        except FileNotFoundError:  # of a folder on this machine they are read where they are
            raise NotOnwards("its files are merged while they are read") from None
        make_last(new)
        if not self._cancelled.is_set():
            self._limits.before_replacing(new, made.has_retired)
        return made

    def _make(self, new: Path, files: Files) -> _Made:
        before = self._here.end or look_up_end(self._copy)[1]
        if before is None:
            raise NotOnwards("its schema does not tell where it ends")
        is_shared = _clone(self._copy, new)
        apply_onwards(new, files)
        # of a shared block a bad sector is found by a read: through a map that ends the process
        opened = open_copy(new, mapped_bytes=0 if is_shared else MAPPED_BYTES)
        with closing(opened) as connection, translated(f"{new} cannot be checked"):
            connection.execute(sql("begin_reading"))  # once, and not for each statement
            connection.set_progress_handler(self._cancelled.is_set, STEPS_BETWEEN_CHECKS)
            (version,) = connection.execute(sql("select_schema_version")).fetchone()
            end = end_of(connection)
            results = _check(connection, self._head, version, before, end)
            if not holds(connection, before.commit):
                raise NotOnwards("the copy's newest commit is not in it")
            has_retired = any(retired_since(connection, before.deletion))
        return _Made(results, version, end, has_retired)


def _check(connection: Connection, head: Head, version: int, before: End, end: End) -> int:
    """How many results there are. ``before``: where the copy ends that it came of."""
    found = check_integrity(connection)
    if found != "ok":
        raise NotOnwards(f"what came of its files is damaged: {found}")
    if read_device_id(connection) != head.device_id:
        raise NotOnwards("it is another box's")
    if not before.timeline == end.timeline == head.timeline:
        raise NotOnwards("the box goes on in another timeline")
    check = check_links(connection)
    faults = list(check.faults)
    if version <= SCHEMA_VERSION:  # the digests of a newer one's rows cannot be taken here
        faults += check_rows(connection, before.seq + 1, SEQ_MAX)
    if faults:
        raise NotOnwards(f"its digest chain does not hold: {faults[0]}")
    if not is_told(connection, head):
        raise NotOnwards("it is not what the box's head tells of")
    return check.results


def holds_told(copy: Path, head: Head) -> bool:
    """``is_told``, of a copy. Raises ``StoreError``: it cannot be read."""
    with closing(open_reader(copy)) as connection, translated(f"{copy} cannot be read"):
        return is_told(connection, head)


def is_told(connection: Connection, head: Head) -> bool:
    """Whether everything that the head tells of is here, as it was."""
    if head.seq and not holds_commit(find_link(connection, head.seq), head):
        return False
    rows, deletion_id = connection.execute(sql("count_results"), {"seq": head.seq}).fetchone()
    if deletion_id == head.deletion_id:
        return bool(rows == head.rows)
    return bool(deletion_id > head.deletion_id)


def _clone(copy: Path, new: Path) -> bool:
    """Whether they share their blocks, and so none of them has been read."""
    with copy.open("rb", buffering=0) as reading, new.open("xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
        except OSError:  # this file system cannot
            shutil.copyfileobj(reading, writing, COPIED_BYTES)
            return False
    return True
