"""One restore drill, in a process of its own and with low priority: serving comes first.

``python -m edge_store.replica.proof``: a ``Job`` as JSON on standard input; on standard output one
JSON object a line, the steps and last the ``Proof``. It writes nothing but its scratch folder. What
says nothing of the replica (the store does not answer, the disk is full) leaves it undecided; of
one that was cut short the downloads are left, from which the next one goes on.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from edge_store.errors import (
    DiskFull,
    EdgeStoreError,
    ReplicaNotFound,
    ReplicationError,
    RestoreFailed,
)
from edge_store.ids import DeviceId
from edge_store.replica.compare import Marks, compare
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.points import Txid, chain, choose, list_files, read_points
from edge_store.replica.rebuild import Rebuilt, Source
from edge_store.replica.scratch import Scratch, scratch_for
from edge_store.result import Record

__all__ = ["Job", "Kind", "Proof", "prove", "scratch_of"]

TRIES = 2  # a replica is bad only if it is so twice: its files change while they are read
ROOM = 1.1  # of a copy, as a share of the live file and its WAL
COPY = "drill.db"


class Kind(StrEnum):
    """How the copy was made."""

    FULL = "full"  # by litestream restore


class Job(Record, frozen=True, kw_only=True):
    """What is to be proven. ``bytes_left``: how much may be downloaded; None: no bound."""

    url: str
    device_id: DeviceId
    database: str
    marks: Marks
    reserve_bytes: int
    bytes_left: int | None = None


class Proof(Record, frozen=True, kw_only=True):
    """What came of it. ``undecided``: why nothing is known; ``failure``: what is wrong with the
    replica; ``live``: what is wrong with the live file, and not with the replica alone. ``bytes``
    were downloaded.
    """

    kind: Kind = Kind.FULL
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


def scratch_of(database: Path) -> Path:
    """The file that a drill restores to; its scratch folder lies beside the database."""
    return database.with_name(COPY)


async def prove(job: Job, say: Callable[[str], object]) -> Proof:
    """Restore and compare. ``say`` is told each step."""
    began = time.monotonic()
    database = Path(job.database)
    try:
        with scratch_for(scratch_of(database)) as scratch:
            proof = await _prove(job, scratch, say)
    except (EdgeStoreError, OSError) as exc:
        proof = Proof(undecided=str(exc))
    duration_ms = round((time.monotonic() - began) * 1000, 3)
    return msgspec.structs.replace(proof, duration_ms=duration_ms)


async def _prove(job: Job, scratch: Scratch, say: Callable[[str], object]) -> Proof:
    size = await _require_room(job)
    copy = scratch.work / COPY
    try:
        rebuilt = await _rebuild(job, scratch, copy, say)
    except (RestoreFailed, ReplicaNotFound) as exc:
        return Proof(bytes=size, failure=str(exc))
    say("checking every page, every digest and every row")
    compared = await asyncio.to_thread(compare, copy, Path(job.database), job.device_id, job.marks)
    faults = [*compared.faults, *map(_passed_over, rebuilt.passed_over)]
    return Proof(
        txid=f"{rebuilt.point.txid:016x}",
        seq_to=compared.seq_to,
        rows=compared.rows,
        bytes=rebuilt.fetched.downloaded,
        failure=None if compared.live else "; ".join(faults) or None,
        live="; ".join(compared.live) or None,
    )


def _passed_over(txid: Txid) -> str:
    return f"the snapshot of TXID {txid:016x} does not hold what was replicated"


async def _require_room(job: Job) -> int:
    """Bytes to download.

    Raises:
        ReplicationError: they are more than may be; the store does not answer.
        DiskFull: the copy would take what is kept for results.
    """
    location = parse_location(job.url)
    size = 0
    try:
        files = await list_files(location, read_credentials(location), job.device_id)
        size = sum(file.size for file in chain(files, choose(read_points(files, ""), None)))
    except (ReplicaNotFound, RestoreFailed):
        pass  # the restore says it
    if job.bytes_left is not None and size > job.bytes_left:
        raise ReplicationError(
            f"a restore downloads {size} bytes, of replica.bytes_per_day {job.bytes_left} are left"
        )
    database = Path(job.database)
    wal = database.with_name(f"{database.name}-wal")
    need = size + round(
        ROOM * sum(path.stat().st_size for path in (database, wal) if path.exists())
    )
    free = shutil.disk_usage(database.parent).free
    if free - need < job.reserve_bytes:
        raise DiskFull(
            f"a copy needs {need} bytes, and of {free} free ones store.disk_reserve_bytes = "
            f"{job.reserve_bytes} are for results"
        )
    return size


async def _rebuild(job: Job, scratch: Scratch, copy: Path, say: Callable[[str], object]) -> Rebuilt:
    location = parse_location(job.url)
    source = Source(location, read_credentials(location), job.device_id)
    say(f"restoring {job.device_id} from {location}")
    for tries_left in reversed(range(TRIES)):
        try:
            return await source.rebuild(scratch, copy, None)
        except (RestoreFailed, ReplicaNotFound):
            if not tries_left:
                raise
            shutil.rmtree(scratch.work)
            os.mkdir(scratch.work)  # noqa: PTH102  (nobody else runs on this loop)
    raise AssertionError


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)

    def write(line: object) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    write({"proof": asyncio.run(prove(job, lambda step: write({"step": step})))})


if __name__ == "__main__":
    main()
