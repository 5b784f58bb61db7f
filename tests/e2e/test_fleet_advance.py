"""Copies are brought forward by what is new, with real Litestream: whole, or not at all."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from support.replicating import ROOT, Database, contents, replicate

from edge_store.errors import RestoreFailed
from edge_store.ids import DeviceId
from edge_store.replica.heads import Heads
from edge_store.replica.heads import read_head as read_head_of_file
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.ltx import apply_ltx, read_header
from edge_store.replica.machine import MachineState
from edge_store.replica.objects import Objects
from edge_store.replica.points import LtxFile

BOX = "box-a"
DEADLINE_S = 120.0
CHANGING = ((24, 28), (92, 100))  # bytes that closing a database counts up


class Replicated:
    """A box whose Litestream runs, and which tells how far it is as the daemon does."""

    def __init__(self, url: str, database: Database, litestream: Any) -> None:
        location = parse_location(url)
        self.database = database
        self._heads = Heads(
            Objects(location, read_credentials(location)), DeviceId(database.device_id)
        )
        self._litestream = litestream

    async def write(self, results: int, body_bytes: int = 100) -> None:
        """Commit that many results, replicate them, and tell it."""
        self.database.write(results, body_bytes=body_bytes)
        await self.tell()

    async def tell(self, machine: MachineState | None = None) -> None:
        """Replicate what is committed, and put the head."""
        synced = await self._litestream.sync(60)
        connection = self.database.connection
        (seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM results").fetchone()
        head, _ = read_head_of_file(connection, self.database.boot, synced.txid, seq)
        await self._heads.write(msgspec.structs.replace(head, machine=machine))


@asynccontextmanager
async def replicated(folder: Path, url: str, device_id: str = BOX) -> AsyncIterator[Replicated]:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  (nothing else waits)
    database = Database(folder / "results.db", device_id)
    async with replicate(database.path, device_id, url) as litestream:
        yield Replicated(url, database, litestream)
    database.close()


def command(url: str, into: Path, *more: str) -> list[str]:
    pull = ("fleet", "pull", "--from", url, "--into", str(into), "--json", *more)
    return [sys.executable, "-m", "edge_store", *pull]


def environment() -> dict[str, str]:
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **keys}


def pulled(url: str, into: Path, *more: str) -> dict[str, Any]:
    """The report of the only box."""
    done = subprocess.run(
        command(url, into, *more),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == ("error" not in report or report["error"] is None), report
    return report


def killed(program: list[str], after_s: float) -> None:
    """Run it, and SIGKILL it."""
    process = subprocess.Popen(
        program, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after_s)
    process.kill()
    process.wait(DEADLINE_S)


def pages(path: Path) -> bytes:
    """The file, without what changes whenever it is opened for writing."""
    content = bytearray(path.read_bytes())
    for start, end in CHANGING:
        content[start:end] = bytes(end - start)
    return bytes(content)


async def test_copy_is_brought_forward_to_what_a_restore_gives(tmp_path: Path, url: str) -> None:
    into = tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(300, 2000)
        first = pulled(url, into)
        assert (first["how"], first["results"]) == ("restored", 300)
        left = into / f".{BOX}.db.restoring" / "files"
        left.mkdir(parents=True)  # by a pull that was killed
        (left / "part").touch()
        assert pulled(url, into)["how"] == "unchanged"
        assert not left.exists()
        await box.tell(MachineState(disk_bytes=100, disk_free_bytes=7, clock_synced=True))
        assert pulled(url, into)["how"] == "unchanged"  # there is nothing new in the replica

        await box.write(20, 2000)
        box.database.connection.execute("CREATE TABLE grown (x)")
        await box.write(1)
        second = pulled(url, into)
        assert (second["how"], second["results"]) == ("advanced", 321)
        if "s3:" in url:  # of a folder nothing is downloaded
            assert 0 < second["downloaded_bytes"] < first["downloaded_bytes"] / 4

        box.database.connection.execute("DROP TABLE grown")
        box.database.connection.execute("VACUUM")  # every page, and a smaller file
        await box.write(2)
        assert (third := pulled(url, into))["how"] == "advanced", third
        assert contents(into / f"{BOX}.db") == contents(box.database.path)
        assert (into / f"{BOX}.db").stat().st_mode & 0o777 == 0o640

        advanced = pages(into / f"{BOX}.db")
        assert pulled(url, into, "--full")["how"] == "restored"
        assert pages(into / f"{BOX}.db") == advanced


async def test_index_that_lacks_a_row_is_for_the_full_restore_to_find(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(3)
        pulled(url, into)
        connection = box.database.connection
        connection.execute("PRAGMA writable_schema = 1")
        index = "FROM sqlite_schema WHERE name = 'results_by_model_and_hour'"
        (hidden,) = connection.execute(f"SELECT * {index}")
        connection.execute(f"DELETE {index}")
        connection.execute("PRAGMA schema_version = 4711")  # so that it is read again
        box.database.write(1)
        connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", hidden)
        connection.execute("PRAGMA schema_version = 4712")
        await box.tell()

        assert pulled(url, into)["how"] == "advanced"
        full = pulled(url, into, "--full")
        assert (full["code"], full["how"]) == ("verify_failed", None)
        assert "results_by_model_and_hour" in full["error"]


async def test_constraint_that_does_not_hold_is_found_in_what_came(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(3)
        pulled(url, into)
        box.database.connection.execute("PRAGMA ignore_check_constraints = 1")
        box.database.connection.execute("UPDATE boots SET event = 'odd'")
        await box.write(1)
        report = pulled(url, into)
        assert (report["code"], report["how"]) == ("verify_failed", None)
        assert "CHECK constraint failed in boots" in report["error"]


async def test_copy_that_anybody_has_changed_is_restored(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(3)
        pulled(url, into)
        copy = into / f"{BOX}.db"
        content = bytearray(copy.read_bytes())
        content[-1] ^= 1
        copy.write_bytes(content)
        assert pulled(url, into)["how"] == "restored"


async def test_damaged_file_leaves_the_copy_as_it_is(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(30)
        pulled(url, into)
        before = (into / f"{BOX}.db").read_bytes()
        known = set((tmp_path / "replicas").rglob("*.ltx"))
        await box.write(5)
        new = [path for path in (tmp_path / "replicas").rglob("*.ltx") if path not in known]
        for path in new:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0x10
            path.write_bytes(content)

        report = pulled(url, into)

        if report["code"] is None:  # of a merged file, made since from the box's own
            assert report["how"] == "advanced" or "is damaged" in report["because"]
            assert contents(into / f"{BOX}.db") == contents(box.database.path)
            return
        assert report["code"] == "restore_failed", report
        assert (into / f"{BOX}.db").read_bytes() == before


async def test_file_with_a_flipped_bit_or_cut_short_is_never_taken(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replicas"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(20)
        await box.write(5)
    (path,) = (tmp_path / "replicas").rglob("0/*2-*2.ltx")
    whole, chances = path.read_bytes(), random.Random(11)
    file = LtxFile(key=path.name, level=0, first=2, last=2, size=len(whole), written_at=0)
    page_size = read_header(whole[:100], path.name).page_size
    refused = 0
    with (tmp_path / "into").open("w+b") as database:

        def applied() -> bytes:
            database.truncate(0)  # what a refused file has left
            apply_ltx(path, file, database.fileno(), page_size)
            return (tmp_path / "into").read_bytes()

        right = applied()
        for number in range(1000):
            content = bytearray(whole)
            if number % 10:
                content[chances.randrange(len(whole))] ^= 1 << chances.randrange(8)
            else:
                del content[chances.randrange(len(whole)) :]
            path.write_bytes(content)
            try:
                assert applied() == right  # LZ4 has more than one way to write the same page
            except RestoreFailed:
                refused += 1
    assert refused > 950


async def test_other_history_of_the_same_box_is_not_mixed_in(tmp_path: Path) -> None:
    """A clone that writes on under the same id, as if nothing had happened, and further."""
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(5)
        pulled(url, into)
    # what Litestream still writes into may neither be copied nor removed
    shutil.copytree(tmp_path / BOX, tmp_path / "clone", ignore=shutil.ignore_patterns("*.sock"))
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(2)
        assert pulled(url, into)["how"] == "advanced"
    ours = contents(into / f"{BOX}.db")
    # the files that the clone's Litestream writes take the place of the box's own
    shutil.rmtree(tmp_path / "replicas" / BOX)
    async with replicated(tmp_path / "clone", url) as clone:
        for _ in range(6):
            await clone.write(1)
        report = pulled(url, into)
        assert report["how"] == "restored", report
        assert report["because"]
        assert report["flags"] == ["forked"]
        assert contents(into / f"{BOX}.db") == contents(clone.database.path)
    (kept,) = into.glob(f"{BOX}.*.db")
    assert contents(kept) == ours


async def test_replica_that_was_begun_anew_is_not_applied_to_the_old_state(tmp_path: Path) -> None:
    """Its positions are counted from 1 again; what came between is in none of the newer files."""
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"

    def annotated(path: Path) -> Any:
        connection = sqlite3.connect(path)
        try:
            return connection.execute("SELECT count(*) FROM annotations").fetchone()
        finally:
            connection.close()

    async with replicated(tmp_path / BOX, url) as box:
        for _ in range(3):
            await box.write(100)
        pulled(url, into)
        box.database.connection.execute(
            "INSERT INTO annotations (at, id, kind, value) SELECT 1, id, 'pin', 'true' FROM results"
        )
    shutil.rmtree(tmp_path / "replicas" / BOX)
    shutil.rmtree(tmp_path / BOX / "litestream")
    async with replicated(tmp_path / BOX, url) as box:
        await box.tell()
        for _ in range(6):
            await box.write(1)
        report = pulled(url, into)
        assert report["how"] == "restored"
        assert "another history" in report["because"]
        assert annotated(into / f"{BOX}.db") == annotated(box.database.path) == (300,)


async def test_killed_pull_leaves_one_whole_copy_and_the_next_goes_on(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    moments = random.Random(7)
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(200, 2000)
        pulled(url, into)
        states = [contents(into / f"{BOX}.db")]
        for _ in range(8):
            await box.write(20, 2000)
            states.append(contents(box.database.path))
            killed(command(url, into), moments.uniform(0.2, 1.2))
            assert contents(into / f"{BOX}.db") in states
        assert pulled(url, into)["results"] == 360
        assert contents(into / f"{BOX}.db") == states[-1]


async def test_replica_that_lost_its_newest_file_is_told_of_at_each_pull(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    async with replicated(tmp_path / BOX, url) as box:
        await box.write(3)
        pulled(url, into)
        await box.write(2)
        states = [contents(box.database.path)]
        box.database.connection.execute(
            "INSERT INTO annotations (at, id, kind, value) SELECT 1, id, 'pin', 'true' FROM results"
        )
        await box.tell()
    newest = max((tmp_path / "replicas").rglob("*.ltx"), key=lambda path: path.stem[17:])
    for file in (tmp_path / "replicas").rglob(f"*-{newest.stem[17:]}.ltx"):
        file.unlink()
    for _ in range(2):
        report = pulled(url, into)
        assert (report["code"], report["results"]) == ("replica_behind", 5)
        assert contents(into / f"{BOX}.db") in states
