"""Write, replicate, lose the box, restore, compare; and every way in which that can fail."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.replicating import Database, WriterProcess, contents, replicate, wait_for
from support.s3server import S3Server
from support.terminal import on_terminal

from edge_store.errors import (
    ReplicaNotFound,
    ReplicationError,
    RestoreFailed,
    RestoreTimedOut,
    StoreError,
    VerifyFailed,
)
from edge_store.ids import DeviceId
from edge_store.replica.compare import no_marks
from edge_store.replica.location import parse_location
from edge_store.replica.proof import Job, prove
from edge_store.replica.restore import Progress, Stage, restore
from edge_store.replica.supervisor import Litestream
from edge_store.sqlite import open_reader

DEVICE = DeviceId("box-a")
FRAME_CHECKSUM = 16  # in the header of a frame of the WAL: from there on it is worth nothing


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/replica"
    server: S3Server = request.getfixturevalue("s3")
    return server.url("fleet/north")


def flip(path: Path, at: int) -> None:
    """Change one byte on the disk, below SQLite and Litestream."""
    with path.open("r+b") as file:
        file.seek(at)
        (value,) = file.read(1)
        file.seek(at)
        file.write(bytes([value ^ 0xFF]))


async def replicated(database: Path, url: str, results: int = 3) -> None:
    """Leave a replica of that many results."""
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        writing.write(results)
        await litestream.sync(60)
    writing.close()


async def test_replicated_results_survive_the_loss_of_the_box(tmp_path: Path, url: str) -> None:
    database, copy = tmp_path / "results.db", tmp_path / "elsewhere" / "copy.db"
    with WriterProcess(database, DEVICE) as writer:
        async with replicate(database, DEVICE, url) as litestream:
            writer.write(50)
            await litestream.sync(60)
            synced = contents(database)
            writer.kill()
            assert litestream.process_id is not None
            os.kill(litestream.process_id, signal.SIGKILL)
            done = await restore(parse_location(url), DEVICE, copy, timeout_s=60)
    assert contents(copy) == synced
    assert (done.results, done.device_id, done.path) == (50, DEVICE, copy)
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]


async def test_restored_copy_is_one_file_outside_wal_mode(
    tmp_path: Path,
) -> None:
    await replicated(tmp_path / "results.db", f"file://{tmp_path}/replica")
    copy = tmp_path / "copies" / "copy.db"
    await restore(parse_location(f"{tmp_path}/replica"), DEVICE, copy, timeout_s=60)
    connection = open_reader(copy)
    try:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    finally:
        connection.close()


async def test_restored_box_goes_on_under_a_new_timeline(tmp_path: Path, url: str) -> None:
    await replicated(tmp_path / "results.db", url)
    box = tmp_path / "new-box" / "results.db"
    await restore(parse_location(url), DEVICE, box, timeout_s=60, new_timeline=True)
    writing = Database(box, DEVICE)
    try:
        async with replicate(box, DEVICE, url) as litestream:
            writing.write(2)
            await litestream.sync(60)
        timelines = writing.connection.execute("SELECT DISTINCT timeline FROM results").fetchall()
        assert len(timelines) == 2
        again = tmp_path / "again.db"
        done = await restore(parse_location(url), DEVICE, again, timeout_s=60)
        assert done.results == 5
        assert contents(again) == contents(box)
    finally:
        writing.close()


async def test_restore_writes_over_nothing(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replica"
    await replicated(tmp_path / "results.db", url)
    for name in ("there.db", "there.db-wal"):
        existing = tmp_path / name
        existing.write_bytes(b"mine")
        with pytest.raises(StoreError, match="is there already"):
            await restore(parse_location(url), DEVICE, tmp_path / "there.db", timeout_s=60)
        assert existing.read_bytes() == b"mine"
        existing.unlink()


async def test_changed_row_is_found_and_the_damaged_copy_kept(tmp_path: Path) -> None:
    database, url = tmp_path / "results.db", f"file://{tmp_path}/replica"
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        writing.write(3)
        writing.connection.execute("UPDATE outputs SET output_text = 'other' WHERE seq = 2")
        await litestream.sync(60)
    writing.close()
    with pytest.raises(VerifyFailed, match="seq 2") as refused:
        await restore(parse_location(url), DEVICE, tmp_path / "copy.db", timeout_s=60)
    assert not (tmp_path / "copy.db").exists()
    assert "`edge-store replica points` lists older states" in refused.value.hint
    assert len(contents(tmp_path / "copy.db.damaged")) == 4


async def snapshot_of_a_damaged_wal(
    writing: Database, litestream: Litestream, results: int
) -> tuple[str, list[tuple[Any, ...]]]:
    """Replicate so many results in a second commit, damage that in the WAL, and take a snapshot,
    which lacks them: its TXID, and what was replicated.
    """
    wal = writing.path.with_name(f"{writing.path.name}-wal")
    writing.write(1)
    await litestream.sync(60)
    second = wal.stat().st_size
    writing.write(results)
    newest = f"{(await litestream.sync(60)).txid:016x}"
    synced = contents(writing.path)
    flip(wal, second + FRAME_CHECKSUM)
    async with litestream.paused():
        await litestream.snapshot()
    return newest, synced


async def test_snapshot_of_a_damaged_wal_hides_nothing_that_was_replicated(
    tmp_path: Path, url: str
) -> None:
    """Litestream reads the WAL up to the damage, and calls that the whole state."""
    database, location = tmp_path / "results.db", parse_location(url)
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        newest, synced = await snapshot_of_a_damaged_wal(writing, litestream, 50)
        done = await restore(location, DEVICE, tmp_path / "copy.db", timeout_s=60)
        assert contents(tmp_path / "copy.db") == synced
        assert (done.txid, done.passed_over) == (newest, (newest,))
        job = Job(
            url=url,
            device_id=DEVICE,
            database=str(database),
            marks=no_marks(0),
            reserve_bytes=0,
        )
        proof = await prove(job, lambda _step: None)
        assert proof.failure == f"the snapshot of TXID {newest} does not hold what was replicated"
        assert (proof.live, proof.rows) == (None, done.results)
        writing.write(1)
        await litestream.sync(60)
        done = await restore(location, DEVICE, tmp_path / "later.db", timeout_s=60)
        assert contents(tmp_path / "later.db") == contents(database)
        assert not (tmp_path / "later.db.damaged").exists()
    writing.close()


async def test_snapshot_that_arrives_during_the_restore_is_compared_too(tmp_path: Path) -> None:
    """In a folder Litestream chooses for itself, of what is there by then."""
    database, location = tmp_path / "results.db", parse_location(f"file://{tmp_path}/replica")
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, f"file://{tmp_path}/replica") as litestream:
        newest, synced = await snapshot_of_a_damaged_wal(writing, litestream, 2)
    writing.close()
    (snapshot,) = (tmp_path / "replica").rglob(f"9/*-{newest}.ltx")
    aside = snapshot.rename(tmp_path / "aside.ltx")

    def arrive(progress: Progress) -> None:
        if progress.stage is Stage.REBUILDING and aside.exists():
            aside.rename(snapshot)

    done = await restore(location, DEVICE, tmp_path / "copy.db", timeout_s=60, on_progress=arrive)
    assert contents(tmp_path / "copy.db") == synced
    assert (done.txid, done.passed_over) == (newest, (newest,))


async def test_snapshot_of_a_damaged_page_is_passed_over(tmp_path: Path) -> None:
    """Only the checks of the copy find it: the page is in no other file of that state."""
    database, location = tmp_path / "results.db", parse_location(f"file://{tmp_path}/replica")
    writing = Database(database, DEVICE)
    writing.write(200)  # so that what follows changes other pages
    writing.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    (_, _, digest), *_ = contents(database)
    async with replicate(database, DEVICE, f"file://{tmp_path}/replica") as litestream:
        await litestream.sync(60)
        writing.write(1)
        newest = f"{(await litestream.sync(60)).txid:016x}"
        synced = contents(database)
        flip(database, database.read_bytes().find(digest))
        async with litestream.paused():
            await litestream.snapshot()
    writing.close()
    done = await restore(location, DEVICE, tmp_path / "copy.db", timeout_s=60)
    assert contents(tmp_path / "copy.db") == synced
    assert (done.txid, done.passed_over) == (newest, (newest,))
    assert not (tmp_path / "copy.db.damaged").exists()


async def test_row_that_only_the_integrity_check_finds_is_found(tmp_path: Path) -> None:
    """The digest chain does not cover it."""
    database, url = tmp_path / "results.db", f"file://{tmp_path}/replica"
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        writing.write(1)
        writing.connection.execute("PRAGMA ignore_check_constraints = 1")
        writing.connection.execute("UPDATE boots SET event = 'odd'")
        await litestream.sync(60)
    writing.close()
    with pytest.raises(VerifyFailed, match="CHECK constraint failed in boots"):
        await restore(parse_location(url), DEVICE, tmp_path / "copy.db", timeout_s=60)
    assert not (tmp_path / "copy.db").exists()
    assert (tmp_path / "copy.db.damaged").exists()


async def test_replica_of_another_box_is_refused(tmp_path: Path) -> None:
    await replicated(tmp_path / "results.db", f"file://{tmp_path}/replica")
    (tmp_path / "replica" / DEVICE).rename(tmp_path / "replica" / "box-b")
    location = parse_location(f"{tmp_path}/replica")
    with pytest.raises(VerifyFailed, match="holds the database of box-a"):
        await restore(location, DeviceId("box-b"), tmp_path / "copy.db", timeout_s=60)


async def test_damaged_replica_leaves_nothing_behind(tmp_path: Path) -> None:
    await replicated(tmp_path / "results.db", f"file://{tmp_path}/replica")
    for file in (tmp_path / "replica").rglob("*.ltx"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    copies = tmp_path / "copies"
    with pytest.raises(RestoreFailed, match="cannot be restored") as caught:
        await restore(
            parse_location(f"{tmp_path}/replica"), DEVICE, copies / "copy.db", timeout_s=60
        )
    assert list(copies.iterdir()) == []
    assert "`edge-store replica drill` there uploads" in str(caught.value.hint)


async def test_missing_replica_is_named(tmp_path: Path, url: str) -> None:
    await replicated(tmp_path / "results.db", url)
    with pytest.raises(ReplicaNotFound, match="no replica of box-b"):
        await restore(parse_location(url), DeviceId("box-b"), tmp_path / "copy.db", timeout_s=60)


async def test_wrong_secret_is_told_from_an_absent_bucket(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address, which the store's error names, has the number of another error in it."""
    absent = s3.url("fleet-403").replace("//edge/", "//absent/")
    with pytest.raises(ReplicaNotFound):
        await restore(parse_location(absent), DEVICE, tmp_path / "copy.db", timeout_s=60)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-this-one")
    location = parse_location(s3.url("fleet-404"))
    with pytest.raises(ReplicationError, match="refuses the keys") as caught:
        await restore(location, DEVICE, tmp_path / "copy.db", timeout_s=60)
    assert "not-this-one" not in str(caught.value)


async def test_refused_connection_is_reported_at_once(tmp_path: Path, s3: S3Server) -> None:
    """Who waited for this deadline would meet the test's."""
    s3.stop()
    location = parse_location(s3.url("fleet"))
    with pytest.raises(ReplicationError, match="cannot be reached"):
        await restore(location, DEVICE, tmp_path / "copy.db", timeout_s=3600)


async def test_store_that_never_answers_meets_the_deadline(tmp_path: Path, s3: S3Server) -> None:
    s3.stop()
    with socket.create_server(("127.0.0.1", s3.port)):
        location = parse_location(s3.url("fleet"))
        with pytest.raises(RestoreTimedOut, match="within 2 s"):
            await restore(location, DEVICE, tmp_path / "copy.db", timeout_s=2)


async def test_earlier_state_is_restored_by_its_time(tmp_path: Path) -> None:
    database, url = tmp_path / "results.db", f"file://{tmp_path}/replica"
    writing = Database(database, DEVICE)
    times: list[datetime] = []
    async with replicate(database, DEVICE, url) as litestream:
        for results in (3, 2):
            writing.write(results)
            await litestream.sync(60)
            # Litestream's times are those of its files: the next one must come later than this
            await wait_for(
                lambda: newest_file(tmp_path / "replica") < time.time() - 0.2, "a later time"
            )
            times.append(datetime.now(UTC))
    writing.close()

    location = parse_location(url)
    for at, expected in zip(times, (3, 5), strict=True):
        to = tmp_path / f"{expected}.db"
        assert (await restore(location, DEVICE, to, timeout_s=60, at=at)).results == expected
    before = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(ReplicaNotFound, match="or before"):
        await restore(location, DEVICE, tmp_path / "before.db", timeout_s=60, at=before)


def newest_file(folder: Path) -> float:
    """Of a replica: Litestream removes none there so soon, but does so beside the database."""
    return max(path.stat().st_mtime for path in folder.rglob("*.ltx"))


async def test_command_restores_a_position_and_says_which_states_there_are(tmp_path: Path) -> None:
    database, url = tmp_path / "results.db", f"file://{tmp_path}/replica"
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        for _ in range(3):
            writing.write(1)
            synced = await litestream.sync(60)
    writing.close()

    listed = await command("points", "--from", url, "--list")
    points = [line.split()[1] for line in listed.stdout.splitlines()]
    assert points[-1] == f"{synced.replicated_txid:016x}"
    told = await command("points", "--from", url)
    assert f"can give {len(points)} states" in told.stdout
    as_json = json.loads((await command("points", "--from", url, "--json")).stdout)
    assert [point["txid"] for point in as_json["points"]] == points

    earlier = tmp_path / "earlier.db"
    done = await command("restore", "--from", url, "--to", str(earlier), "--txid", points[-2])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"state: TXID {points[-2]}" in done.stdout
    assert contents(earlier) != contents(database)
    newest = tmp_path / "newest.db"
    number = str(int(points[-1], 16))
    await command("restore", "--from", url, "--to", str(newest), "--txid", number)
    assert contents(newest) == contents(database)
    later = tmp_path / "later.db"
    done = await command("restore", "--from", url, "--to", str(later), "--at", "2999-01-01")
    assert (done.returncode, contents(later)) == (0, contents(database))
    assert "--at 2999-01-01T00:00:00.000Z is in the future" in done.stderr
    assert "the newest state is restored" in done.stderr

    absent = await command("restore", "--from", url, "--to", str(tmp_path / "a.db"), "--txid", "99")
    assert absent.returncode == 1
    assert f"the nearest: TXID {points[-1]} of" in absent.stderr
    both = ("--txid", "1", "--at", "2h ago")
    assert (await command("restore", "--to", str(tmp_path / "a.db"), *both)).returncode == 2


async def test_progress_is_shown_on_a_terminal_only_and_not_when_quiet(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replica"
    await replicated(tmp_path / "results.db", url)

    async def shown(*more: str) -> str:
        to = tmp_path / f"copy{len(more)}.db"
        line = ("replica", "restore", "--from", url, "--to", str(to), *more)
        code, text = await asyncio.to_thread(
            on_terminal, [sys.executable, "-m", "edge_store", *line], os.environ
        )
        assert code == 0
        return text

    assert "checking" in await shown()
    assert "checking" not in await shown("--quiet")


async def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "edge_store", "replica", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
