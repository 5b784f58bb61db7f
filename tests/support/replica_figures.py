"""Measures what a profile of replication gives and takes, against an S3 server on loopback: lag,
requests and bytes of a box that commits at a named rate, the CPU of this process, which does
nothing but supervise, and what is left of the writer's throughput beside it.

    python -m support.replica_figures lag PROFILE SECONDS [RATE [POLLING]]
    python -m support.replica_figures throughput PROFILE PAIRS
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
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
from edge_store.wal import checkpoint_soon, move_wal

DEVICE = "box-a"
RATE = 20.0  # commits a second
BODY_BYTES = 4000
SETTLE_S = 15.0  # until the first snapshot has been sent
GROUP, SLICE_S = 64, 4.0
ALONE = "alone.db"  # its WAL is moved between its turns
MOVED = "moved.db"  # and once in each, as the daemon does it that has no replica
POLL = "while True: pass"
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


def commit_at_rate(path: Path, seconds: float, rate: float) -> None:
    """One result to a commit; the times of the commits are printed, and how long each took."""
    database = Database(path, DEVICE)
    begins_at, count = time.monotonic(), 0
    while (now := time.monotonic()) < begins_at + seconds:
        database.write(1, body_bytes=BODY_BYTES)
        print(time.time(), time.monotonic() - now)
        count += 1
        time.sleep(max(0.0, begins_at + count / rate - time.monotonic()))
    sys.stdout.flush()
    os._exit(0)  # the last connection to close would empty the WAL


def commit_fast(path: Path) -> None:
    """Commit groups for a slice whenever asked to; how many results it were, each time. Where no
    Litestream moves the WAL, it is moved between slices: so it is written over, and costs nothing.
    """
    database = Database(path, DEVICE)
    for _ in sys.stdin:
        if path.name in (ALONE, MOVED):
            move_wal(path)
        moving = threading.Thread(target=move_wal, args=(path,))
        count, begins_at = 0, time.monotonic()
        is_to_move = path.name == MOVED
        while (since_s := time.monotonic() - begins_at) < SLICE_S:
            database.write(GROUP, body_bytes=BODY_BYTES)
            count += GROUP
            if is_to_move and since_s > SLICE_S / 2 and moving.ident is None:
                moving.start()
            elif is_to_move and moving.ident is not None and not moving.is_alive():
                is_to_move = not checkpoint_soon(database.connection)
        if moving.ident is not None:
            moving.join()
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
            await replica.sync(60)
            await measure(folder, replica)
    await thread.close()
    database.close()


def newest_seq(database: Database) -> int:
    """What the recorder would know."""
    (seq,) = database.connection.execute("SELECT coalesce(max(seq_to), 0) FROM commits").fetchone()
    return int(seq)


def polls(processes: int) -> "list[subprocess.Popen[bytes]]":
    """So many that never sleep, as an engine's scheduler."""
    return [subprocess.Popen([sys.executable, "-c", POLL]) for _ in range(processes)]


class Measure(ABC):
    """One of the two."""

    def __init__(self, profile: str, amount: float, *more: str) -> None:
        self.profile = profile
        self.amount = amount
        self.more = more

    @abstractmethod
    async def __call__(self, folder: Path, replica: Replica) -> None: ...


class Lag(Measure):
    """For ``amount`` seconds; ``more``: commits a second, and how many processes poll beside it."""

    async def __call__(self, folder: Path, replica: Replica) -> None:
        await asyncio.sleep(SETTLE_S)
        replica.ledger.keep(replica.ownership.traffic)
        before, began, own = replica.ledger.since_start, time.monotonic(), time.process_time()
        child = replica.process_id
        assert child is not None
        theirs = cpu_seconds(child)
        rate, polling = (*self.more, *(f"{RATE}", "0")[len(self.more) :])
        busy = polls(int(polling))
        writer = child_of(folder / "results.db", "commit", str(self.amount), rate)
        told, _ = await asyncio.to_thread(writer.communicate)
        for each in busy:
            each.kill()
        took = time.monotonic() - began
        own, theirs = time.process_time() - own, cpu_seconds(child) - theirs
        replica.ledger.keep(replica.ownership.traffic)
        asked = replica.ledger.since_start
        level = folder / "s3" / BUCKET / "fleet" / DEVICE / "results.db" / "0000"
        commits = [[float(word) for word in line.split()] for line in told.splitlines()]
        late = lags([at for at, _ in commits], arrivals(level))
        waits = [took_s for _, took_s in commits]
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
            f"| {100 * theirs / took:.2f} % |  {len(commits) / took:.0f} commits/s, COMMIT p50 "
            f"{1000 * percentile(waits, 0.5):.1f} ms, p99 {1000 * percentile(waits, 0.99):.1f} ms, "
            f"most {1000 * max(waits):.0f} ms; {took:.0f} s, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


class Throughput(Measure):
    """``amount`` turns of slices: with the replica, and on the two databases that have none."""

    async def __call__(self, folder: Path, replica: Replica) -> None:
        writers = (
            child_of(folder / "results.db", "hurry"),
            child_of(folder / ALONE, "hurry"),
            child_of(folder / MOVED, "hurry"),
        )

        def slice_of(writer: "subprocess.Popen[str]") -> int:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
            return int(writer.stdout.readline())

        ratios: tuple[list[float], list[float]] = ([], [])
        for number in range(round(self.amount) + 1):
            counts = [0, 0, 0]
            for which in (0, 1, 2) if number % 2 else (2, 1, 0):
                counts[which] = await asyncio.to_thread(slice_of, writers[which])
                await replica.sync(60)
            if number:  # the first of all is for warming up
                for place, found in enumerate(ratios):
                    found.append(counts[0] / counts[place + 1])
        told = [
            f"{statistics.median(found):.3f} (95 % bound {lower_bound(found):.3f}, "
            f"{min(found):.2f} to {max(found):.2f})"
            for found in ratios
        ]
        print(
            f"{self.profile}: {told[0]} of the throughput without a replica, {told[1]} of that "
            f"where the WAL is moved in the turn; {round(self.amount)} turns, the last "
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
        case ["commit", seconds, rate, path]:
            commit_at_rate(Path(path), float(seconds), float(rate))
        case ["hurry", path]:
            commit_fast(Path(path))
        case ["lag" | "throughput" as what, profile, amount, *more]:
            measure = (Lag if what == "lag" else Throughput)(profile, float(amount), *more)
            with tempfile.TemporaryDirectory(prefix="edge-store-bench-") as name:
                asyncio.run(with_room(Path(name), profile, measure))


if __name__ == "__main__":
    main()
