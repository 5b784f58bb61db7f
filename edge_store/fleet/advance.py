"""Brings a copy forward by those files of its replica that are newer than it, on a clone of it.

A restore reads a whole database; most boxes have changed a few pages since the last pull. The files
carry no checksum of the database. So it must be the replica that the copy is of: a file that lay
there before still does. And what comes of them is checked as a whole: SQLite's integrity, the chain
of digests on from the copy's newest commit, the rows that came, and the box's head. Whatever does
not fit is ``NotOnwards``, and the caller restores.
"""

import asyncio
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge_store.chain import SEQ_MAX, ChainCheck, check_links, check_rows, find_link
from edge_store.errors import RestoreFailed, StoreError
from edge_store.fleet.copies import Standing, witnesses_of
from edge_store.fleet.history import holds, newest_of
from edge_store.identity import read_device_id
from edge_store.replica.download import Download, Pace, Vanished
from edge_store.replica.heads import Head, holds_commit
from edge_store.replica.location import Credentials, Location
from edge_store.replica.ltx import apply_ltx
from edge_store.replica.points import (
    LtxFile,
    Point,
    Txid,
    chain_onwards,
    choose,
    list_files,
    read_points,
)
from edge_store.replica.rebuild import require_space
from edge_store.replica.restore import STEPS_BETWEEN_CHECKS, publish
from edge_store.replica.scratch import scratch_for
from edge_store.result import Record
from edge_store.schema import SCHEMA_VERSION
from edge_store.sql import sql
from edge_store.sqlite import Connection, check_integrity, open_copy, open_reader, translated

__all__ = ["Advanced", "Limits", "NotOnwards", "advance", "is_told"]

FICLONE = 0x40049409  # Linux: share the blocks of another file
# Format versions of a database that is not in WAL mode (sqlite.org/fileformat2.html): to have
# SQLite change them takes a WAL, a journal and several flushes.
NO_WAL, NO_WAL_AT = b"\x01\x01", 18


class NotOnwards(Exception):
    """Why a copy cannot be brought forward."""


class Advanced(Record, frozen=True, kw_only=True):
    """A copy in its new state. ``newest_at``: UTC ms of its newest commit, if it has one."""

    txid: Txid
    downloaded_bytes: int
    results: int
    newest_at: int | None
    witnesses: tuple[LtxFile, ...]


class Limits(NamedTuple):
    """Of one copy. ``pace``: see ``Download``. ``before_replacing`` is called with the new state
    once that is checked, on a thread; what it raises leaves the copy as it is.
    """

    timeout_s: float
    pace: Pace
    before_replacing: Callable[[Path], None]


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
        ReplicationError: the store does not answer, or the deadline has passed.
        DiskFull, StoreError: there is no room for it.
    """
    device_id = head.device_id
    try:
        async with asyncio.timeout(limits.timeout_s):
            with scratch_for(copy) as scratch:
                files = await list_files(location, credentials, device_id)
                point = choose(read_points(files, f"the replica of {device_id}"), None)
                if point.txid < head.txid:
                    raise NotOnwards(f"its head tells of TXID {head.txid:016x}, which is not there")
                chosen = _chosen(files, here, point)
                download = Download(
                    location, credentials, scratch, lambda _bytes: None, limits.pace
                )
                size = await download.database_bytes(chosen[-1]) if chosen else 0
                require_space(scratch.folder, size, download.missing(chosen))
                fetched = await download.fetch(chosen)
                new = scratch.work / copy.name
                cancelled = threading.Event()
                try:
                    check = await asyncio.to_thread(
                        _advanced, copy, new, [(download.path(f), f) for f in chosen], head,
                        cancelled.is_set,
                    )  # fmt: skip
                finally:
                    cancelled.set()
                await asyncio.to_thread(limits.before_replacing, new)
                publish(new, copy)
    except Vanished:
        raise NotOnwards("its files are merged while they are read") from None
    except RestoreFailed as exc:
        raise NotOnwards(str(exc)) from exc
    except TimeoutError:
        raise RestoreFailed(
            f"{device_id} was not pulled from {location} within {limits.timeout_s:g} s",
            hint="raise --timeout, or check the network to the store; what has arrived is kept",
        ) from None
    return Advanced(
        txid=point.txid,
        downloaded_bytes=fetched.downloaded,
        results=check.results,
        newest_at=check.newest_at,
        witnesses=witnesses_of(files, point.txid),
    )


def _chosen(files: Sequence[LtxFile], here: Standing, point: Point) -> Sequence[LtxFile]:
    """Those that lead on from the copy."""
    if not set(here.witnesses) & set(files):
        raise NotOnwards("none of the files that were there before is: it may be another history")
    chosen = chain_onwards(files, here.txid, point)
    if chosen is None:
        raise NotOnwards(f"no files lead on from {here.txid:016x} to {point.txid:016x}")
    return chosen


def _advanced(
    copy: Path,
    new: Path,
    files: Sequence[tuple[Path, LtxFile]],
    head: Head,
    is_over: Callable[[], bool],
) -> ChainCheck:
    """Make and check the new state at ``new``. On a thread; ends soon after ``is_over``."""
    try:
        with closing(open_reader(copy)) as connection, translated(f"{copy} cannot be read"):
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            timeline, seq = connection.execute(sql("select_copy_extent")).fetchone()
            newest = newest_of(connection)
        _clone(copy, new)
        descriptor = os.open(new, os.O_RDWR | os.O_CLOEXEC)
        try:
            for path, file in files:
                apply_ltx(path, file, descriptor, page_size)
            os.pwrite(descriptor, NO_WAL, NO_WAL_AT)
        finally:
            os.close(descriptor)
        with closing(open_copy(new)) as connection, translated(f"{new} cannot be checked"):
            connection.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
            check = _check(connection, head, timeline, seq)
            if not holds(connection, newest):
                raise NotOnwards("the copy's newest commit is not in it")
    except StoreError as exc:
        raise NotOnwards(f"what came of its files: {exc}") from exc
    return check


def _check(connection: Connection, head: Head, timeline: str | None, seq: int) -> ChainCheck:
    """``timeline`` and ``seq`` are those of the copy that it came of."""
    found = check_integrity(connection, full=True)
    if found != "ok":
        raise NotOnwards(f"what came of its files is damaged: {found}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if read_device_id(connection) != head.device_id:
        raise NotOnwards("it is another box's")
    after, _seq = connection.execute(sql("select_copy_extent")).fetchone()
    if not timeline == after == head.timeline:
        raise NotOnwards("the box goes on in another timeline")
    check = check_links(connection)
    faults = list(check.faults)
    if version <= SCHEMA_VERSION:  # the digests of a newer one's rows cannot be taken here
        faults += check_rows(connection, seq + 1, SEQ_MAX)
    if faults:
        raise NotOnwards(f"its digest chain does not hold: {faults[0]}")
    if not is_told(connection, head):
        raise NotOnwards("it is not what the box's head tells of")
    return check


def is_told(connection: Connection, head: Head) -> bool:
    """Whether everything that the head tells of is here, as it was."""
    if head.seq and not holds_commit(find_link(connection, head.seq), head):
        return False
    rows, deletion_id = connection.execute(sql("count_results"), {"seq": head.seq}).fetchone()
    if deletion_id == head.deletion_id:
        return bool(rows == head.rows)
    return bool(deletion_id > head.deletion_id)


def _clone(copy: Path, new: Path) -> None:
    with copy.open("rb") as reading, new.open("xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
        except OSError:  # this file system cannot
            pass
        else:
            return
    shutil.copyfile(copy, new)
