"""One restore drill, in a process of its own and with low priority: serving comes first.

``python -m edge_store.replica.proof``: a ``Job`` as JSON on standard input; on standard output one
JSON object a line: the steps, what was asked of the store, and last the ``Proof``. It writes its
scratch folder and the copy that it keeps. What says nothing of the replica (the store does not
answer, the disk is full) leaves it undecided; of one that was cut short the downloads are left,
from which the next one goes on.

A full drill restores as an operator would. Between full ones the copy of the last drill that passed
is brought forward by the files after its position, and checked no less. Whatever is odd about
that, or found in it, is said by a full one, at once.
"""

import asyncio
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.errors import (
    DiskFull,
    EdgeStoreError,
    ReplicaNotFound,
    ReplicationError,
    RestoreFailed,
    StoreError,
)
from edge_store.ids import DeviceId
from edge_store.replica.compare import Compared, Marks, compare
from edge_store.replica.download import Download
from edge_store.replica.kept import (
    Kept,
    copy_bytes,
    discard_copy,
    keep_copy,
    read_kept,
    since_boot_s,
    take,
)
from edge_store.replica.location import Credentials, Location, parse_location, read_credentials
from edge_store.replica.ltx import LEAST_BYTES
from edge_store.replica.onwards import NotOnwards, Onwards, apply_onwards, find_onwards
from edge_store.replica.points import LtxFile, Point, Txid, chain, choose, list_files, read_points
from edge_store.replica.rebuild import Rebuilt, Source
from edge_store.replica.scratch import Scratch, scratch_for
from edge_store.replica.traffic import Count, pages_of, uncounted
from edge_store.result import Record

__all__ = ["Asked", "Job", "Kind", "Proof", "prove", "scratch_of"]

TRIES = 2  # a replica is bad only if it is so twice: its files change while they are read
ROOM = 1.1  # of a copy, as a share of the live file and its WAL
COPY = "drill.db"
COUNTED_BYTES = 4 << 20  # as much is downloaded until it is told


class Kind(StrEnum):
    """How the copy was made."""

    FULL = "full"  # by litestream restore
    INCREMENTAL = "incremental"  # of the copy of an earlier drill


class Job(Record, frozen=True, kw_only=True):
    """What is to be proven. ``bytes_left``: how much may be downloaded; None: no bound. ``keeps``:
    whether a copy stays for the next drill; it may be brought forward until so long after the full
    one that it comes from.
    """

    url: str
    device_id: DeviceId
    database: str
    marks: Marks
    reserve_bytes: int
    bytes_left: int | None = None
    is_full: bool = False
    keeps: bool = False
    full_every_s: float = 0.0


class Proof(Record, frozen=True, kw_only=True):
    """What came of it. ``undecided``: why nothing is known; ``failure``: what is wrong with the
    replica; ``live``: what is wrong with the live file, and not with the replica alone. ``bytes``
    were downloaded. ``because``: why it is a full one where an incremental one was due;
    ``overdue``: why it is none where a full one was.
    """

    kind: Kind = Kind.FULL
    because: str | None = None
    overdue: str | None = None
    txid: str | None = None
    seq_to: int = 0
    rows: int = 0
    bytes: int = 0
    duration_ms: float = 0.0
    failure: str | None = None
    live: str | None = None
    undecided: str | None = None

    @property
    def fault(self) -> str | None:
        """Why nothing is proven, and what is to blame."""
        if self.live is not None:
            return f"the live file is damaged, not the replica: {self.live}"
        return self.failure


class Asked(NamedTuple):
    """Of the store: a verb, requests, bytes."""

    verb: str
    requests: int
    size: int


def scratch_of(database: Path) -> Path:
    """The file that a drill restores to; its scratch folder lies beside the database."""
    return database.with_name(COPY)


async def prove(job: Job, say: Callable[[str], object], count: Count = uncounted) -> Proof:
    """Make the copy and compare. ``say`` is told each step, ``count`` what is asked of the store,
    on any thread.
    """
    began = time.monotonic()
    downloaded: Counter[str] = Counter()

    def counted(verb: str, requests: int, size: int) -> None:
        downloaded["bytes"] += size
        count(verb, requests, size)

    def left() -> int | None:
        return None if job.bytes_left is None else job.bytes_left - downloaded["bytes"]

    try:
        with scratch_for(scratch_of(Path(job.database)), is_lasting=False) as scratch:
            proof = await Proving(job, scratch, say, counted, left).prove()
    except (EdgeStoreError, OSError) as exc:
        proof = Proof(undecided=str(exc))
    duration_ms = round((time.monotonic() - began) * 1000, 3)
    return msgspec.structs.replace(proof, duration_ms=duration_ms, bytes=downloaded["bytes"])


class Proving:
    """One drill in its scratch folder."""

    def __init__(
        self,
        job: Job,
        scratch: Scratch,
        say: Callable[[str], object],
        count: Count,
        left: Callable[[], int | None],
    ) -> None:
        self._job, self._scratch = job, scratch
        self._say, self._count, self._left = say, count, left
        self._database = Path(job.database)
        self._copy = scratch.work / COPY
        self._location: Location = parse_location(job.url)
        self._credentials: Credentials | None = read_credentials(self._location)

    async def prove(self) -> Proof:
        """Raises ``EdgeStoreError`` or ``OSError`` when nothing is known."""
        because: str | None = None
        try:
            kept = self._kept()
            if kept is not None:
                is_due = self._is_full_due(kept)
                overdue = await self._overdue() if is_due else None
                if overdue is not None or not is_due:
                    proof = await self._incremental(kept)
                    return msgspec.structs.replace(proof, overdue=overdue)
        except (NotOnwards, RestoreFailed, ReplicaNotFound) as exc:
            because = str(exc)
            self._say(f"it must be a full one: {because}")
            self._scratch.begin_again()
        proof = await self._full()
        return msgspec.structs.replace(proof, because=because)

    def _kept(self) -> Kept | None:
        """The copy to bring forward, if there is one and it may be."""
        if self._job.is_full:
            return None
        return read_kept(self._database, str(self._location), self._job.device_id)

    def _is_full_due(self, kept: Kept) -> bool:
        return since_boot_s() - kept.full_s >= self._job.full_every_s

    async def _overdue(self) -> str | None:
        """Why a full one may not be; None: it may. Between drills that prove nothing, one that
        brings the copy forward still tells what is new.
        """
        left = self._left()
        if left is None or (download := await self._missing()) <= left:
            return None
        why = f"it downloads {download} bytes, of replica.bytes_per_day {left} are left"
        self._say(f"a full one is due, and has to wait: {why}")
        return why

    async def _missing(self) -> int:
        """Bytes that a full one would download. Raises ``ReplicationError``: the store does not
        answer.
        """
        try:
            files = await list_files(self._location, self._credentials, self._job.device_id)
            self._count("LIST", pages_of(files), 0)
            return self._download().missing(chain(files, choose(read_points(files, ""), None)))
        except (ReplicaNotFound, RestoreFailed):
            return 0  # the restore says it

    async def _incremental(self, kept: Kept) -> Proof:
        """Raises ``NotOnwards``, or as a restore does, for all that is not as it should be."""
        job = self._job
        self._say(f"bringing the copy of {kept.txid:016x} forward from {self._location}")
        onwards = await find_onwards(
            self._location, self._credentials, job.device_id, kept.txid, kept.witnesses
        )
        self._count("LIST", pages_of(onwards.listed), 0)
        _require_fit(onwards)
        download = self._download()
        growth = await onwards.database_bytes(download) - copy_bytes(self._database)
        self._require_room(download.missing(onwards.chosen), max(0, growth))
        await onwards.fetch(download)
        take(self._database, self._copy)
        try:
            files = [(download.path(file), file) for file in onwards.chosen]
            await asyncio.to_thread(apply_onwards, self._copy, files)
        except (StoreError, FileNotFoundError) as exc:
            raise NotOnwards(f"the files cannot be applied: {exc}") from exc
        compared = await self._compared()
        faults = [*compared.faults, *compared.live]
        if not faults and compared.timeline != kept.timeline:
            faults = [f"it goes on in the timeline {compared.timeline}"]
        if faults:
            raise NotOnwards("; ".join(faults))
        self._keep(onwards.point, onwards.listed, compared, kept.full_s)
        return _proof(Kind.INCREMENTAL, onwards.point, compared)

    async def _full(self) -> Proof:
        full_s = since_boot_s()
        await self._require_restorable()
        discard_copy(self._database)  # before it is known to be of no use: for its room
        try:
            rebuilt = await self._rebuild()
        except (RestoreFailed, ReplicaNotFound) as exc:
            return Proof(failure=str(exc))
        compared = await self._compared()
        faults = [*compared.faults, *map(_passed_over, rebuilt.passed_over)]
        if not compared.live:
            compared = msgspec.structs.replace(compared, faults=tuple(faults))
        if not compared.faults and not compared.live:
            self._keep(rebuilt.point, rebuilt.listed, compared, full_s)
        return _proof(Kind.FULL, rebuilt.point, compared)

    async def _compared(self) -> Compared:
        self._say("checking every page, every digest and every row")
        job = self._job
        return await asyncio.to_thread(
            compare, self._copy, self._database, job.device_id, job.marks
        )

    def _keep(
        self, point: Point, listed: tuple[LtxFile, ...], compared: Compared, full_s: float
    ) -> None:
        """The copy stays, if there is room for it beside what is kept for results."""
        if not self._job.keeps or self._free() < self._job.reserve_bytes:
            return
        kept = Kept(
            location=str(self._location),
            device_id=self._job.device_id,
            timeline=compared.timeline,
            txid=point.txid,
            witnesses=tuple(file for file in listed if file.last <= point.txid),
            full_s=full_s,
        )
        keep_copy(self._database, self._copy, kept)

    async def _require_restorable(self) -> None:
        """Raises as ``_require_room`` does; or ``ReplicationError``: the store does not answer."""
        missing = await self._missing()
        wal = self._database.with_name(f"{self._database.name}-wal")
        live = sum(path.stat().st_size for path in (self._database, wal) if path.exists())
        self._require_room(missing, round(ROOM * live) - copy_bytes(self._database))

    def _require_room(self, download: int, more: int) -> None:
        """For what is downloaded, and for so many bytes of a copy.

        Raises:
            ReplicationError: it is more than may be downloaded.
            DiskFull: it would take what is kept for results.
        """
        left, reserve = self._left(), self._job.reserve_bytes
        if left is not None and download > left:
            raise ReplicationError(
                f"the drill downloads {download} bytes, of replica.bytes_per_day {left} are left"
            )
        need, free = download + more, self._free()
        if free - need < reserve:
            raise DiskFull(
                f"a copy needs {need} bytes, and of {free} free ones store.disk_reserve_bytes = "
                f"{reserve} are for results"
            )

    def _free(self) -> int:
        return shutil.disk_usage(self._database.parent).free

    def _download(self) -> Download:
        return Download(self._location, self._credentials, self._scratch, count=self._count)

    async def _rebuild(self) -> Rebuilt:
        device_id = self._job.device_id
        source = Source(self._location, self._credentials, device_id, count=self._count)
        self._say(f"restoring {device_id} from {self._location}")
        for tries_left in reversed(range(TRIES)):
            try:
                return await source.rebuild(self._scratch, self._copy, None)
            except (RestoreFailed, ReplicaNotFound):
                if not tries_left:
                    raise
                self._scratch.begin_again()
        raise AssertionError


def _passed_over(txid: Txid) -> str:
    return f"the snapshot of TXID {txid:016x} does not hold what was replicated"


def _require_fit(onwards: Onwards) -> None:
    """What a restore from nothing needs is there by its name and no shorter than any file is; what
    is in it a full drill reads.
    """
    for file in chain(onwards.listed, onwards.point):
        if file.size < LEAST_BYTES:
            raise NotOnwards(f"{file.key} has {file.size} bytes")


def _proof(kind: Kind, point: Point, compared: Compared) -> Proof:
    return Proof(
        kind=kind,
        txid=f"{point.txid:016x}",
        seq_to=compared.seq_to,
        rows=compared.rows,
        failure="; ".join(compared.faults) or None,
        live="; ".join(compared.live) or None,
    )


class Lines:
    """Standard output. What is asked of the store is told in sums, on whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, Asked] = {}

    def write(self, line: object) -> None:
        """What was asked until now, and this."""
        with self._lock:
            self._flush()
            _write(line)

    def count(self, verb: str, requests: int, size: int) -> None:
        """A ``Count``."""
        with self._lock:
            before = self._asked.get(verb, Asked(verb, 0, 0))
            self._asked[verb] = Asked(verb, before.requests + requests, before.size + size)
            if self._asked[verb].size >= COUNTED_BYTES:
                self._flush()

    def _flush(self) -> None:
        for asked in self._asked.values():
            _write({"asked": asked})
        self._asked = {}


def _write(line: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    lines = Lines()
    proof = asyncio.run(prove(job, lambda step: lines.write({"step": step}), lines.count))
    lines.write({"proof": proof})


if __name__ == "__main__":
    main()
