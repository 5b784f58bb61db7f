"""Measures what a profile of replication gives and takes, against an S3 server on loopback: lag,
requests and bytes of a box that commits at a named rate, the CPU of this process, which does
nothing but supervise, and what is left of the writer's throughput beside it.

    python -m support.replica_figures lag PROFILE SECONDS
    python -m support.replica_figures throughput PROFILE PAIRS
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

import structlog
from support.lags import arrivals, lags
from support.replicating import ROOT, Database
from support.s3server import BUCKET, S3Server

from edge_store.alerts import Alarms
from edge_store.bench.figures import cpu_seconds, lower_bound, percentile
from edge_store.config import ReplicaProfile, ReplicaSection
from edge_store.observability.metrics import Metrics
from edge_store.replica.assembly import replicating
from edge_store.replica.room import Replica
from edge_store.replica.traffic import VERBS
from edge_store.sqlite import DatabaseThread, open_writer
from edge_store.wal import move_wal

DEVICE = "box-a"
RATE = 20  # commits a second
BODY_BYTES = 4000
SETTLE_S = 15.0  # until the first snapshot has been sent
GROUP, SLICE_S = 64, 4.0
ALONE = "alone.db"
DAY_S = 86_400


def child_of(database: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A process that writes to it: this program, asked to."""
    return subprocess.Popen(
        [sys.executable, "-m", "support.replica_figures", *arguments, str(database)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def commit_at_rate(path: Path, seconds: float) -> None:
    """One result to a commit; the times of the commits are printed."""
    database = Database(path, DEVICE)
    begins_at = time.monotonic()
    for number in range(round(seconds * RATE)):
        time.sleep(max(0.0, begins_at + number / RATE - time.monotonic()))
        database.write(1, body_bytes=BODY_BYTES)
        print(time.time())
    sys.stdout.flush()
    os._exit(0)  # the last connection to close would empty the WAL


def commit_fast(path: Path) -> None:
    """Commit groups for a slice whenever asked to; how many results it were, each time. Where no
    Litestream moves the WAL, it is moved between slices: so it is written over, and costs nothing.
    """
    database = Database(path, DEVICE)
    for _ in sys.stdin:
        if path.name == ALONE:
            move_wal(path)
        count, ends_at = 0, time.monotonic() + SLICE_S
        while time.monotonic() < ends_at:
            database.write(GROUP, body_bytes=BODY_BYTES)
            count += GROUP
        print(count, flush=True)
    os._exit(0)


async def with_room(folder: Path, profile: str, measure: "Measure") -> None:
    database = Database(folder / "results.db", DEVICE)
    thread = await DatabaseThread.open(lambda: open_writer(database.path))
    with S3Server(folder / "s3") as s3:
        os.environ.update(s3.environ)
        # a folder for the throughput: a server on these cores would be no part of the box
        url = s3.url("fleet") if isinstance(measure, Lag) else f"file://{folder}/replica"
        section = ReplicaSection(url=url, profile=ReplicaProfile(profile))
        room = replicating(section, database.path, database.boot, Alarms(Metrics()), thread)
        async with room as replica:
            replica.follow(lambda: newest_seq(database))
            await replica.sync(20)
            await measure(folder, replica)
    await thread.close()
    database.close()


def newest_seq(database: Database) -> int:
    """What the recorder would know."""
    (seq,) = database.connection.execute("SELECT coalesce(max(seq_to), 0) FROM commits").fetchone()
    return int(seq)


class Measure(ABC):
    """One of the two."""

    def __init__(self, profile: str, amount: float) -> None:
        self.profile = profile
        self.amount = amount

    @abstractmethod
    async def __call__(self, folder: Path, replica: Replica) -> None: ...


class Lag(Measure):
    """For ``amount`` seconds."""

    async def __call__(self, folder: Path, replica: Replica) -> None:
        await asyncio.sleep(SETTLE_S)
        replica.ledger.keep(replica.ownership.traffic)
        before, began, own = replica.ledger.since_start, time.monotonic(), time.process_time()
        child = replica.process_id
        assert child is not None
        theirs = cpu_seconds(child)
        writer = child_of(folder / "results.db", "commit", str(self.amount))
        told, _ = await asyncio.to_thread(writer.communicate)
        took = time.monotonic() - began
        own, theirs = time.process_time() - own, cpu_seconds(child) - theirs
        replica.ledger.keep(replica.ownership.traffic)
        asked = replica.ledger.since_start
        level = folder / "s3" / BUCKET / "fleet" / DEVICE / "results.db" / "0000"
        late = lags([float(line) for line in told.split()], arrivals(level))
        requests = {
            verb: (asked.requests.get(verb, 0) - before.requests.get(verb, 0)) * DAY_S / took
            for verb in VERBS
        }
        sent = (asked.bytes["PUT"] - before.bytes["PUT"]) * DAY_S / took
        read = (asked.bytes.get("GET", 0) - before.bytes.get("GET", 0)) * DAY_S / took
        print(
            f"| `{self.profile}` | {percentile(late, 0.5):.2f} s | {percentile(late, 0.99):.2f} s "
            f"| {max(late):.2f} s | "
            + " | ".join(f"{requests[verb]:.0f}" for verb in VERBS)
            + f" | {sent / 1e9:.2f} GB | {read / 1e9:.2f} GB | {100 * own / took:.2f} % "
            f"| {100 * theirs / took:.2f} % |  {took:.0f} s, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


class Throughput(Measure):
    """``amount`` pairs of slices: with the replica, and on a database that has none."""

    async def __call__(self, folder: Path, replica: Replica) -> None:
        writers = (
            child_of(folder / "results.db", "hurry"),
            child_of(folder / ALONE, "hurry"),
        )

        def slice_of(writer: "subprocess.Popen[str]") -> int:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
            return int(writer.stdout.readline())

        ratios = []
        for number in range(round(self.amount) + 1):
            counts = [0, 0]
            for which in (0, 1) if number % 2 else (1, 0):
                counts[which] = await asyncio.to_thread(slice_of, writers[which])
                await replica.sync(60)
            if number:  # the first of all is for warming up
                ratios.append(counts[0] / counts[1])
        print(
            f"{self.profile}: {statistics.median(ratios):.3f} of the throughput without a replica, "
            f"95 % bound {lower_bound(ratios):.3f}, {len(ratios)} pairs, the last "
            f"{counts[0] / SLICE_S:.0f} results/s, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        for writer in writers:
            writer.kill()


def main() -> None:
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )  # stdout is figures
    match sys.argv[1:]:
        case ["commit", seconds, path]:
            commit_at_rate(Path(path), float(seconds))
        case ["hurry", path]:
            commit_fast(Path(path))
        case ["lag" | "throughput" as what, profile, amount]:
            measure = (Lag if what == "lag" else Throughput)(profile, float(amount))
            with tempfile.TemporaryDirectory(prefix="edge-store-bench-") as name:
                asyncio.run(with_room(Path(name), profile, measure))


if __name__ == "__main__":
    main()
