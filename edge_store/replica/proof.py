"""One restore drill, in a process of its own and with low priority: serving comes first.

``python -m edge_store.replica.proof``: a ``Job`` as JSON on standard input; on standard output one
JSON object a line, the steps and last the ``Proof``. It writes nothing but its folder. What says
nothing of the replica (the store does not answer, the disk is full) leaves it undecided.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
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
from edge_store.replica.compare import Compared, Marks, compare
from edge_store.replica.extent import read_extent
from edge_store.replica.location import Credentials, Location, parse_location, read_credentials
from edge_store.replica.rebuild import Source
from edge_store.replica.scratch import scratch_for
from edge_store.result import Record

__all__ = ["Job", "Proof", "prove"]

NICE = 19
ROOM = 1.1  # of a copy, as a share of the live file and its WAL
COPY = "copy.db"


class Job(Record, frozen=True, kw_only=True):
    """What is to be proven. ``bytes_left``: how much may be downloaded; None: no bound."""

    url: str
    device_id: DeviceId
    database: str
    folder: str
    marks: Marks
    reserve_bytes: int
    bytes_left: int | None = None


class Proof(Record, frozen=True, kw_only=True):
    """What came of it. ``undecided``: why nothing is known; ``failure``: what is wrong with the
    replica; ``shared``: what is wrong with the live file, and so with the replica.
    """

    txid: str | None = None
    seq_to: int = 0
    rows: int = 0
    bytes: int = 0
    duration_ms: float = 0.0
    failure: str | None = None
    shared: str | None = None
    undecided: str | None = None


async def prove(job: Job, say: Callable[[str], object]) -> Proof:
    """Restore and compare. ``say`` is told each step. The folder is gone after it."""
    began = time.monotonic()
    folder = Path(job.folder)
    size = 0
    txid: str | None = None
    failure: str | None = None
    compared: Compared | None = None
    undecided: str | None = None
    try:
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder, mode=0o750)  # noqa: PTH102  (nobody else runs on this loop)
        location = parse_location(job.url)
        credentials = read_credentials(location)
        await _require_room(job, location, credentials)
        say(f"restoring {job.device_id} from {location}")
        with scratch_for(folder / COPY) as scratch:
            copy = scratch.work / COPY
            source = Source(location, credentials, job.device_id)
            rebuilt = await source.rebuild(scratch, copy, None)
            size, txid = rebuilt.fetched.downloaded, f"{rebuilt.point.txid:016x}"
            say("checking every page, every digest and every row")
            compared = await asyncio.to_thread(
                compare, copy, Path(job.database), job.device_id, job.marks
            )
        failure = "; ".join(compared.faults) or None
    except (RestoreFailed, ReplicaNotFound) as exc:
        failure = str(exc)
    except (EdgeStoreError, OSError) as exc:
        undecided = str(exc)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Proof(
        txid=txid,
        seq_to=compared.seq_to if compared else 0,
        rows=compared.rows if compared else 0,
        bytes=size,
        duration_ms=round((time.monotonic() - began) * 1000, 3),
        failure=failure,
        shared=("; ".join(compared.shared) or None) if compared else None,
        undecided=undecided,
    )


async def _require_room(
    job: Job, location: Location, credentials: Credentials | None
) -> None:
    """Look before anything is downloaded.

    Raises:
        ReplicationError: they are more than may be; the store does not answer.
        DiskFull: the copy would take what is kept for results.
    """
    extent = await read_extent(location, credentials, job.device_id)
    if job.bytes_left is not None and extent.bytes > job.bytes_left:
        raise ReplicationError(
            f"a restore downloads {extent.bytes} bytes, of replica.bytes_per_day {job.bytes_left} "
            "are left"
        )
    database = Path(job.database)
    wal = database.with_name(f"{database.name}-wal")
    need = ROOM * sum(path.stat().st_size for path in (database, wal) if path.exists())
    free = shutil.disk_usage(job.folder).free
    if free - need < job.reserve_bytes:
        raise DiskFull(
            f"a copy needs {need:.0f} bytes, and of {free} free ones store.disk_reserve_bytes = "
            f"{job.reserve_bytes} are for results"
        )


def main() -> None:
    os.nice(NICE)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)

    def write(line: object) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    write({"proof": asyncio.run(prove(job, lambda step: write({"step": step})))})


if __name__ == "__main__":
    main()
