"""Brings a copy forward by those files of its replica that are newer than it, on a clone of it.

Which they are, and that they are of the same history, is ``replica/onwards.py``'s. What comes of
them is checked as a whole: SQLite's integrity, the chain of digests on from the copy's newest
commit, the rows that came, and the box's head. Whatever does not fit is ``NotOnwards``, and the
caller restores.
"""

import asyncio
import fcntl
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge_store.chain import SEQ_MAX, ChainCheck, check_links, check_rows, find_link
from edge_store.errors import RestoreFailed, StoreError
from edge_store.fleet.copies import Standing, witnesses_of
from edge_store.fleet.departed import newest_deletion, retired_since
from edge_store.fleet.history import holds, newest_of
from edge_store.identity import read_device_id
from edge_store.replica.download import Download, Pace
from edge_store.replica.heads import Head, holds_commit
from edge_store.replica.location import Credentials, Location
from edge_store.replica.onwards import NotOnwards, apply_onwards, find_onwards
from edge_store.replica.points import LtxFile, Txid
from edge_store.replica.rebuild import require_space
from edge_store.replica.restore import STEPS_BETWEEN_CHECKS, publish
from edge_store.replica.scratch import scratch_for
from edge_store.result import Record
from edge_store.schema import SCHEMA_VERSION
from edge_store.sql import sql
from edge_store.sqlite import Connection, check_integrity, open_copy, open_reader, translated

__all__ = ["Advanced", "Limits", "advance", "is_told"]

AT_ONCE_BYTES = 1 << 20  # files of so many are fetched before the database's size is known
FICLONE = 0x40049409  # Linux: share the blocks of another file


class Advanced(Record, frozen=True, kw_only=True):
    """A copy in its new state. ``newest_at``: UTC ms of its newest commit, if it has one."""

    txid: Txid
    downloaded_bytes: int
    results: int
    newest_at: int | None
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

    check: ChainCheck
    version: int
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
        ReplicationError: the store does not answer, or the deadline has passed.
        DiskFull, StoreError: there is no room for it.
    """
    device_id = head.device_id
    try:
        async with asyncio.timeout(limits.timeout_s):
            with scratch_for(copy) as scratch:
                onwards = await find_onwards(
                    location, credentials, device_id, here.txid, here.witnesses
                )
                if onwards.point.txid < head.txid:
                    raise NotOnwards(f"its head tells of TXID {head.txid:016x}, which is not there")
                download = Download(
                    location, credentials, scratch, lambda _bytes: None, limits.pace
                )
                if sum(file.size for file in onwards.chosen) > AT_ONCE_BYTES:
                    size = await onwards.database_bytes(download)  # asks for the last one's head
                    require_space(scratch.folder, size, download.missing(onwards.chosen))
                fetched = await onwards.fetch(download)
                require_space(scratch.folder, await onwards.database_bytes(download), 0)
                files = [(download.path(file), file) for file in onwards.chosen]
                new = scratch.work / copy.name
                cancelled = threading.Event()
                try:
                    made = await asyncio.to_thread(
                        _advanced, copy, new, files, head, cancelled.is_set
                    )
                finally:
                    cancelled.set()
                await asyncio.to_thread(limits.before_replacing, new, made.has_retired)
                publish(new, copy)
    except RestoreFailed as exc:
        raise NotOnwards(str(exc)) from exc
    except TimeoutError:
        raise RestoreFailed(
            f"{device_id} was not pulled from {location} within {limits.timeout_s:g} s",
            hint="raise --timeout, or check the network to the store; what has arrived is kept",
        ) from None
    return Advanced(
        txid=onwards.point.txid,
        downloaded_bytes=fetched.downloaded,
        results=made.check.results,
        newest_at=made.check.newest_at,
        witnesses=witnesses_of(onwards.listed, onwards.point.txid),
        schema_version=made.version,
    )


def _advanced(
    copy: Path,
    new: Path,
    files: Sequence[tuple[Path, LtxFile]],
    head: Head,
    is_over: Callable[[], bool],
) -> _Made:
    """Make and check the new state at ``new``. On a thread; ends soon after ``is_over``."""
    try:
        with closing(open_reader(copy)) as connection, translated(f"{copy} cannot be read"):
            timeline, seq = connection.execute(sql("select_copy_extent")).fetchone()
            newest, deletion = newest_of(connection), newest_deletion(connection)
        _clone(copy, new)
        apply_onwards(new, files)
        with closing(open_copy(new)) as connection, translated(f"{new} cannot be checked"):
            connection.set_progress_handler(is_over, STEPS_BETWEEN_CHECKS)
            (version,) = connection.execute(sql("select_schema_version")).fetchone()
            check = _check(connection, head, version, (timeline, seq))
            if not holds(connection, newest):
                raise NotOnwards("the copy's newest commit is not in it")
            has_retired = any(retired_since(connection, deletion))
    except StoreError as exc:
        raise NotOnwards(f"what came of its files: {exc}") from exc
    return _Made(check, version, has_retired)


def _check(
    connection: Connection, head: Head, version: int, extent: tuple[str | None, int]
) -> ChainCheck:
    """``extent``: the timeline and the newest seq of the copy that it came of."""
    timeline, seq = extent
    found = check_integrity(connection, full=True)
    if found != "ok":
        raise NotOnwards(f"what came of its files is damaged: {found}")
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
