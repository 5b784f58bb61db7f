"""Makes a database of a replica's files: chooses them, fetches them, lets Litestream apply them.

A box that is alive merges its files and removes the merged ones while we fetch: then the listing is
read again, and what has arrived is used again. A snapshot that is not the state that the other
files lead to is passed over: the state is made of those.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from edge_store.config import ReplicaSection
from edge_store.errors import DiskFull, ReplicationError, RestoreFailed
from edge_store.ids import DeviceId
from edge_store.replica.download import Download, Fetched, Pace, Vanished, lay_out, unpaced
from edge_store.replica.litestream import PATIENCE_S, find_litestream, render_config, spawn
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.replica.ltx import MEND, assemble, leads_to
from edge_store.replica.points import (
    LtxFile,
    Point,
    Points,
    Txid,
    chain,
    choose,
    counterpart,
    list_files,
    read_points,
    snapshot_of,
    snapshots_in,
)
from edge_store.replica.scratch import Scratch
from edge_store.replica.traffic import Count, pages_of, uncounted
from edge_store.result import Record

__all__ = ["Progress", "Rebuilt", "Source", "Stage", "require_space"]

LISTINGS = 4  # as often is a listing that is out of date read again
LOOK_S = 0.2  # at how much of the database is there
NO_ROOM = tuple(os.strerror(each).lower() for each in (errno.ENOSPC, errno.EDQUOT))  # as Go does
MARGIN_BYTES, MARGIN_SHARE = 64 << 20, 0.05  # free space beyond what is expected


class Stage(StrEnum):
    """Of a restore, or of a backup."""

    COPYING = "copying"
    COMPRESSING = "compressing"
    UNPACKING = "unpacking"
    DOWNLOADING = "downloading"
    REBUILDING = "rebuilding"
    CHECKING = "checking"


class Progress(Record, frozen=True, kw_only=True):
    """Bytes of a stage. ``expected`` is 0 where it is not known."""

    stage: Stage
    done: int = 0
    expected: int = 0


class Rebuilt(Record, frozen=True, kw_only=True):
    """Which state it is, of which listing, and what it took. ``snapshot``: where the one ends that
    it was made of; ``passed_over``: where those end that do not hold what they should.
    """

    point: Point
    listed: tuple[LtxFile, ...]
    fetched: Fetched
    snapshot: Txid | None
    passed_over: tuple[Txid, ...]


class Source:
    """One box's replica. Not ``by_litestream``: its files are put together here, if none is odd,
    which spares a process. ``count`` is told of each request that is made of the store.
    """

    def __init__(  # noqa: PLR0913  (each is the caller's to decide)
        self,
        location: Location,
        credentials: Credentials | None,
        device_id: DeviceId,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        pace: Pace = unpaced,
        count: Count = uncounted,
        *,
        by_litestream: bool = True,
    ) -> None:
        self._location = location
        self._credentials = credentials
        self._device_id = device_id
        self._on_progress = on_progress
        self._pace = pace
        self._count = count
        self._by_litestream = by_litestream
        self._words = f"the replica of {device_id} at {location}"

    async def points(self) -> Points:
        """Which states it can give.

        Raises:
            ReplicaNotFound: none.
            ReplicationError: the store cannot be listed.
        """
        files = await list_files(self._location, self._credentials, self._device_id)
        return read_points(files, self._words)

    async def rebuild(
        self,
        scratch: Scratch,
        copy: Path,
        at: datetime | Txid | None,
        without: tuple[Txid, ...] = (),
    ) -> Rebuilt:
        """Write the database of the state ``at`` to ``copy``, of other snapshots than those that
        end at ``without``. Safe to cancel. Raises as ``restore`` does.
        """
        passed_over = [*without]
        failed: RestoreFailed | None = None
        for attempt in range(LISTINGS):
            files = await list_files(self._location, self._credentials, self._device_id)
            self._count("LIST", pages_of(files), 0)
            try:
                point = choose(read_points(files, self._words), at)
                chosen = chain(files, point, passed_over)
            except RestoreFailed as exc:
                if attempt:
                    raise failed or exc from None
                continue  # a listing is of no one moment: a gap that is none is not there again
            snapshot = snapshot_of(chosen)
            try:
                fetched, is_state = await self._make(
                    scratch, copy, point, chosen, files, is_chosen=bool(passed_over)
                )
            except Vanished:
                await asyncio.to_thread(_clear, copy)
                continue
            except RestoreFailed as exc:
                failed = failed or exc
                if snapshot is None:
                    raise failed from None
            else:
                if is_state:
                    return Rebuilt(
                        point=point,
                        listed=tuple(files),
                        fetched=fetched,
                        snapshot=snapshot,
                        passed_over=tuple(passed_over),
                    )
            assert snapshot is not None, "a counterpart is a snapshot's"
            passed_over.append(snapshot)
            await asyncio.to_thread(_clear, copy)
        raise failed or RestoreFailed(
            f"{self._words} changes while it is read", hint="try again; is there more than one box?"
        )

    async def _has_more_snapshots(self, files: Sequence[LtxFile]) -> bool:
        """Whether one has come since the listing: Litestream, too, chooses the newest."""
        now = await list_files(self._location, self._credentials, self._device_id)
        return not snapshots_in(now) <= snapshots_in(files)

    async def _make(
        self,
        scratch: Scratch,
        copy: Path,
        point: Point,
        chosen: Sequence[LtxFile],
        files: Sequence[LtxFile],
        *,
        is_chosen: bool,
    ) -> tuple[Fetched, bool]:
        """Write ``copy``, and look whether it is the state. Unless ``is_chosen``, Litestream would
        choose the same of ``files``, and a replica that is a folder is read where it is.

        Raises:
            Vanished: a file is not there any more, or there are others to choose.
            RestoreFailed: Litestream makes nothing of them.
        """
        other = counterpart(files, chosen)
        wanted = [*chosen, other] if other is not None else chosen
        expected = sum(file.size for file in wanted)
        download = Download(
            self._location,
            self._credentials,
            scratch,
            self._downloading(expected),
            self._pace,
            self._count,
        )
        database_bytes = await download.database_bytes(chosen[-1])
        require_space(scratch.folder, database_bytes, download.missing(wanted))
        fetched = await download.fetch(wanted)
        if self._by_litestream or not await asyncio.to_thread(_assembled, chosen, download, copy):
            replica = Path(self._location.for_device(self._device_id))
            is_read_there = not (download.is_needed or is_chosen)
            if not is_read_there:
                replica = copy.with_name("replica")
                await asyncio.to_thread(_lay_out_anew, chosen, download, replica)
            try:
                await self._apply(replica, point, copy, database_bytes)
            except RestoreFailed as exc:
                if not await asyncio.to_thread(download.has_all, chosen) or (
                    is_read_there and await self._has_more_snapshots(files)
                ):
                    raise Vanished from exc
                raise
            if is_read_there and await self._has_more_snapshots(files):
                raise Vanished
        is_state = other is None or await asyncio.to_thread(_is_state, copy, download, other)
        return fetched, is_state

    def _downloading(self, expected: int) -> Callable[[int], None]:
        def downloading(done: int) -> None:
            self._on_progress(Progress(stage=Stage.DOWNLOADING, done=done, expected=expected))

        return downloading

    async def _apply(self, replica: Path, point: Point, copy: Path, database_bytes: int) -> None:
        """Run ``litestream restore`` on a folder; of more than one chain it chooses as we do."""
        program = await asyncio.to_thread(find_litestream, PATIENCE_S)
        source = copy.with_name("source.db")  # a name in the configuration only: it is never made
        config = copy.with_name("litestream.yml")
        content = render_config(
            database=source,
            meta_path=copy.with_name("litestream"),
            socket=None,
            replica={"type": Scheme.FILE.value, "path": str(replica)},
            section=ReplicaSection(),
        )
        config.write_bytes(content)
        self._on_progress(Progress(stage=Stage.REBUILDING, expected=database_bytes))
        process = await spawn(
            program,
            *("restore", "-no-expand-env", "-config", str(config), "-json"),
            *(
                "-txid",
                f"{point.txid:016x}",
                "-o",
                str(copy),
                str(source),
            ),
            credentials=None,
            stderr=asyncio.subprocess.PIPE,
            in_own_session=False,
        )
        watching = asyncio.ensure_future(self._watch(copy, database_bytes))
        try:
            _stdout, stderr = await process.communicate()
        finally:
            watching.cancel()
            if process.returncode is None:  # the deadline, or we are being cancelled
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        assert process.returncode is not None
        if process.returncode < 0:
            raise ReplicationError(
                f"litestream was ended by signal {-process.returncode} while it restored "
                f"{self._device_id}",
                hint="was it killed for memory? see the kernel's log; then run it again",
            )
        if process.returncode:
            raise self._failure(stderr.decode(errors="replace"))

    async def _watch(self, copy: Path, expected: int) -> None:
        """Tell how much of the database is written, until cancelled."""
        writing = copy.with_name(f"{copy.name}.tmp")
        while True:
            for path in (writing, copy):
                with suppress(FileNotFoundError):
                    done = min(path.stat().st_size, expected)
                    self._on_progress(
                        Progress(stage=Stage.REBUILDING, done=done, expected=expected)
                    )
                    break
            await asyncio.sleep(LOOK_S)

    def _failure(self, output: str) -> DiskFull | RestoreFailed:
        lines = [line for line in output.splitlines() if line.strip()]
        reason = lines[-1].strip()[:500] if lines else "litestream said nothing"
        if any(words in reason for words in NO_ROOM):  # somebody else took it meanwhile
            return DiskFull(
                f"{self._device_id} cannot be restored: {reason}",
                hint="make room, and run it again: it goes on from what has arrived",
            )
        return RestoreFailed(
            f"{self._device_id} cannot be restored from {self._location}: {reason}",
            hint=MEND,
        )


def _assembled(files: Sequence[LtxFile], download: Download, copy: Path) -> bool:
    """Whether we could make it ourselves. What is odd is Litestream's to say."""
    try:
        assemble([(download.path(file), file) for file in files], copy)
    except (RestoreFailed, FileNotFoundError):
        copy.unlink(missing_ok=True)
        return False
    return True


def _lay_out_anew(chosen: Sequence[LtxFile], download: Download, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a listing that was out of date
    lay_out(chosen, download, folder)


def _clear(copy: Path) -> None:
    for path in (copy, copy.with_name(f"{copy.name}.tmp")):
        path.unlink(missing_ok=True)


def _is_state(copy: Path, download: Download, other: LtxFile) -> bool:
    """Whether the copy is what the other file leads to, as far as that says. One that is damaged
    itself says nothing.

    Raises:
        Vanished: it is not there any more.
    """
    try:
        return leads_to(download.path(other), other, copy)
    except FileNotFoundError as exc:
        raise Vanished from exc
    except RestoreFailed:
        return True


def require_space(folder: Path, database: int, download: int) -> None:
    """Raises ``DiskFull`` when what is expected does not fit, with a margin."""
    margin = max(MARGIN_BYTES, round(MARGIN_SHARE * (database + download)))
    needed = database + download + margin
    free = shutil.disk_usage(folder.parent).free
    if free >= needed:
        return

    def mb(size: int) -> str:
        return f"{size / 1e6:,.0f} MB"

    raise DiskFull(
        f"{folder.parent} has {mb(free)} free, and the restore needs {mb(needed)} (database "
        f"{mb(database)}, download {mb(download)}, margin {mb(margin)}): {mb(needed - free)} are "
        "missing",
        hint="make room, or restore to another disk",
    )
