"""A store that is away for long, and what else happens to a box's files: the disk is kept within
its bound, nothing is lost, and the replica equals the file once it is back.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import obstore
import pytest
from support.processes import standing_still
from support.replicating import Database, contents, wait_for
from support.s3server import S3Server

from edge_store.alerts import AlarmName, Alarms
from edge_store.clock import now_ms
from edge_store.config import ReplicaProfile, ReplicaSection
from edge_store.observability.metrics import Metrics
from edge_store.replica import health, pause, status, supervisor
from edge_store.replica.assembly import replicating
from edge_store.replica.local import measure
from edge_store.replica.location import parse_location
from edge_store.replica.restore import restore
from edge_store.replica.room import Replica
from edge_store.replica.status import Cause, ReplicaState
from edge_store.sqlite import DatabaseThread, open_writer

DEVICE = "box-a"
BOUND = 2 * 1024 * 1024


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    for module, name, value in (
        (health, "LOOK_EVERY_S", 0.2),
        (health, "LOOK_SHARE", 1.0),
        (status, "STALLED_AFTER_S", 1.0),
        (supervisor, "HEALTH_INTERVAL_S", 0.2),
    ):
        monkeypatch.setattr(module, name, value)
    writing = Database(tmp_path / "results.db", DEVICE)
    yield writing
    writing.close()


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(Metrics())


@asynccontextmanager
async def running(database: Database, url: str, alarms: Alarms) -> AsyncIterator[Replica]:
    section = ReplicaSection(
        url=url, profile=ReplicaProfile.FAST, local_bytes_max=BOUND, owner_check_s=1
    )
    thread = await DatabaseThread.open(lambda: open_writer(database.path))
    try:
        async with replicating(section, database.path, database.boot, alarms, thread) as replica:
            yield replica
    finally:
        await thread.close()


def raised(alarms: Alarms) -> set[AlarmName]:
    return {alarm.name for alarm in alarms.active}


async def test_days_without_the_store_stay_within_the_bound_and_lose_nothing(
    tmp_path: Path, database: Database, alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "s3") as s3:
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        url = s3.url("fleet")
        async with running(database, url, alarms) as replica:
            database.write(2)
            await replica.sync(60)
            s3.stop()
            most, seen = 0, replica.status.health
            for gaps in (1, 2):  # first what Litestream took up; then a WAL that it does not read

                def has_gaps(wanted: int = gaps) -> bool:
                    nonlocal most, seen
                    found = replica.status.health
                    if found is not seen:  # however long a look takes, as much comes in between
                        seen = found
                        database.write(4, body_bytes=30_000)  # a second has half a megabyte
                    held = measure(database.path, tmp_path / "litestream" / "ltx")
                    most = max(most, held.bytes)
                    return found is not None and found.gaps >= wanted

                await wait_for(has_gaps, f"room is made {gaps} times", 120)
            await wait_for(lambda: replica.status.state is ReplicaState.OFFLINE, "it is known")
            assert most < 3 * BOUND, "what is written between two looks comes on top"
            s3.start()
            await wait_for(lambda: replica.status.state is ReplicaState.OK, "it is back", 120)
            database.write(1)
            await replica.sync(60)
        await restore(parse_location(url), database.device_id, tmp_path / "copy.db", timeout_s=60)
    assert contents(tmp_path / "copy.db") == contents(database.path)


def has_begun_anew(before: list[Path]) -> bool:
    """Whether Litestream's folder has a file again that was there before."""
    return any(path.exists() for path in before)


async def test_a_store_that_has_lost_its_newest_files_gets_the_whole_database(
    tmp_path: Path, database: Database, alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "s3") as s3:
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        url = s3.url("fleet")
        async with running(database, url, alarms) as replica:
            for _ in range(5):
                database.write(1)
                txid = (await replica.sync(60)).txid
            names = tuple(f"{txid - n:016x}.ltx" for n in range(3))
            store = s3.store()
            assert replica.process_id is not None
            with standing_still(replica.process_id):  # it merges what is listed here
                keys = [each["path"] for chunk in obstore.list(store, "fleet/") for each in chunk]
                lost = [key for key in keys if key.endswith(names)]
                assert len(lost) >= 3
                merged = sorted((tmp_path / "litestream" / "ltx" / "0").glob("*.ltx"))[:-1]
                for path in merged:  # as Litestream does a quarter of an hour later
                    path.unlink()
                obstore.delete(store, lost)
                os.kill(replica.process_id, signal.SIGKILL)  # the next asks the store where it is
            database.write(1)
            await wait_for(lambda: has_begun_anew(merged), "it has begun anew")
            await wait_for(lambda: replica.status.state is ReplicaState.OK, "it goes on")
            for _ in range(5):  # beyond the TXIDs that were there before
                database.write(1)
                await replica.sync(60)
        await restore(parse_location(url), database.device_id, tmp_path / "copy.db", timeout_s=60)
    assert contents(tmp_path / "copy.db") == contents(database.path)


async def test_file_that_is_swapped_underneath_holds_litestream_and_is_an_alarm(
    tmp_path: Path, database: Database, alarms: Alarms
) -> None:
    async with running(database, f"file://{tmp_path}/replica", alarms) as replica:
        database.write(1)
        await replica.sync(60)
        aside, other = tmp_path / "aside.db", tmp_path / "other.db"
        os.link(database.path, aside)
        other.write_bytes(aside.read_bytes())
        other.replace(database.path)
        await wait_for(lambda: replica.status.cause is Cause.SWAPPED, "it is noticed")
        assert replica.status.state is ReplicaState.BROKEN
        assert AlarmName.REPLICA_BROKEN in raised(alarms)
        await wait_for(lambda: replica.process_id is None, "nothing is replicated")
        aside.rename(database.path)
        await wait_for(lambda: replica.status.state is ReplicaState.OK, "the file is back")
        assert AlarmName.REPLICA_BROKEN not in raised(alarms)


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], uri=True)
connection.execute("SELECT count(*) FROM results").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def held_open(uri: str) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, uri, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    yield process.pid
    process.stdin.close()
    await process.wait()


async def test_another_program_that_may_write_is_named_and_a_reader_is_not(
    tmp_path: Path, database: Database, alarms: Alarms
) -> None:
    def named() -> list[int]:
        found = replica.status.health
        return [each.process_id for each in found.foreign_writers] if found else []

    async with running(database, f"file://{tmp_path}/replica", alarms) as replica:
        await replica.sync(60)
        async with (
            held_open(f"file:{database.path}?mode=ro"),
            held_open(f"file:{database.path}") as writer,
        ):
            await wait_for(named, "it is noticed")
            assert named() == [writer]
            assert AlarmName.FOREIGN_WRITER in raised(alarms)
        await wait_for(lambda: not named(), "it is gone")
        assert AlarmName.FOREIGN_WRITER not in raised(alarms)


async def test_pause_that_is_over_goes_on_by_itself(
    tmp_path: Path, database: Database, alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_ms = 0
    monkeypatch.setattr(pause, "now_ms", lambda: now_ms() + passed_ms)
    async with running(database, f"file://{tmp_path}/replica", alarms) as replica:
        await replica.pause(3600.0)
        assert (replica.process_id, replica.status.cause) == (None, Cause.PAUSED)
        database.write(1)
        passed_ms = 3600 * 1000
        await wait_for(lambda: replica.status.state is ReplicaState.OK, "it goes on")
        await replica.sync(60)
