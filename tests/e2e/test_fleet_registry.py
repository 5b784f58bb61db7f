"""Pulls by the registry from a real S3 server and a folder, with real Litestream."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from support.flakyproxy import FlakyProxy
from support.replicating import ROOT, Database, contents, replicate
from support.s3server import BUCKET, S3Server

from edge_store.cli.fleet import fleet
from edge_store.clock import now_ms
from edge_store.fleet.copies import Standing
from edge_store.fleet.find import FoundBox
from edge_store.fleet.passes import Asked, run_pass
from edge_store.fleet.pull import PullPlan, pull
from edge_store.fleet.report import BoxReport, Manner
from edge_store.ids import DeviceId
from edge_store.replica.heads import Heads, read_head
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.schema import SCHEMA_VERSION

DEADLINE_S = 120.0
DAY_MS = 86_400_000


async def replicated(folder: Path, device_id: str, url: str, results: int = 3) -> Path:
    """A box with so many more results in its replica, told of in its head. Its database."""
    (folder / device_id).mkdir(exist_ok=True, parents=True)
    database = Database(folder / device_id / "results.db", device_id)
    location = parse_location(url)
    heads = Heads(Objects(location, read_credentials(location)), DeviceId(device_id))
    async with replicate(database.path, device_id, url) as litestream:
        database.write(results)
        synced = await litestream.sync(60)
        (seq,) = database.connection.execute("SELECT max(seq) FROM results").fetchone()
        head, _ = read_head(database.connection, database.boot, synced.txid, seq)
        await heads.write(head)
    database.close()
    return database.path


def pulled(into: Path, *more: str) -> tuple[Result, dict[str, Any]]:
    """In this process; with the report, whose boxes are by their names."""
    file = into.parent / "report.json"
    done = CliRunner().invoke(fleet, ["pull", "--into", str(into), "--report", str(file), *more])
    report = json.loads(file.read_text())
    report["boxes"] = {box["device_id"]: box for box in report["boxes"]}
    return done, report


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


def test_registry_says_what_is_pulled_from_where(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, folder, into = s3.url("north"), tmp_path / "usb", tmp_path / "fleet"
    boxes: dict[str, Path] = {}

    async def make() -> None:
        boxes["box-a"] = await replicated(tmp_path / "boxes", "box-a", bucket)
        boxes["box-b"] = await replicated(tmp_path / "boxes", "box-b", f"file://{folder}", 4)
        shutil.copytree(folder / "box-b", folder / "test-1")

    asyncio.run(make())
    for name, value in s3.environ.items():
        monkeypatch.setenv(f"NORTH_{name}", value)
        monkeypatch.delenv(name)
    into.mkdir()
    (into / "fleet.toml").write_text(
        f"""
        stores = [
            {{name = "berlin", url = "{bucket}", credentials = "north"}},
            {{name = "usb", url = "../usb", exclude = ["test-*"]}},
        ]
        labels.box-a.site = "berlin"
        """
    )

    done, report = pulled(into, "--group", "site=berlin")
    assert (done.exit_code, set(report["boxes"]), report["others"]) == (0, {"box-a"}, 2), done

    done, report = pulled(into)
    assert done.exit_code == 0, done.output
    assert {name: (box["how"], box["store"]) for name, box in report["boxes"].items()} == {
        "box-a": ("unchanged", "berlin"),
        "box-b": ("restored", "usb"),
    }
    for name, database in boxes.items():
        assert contents(into / f"{name}.db") == contents(database)

    s3.stop()
    done, report = pulled(into)
    assert done.exit_code == 1
    assert [store["store"] for store in report["unlisted"]] == ["berlin"]
    assert report["boxes"]["box-b"]["how"] == "unchanged"


def test_box_is_tried_again_while_its_store_does_not_answer(tmp_path: Path, s3: S3Server) -> None:
    asyncio.run(replicated(tmp_path / "boxes", "box-a", s3.url("fleet")))
    arrived: list[int] = []
    manner = Manner(into=tmp_path / "fleet", timeout_s=60, pace=arrived.append)

    async def refused_first(proxy: FlakyProxy) -> list[BoxReport]:
        proxy.refuses = True
        location = parse_location(f"s3://{BUCKET}/fleet?endpoint={proxy.endpoint}")
        box = FoundBox(device_id=DeviceId("box-a"), location=location)
        once = await pull(PullPlan(manner=manner, attempts=1), [box])
        proxy.refusals = proxy.was_refused  # as many as one attempt makes
        again = await pull(PullPlan(manner=manner, attempts=2), [box])
        return [*once.reports, *again.reports]

    with FlakyProxy(s3.port) as proxy:
        failed, done = asyncio.run(refused_first(proxy))
        assert (failed.attempts, failed.code) == (1, "replication_error")
        assert (done.attempts, done.error, done.results) == (2, None, 3)
        assert sum(arrived) == done.downloaded_bytes > 0, "--bandwidth is told of every byte"

        asyncio.run(replicated(tmp_path / "boxes", "box-a", s3.url("fleet")))
        arrived.clear()
        location = parse_location(f"s3://{BUCKET}/fleet?endpoint={proxy.endpoint}")
        asked = Asked(plan=PullPlan(manner=manner), location=location, group={}, since=None)
        (again,) = asyncio.run(run_pass(asked)).boxes
    assert (again.how, sum(arrived)) == ("advanced", again.downloaded_bytes)


def test_copy_that_was_brought_forward_is_restored_when_its_days_are_over(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "fleet"

    def grown() -> dict[str, Any]:
        asyncio.run(replicated(tmp_path / "boxes", "box-a", url))
        done, report = pulled(into, "--from", url)
        assert done.exit_code == 0, done.output
        box: dict[str, Any] = report["boxes"]["box-a"]
        return box

    assert grown()["how"] == "restored"
    assert grown()["how"] == "advanced"
    known = into / ".pulled" / "box-a.json"
    standing = msgspec.json.decode(known.read_bytes(), type=Standing)
    assert now_ms() - DAY_MS < standing.restored_at < standing.renewed_at
    for days, how in ((3, "unchanged"), (8, "restored"), (0, "unchanged")):
        standing = msgspec.json.decode(known.read_bytes(), type=Standing)
        earlier = msgspec.structs.replace(standing, restored_at=now_ms() - days * DAY_MS)
        known.write_bytes(msgspec.json.encode(earlier))
        box = pulled(into, "--from", url)[1]["boxes"]["box-a"]
        assert box["how"] == how, days
        if how == "restored":
            assert box["because"].startswith("it is 8.0 days since")


def test_older_copies_are_deleted_for_the_budget_and_told_of(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "fleet"

    def set_up_anew(*more: str) -> tuple[Result, dict[str, Any]]:
        for folder in ("boxes", "replicas"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        asyncio.run(replicated(tmp_path / "boxes", "box-a", url, 20))
        done, report = pulled(into, "--from", url, *more)
        box: dict[str, Any] = report["boxes"]["box-a"]
        return done, box

    first = set_up_anew()[1]
    kept = Path(set_up_anew()[1]["kept"])
    size = kept.stat().st_size
    done, box = set_up_anew("--disk-max", f"{2.5 * size / 1000:.3f}kB")
    assert done.exit_code == 0, done.output
    assert [each["path"] for each in box["evicted"]] == [str(kept)]
    assert f"deleted for --disk-max: {kept}" in done.output
    assert (kept.exists(), Path(box["kept"]).exists()) == (False, True)

    before = contents(into / "box-a.db")
    (into / "fleet.toml").write_text('lake = "lake"')  # that has nothing of the older copy
    done, again = set_up_anew("--disk-max", f"{2.5 * size / 1000:.3f}kB")
    assert (again["code"], Path(box["kept"]).exists()) == ("disk_budget_spent", True), done.output

    (into / "fleet.toml").unlink()
    done, box = set_up_anew("--disk-max", f"{1.5 * size / 1000:.3f}kB")
    assert (done.exit_code, box["code"]) == (1, "disk_budget_spent")
    assert contents(into / "box-a.db") == before
    assert first["flags"] == box["flags"] == []


def test_watch_pulls_what_comes_until_it_is_stopped(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "fleet"
    asyncio.run(replicated(tmp_path / "boxes", "box-a", url))
    pull = ["fleet", "pull", "--from", url, "--into", str(into), "--json", "--watch", "0.2"]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_store", *pull],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["how"] == "restored"
            asyncio.run(replicated(tmp_path / "boxes", "box-a", url, 5))
            report = json.loads(watching.stdout.readline())
            assert (report["results"], report["error"]) == (8, None)
            watching.send_signal(signal.SIGTERM)
            assert watching.wait(DEADLINE_S) == 0
        finally:
            watching.kill()


def test_box_whose_txids_go_back_in_one_timeline_is_flagged(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "fleet"

    async def begun_anew() -> Path:
        for _ in range(2):
            await replicated(tmp_path / "boxes", "box-a", url)
        first = await asyncio.to_thread(pulled, into, "--from", url)
        assert first[1]["boxes"]["box-a"]["flags"] == []
        shutil.rmtree(tmp_path / "replicas")
        shutil.rmtree(tmp_path / "boxes" / "box-a" / "litestream")
        return await replicated(tmp_path / "boxes", "box-a", url)

    database = asyncio.run(begun_anew())
    done, report = pulled(into, "--from", url)
    assert done.exit_code == 0, done.output
    box = report["boxes"]["box-a"]
    assert (box["how"], box["flags"], box["kept"]) == ("restored", ["txid_regressed"], None)
    assert contents(into / "box-a.db") == contents(database)


def test_box_of_a_newer_schema_is_pulled_brought_forward_and_flagged(tmp_path: Path) -> None:
    url, into, box = f"file://{tmp_path}/replicas", tmp_path / "fleet", tmp_path / "boxes" / "box-a"
    box.mkdir(parents=True)
    database = Database(box / "results.db", "box-a")
    database.connection.execute("ALTER TABLE results ADD COLUMN later TEXT DEFAULT 'x'")
    database.connection.execute("CREATE TABLE later (x)")
    database.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    location = parse_location(url)
    heads = Heads(Objects(location, None), DeviceId("box-a"))

    async def grown() -> dict[str, Any]:
        async with replicate(database.path, "box-a", url) as litestream:
            database.write(3)
            synced = await litestream.sync(60)
            (seq,) = database.connection.execute("SELECT max(seq) FROM results").fetchone()
            await heads.write(read_head(database.connection, database.boot, synced.txid, seq)[0])
        done, report = await asyncio.to_thread(pulled, into, "--from", url)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = report["boxes"]["box-a"]
        return found

    first, second = asyncio.run(grown()), asyncio.run(grown())
    database.close()
    assert (first["how"], first["flags"]) == ("restored", ["schema_newer"])
    assert (second["how"], second["flags"]) == ("advanced", ["schema_newer"])
    known = msgspec.json.decode((into / ".pulled" / "box-a.json").read_bytes(), type=Standing)
    assert known.restored_txid == 0, "it is restored again, when its rows may be checked"
    assert contents(into / "box-a.db") == contents(database.path)
    statement = "SELECT count(*) AS n, count(output_text) AS texts FROM generations"
    asked = CliRunner().invoke(fleet, ["query", statement, "--in", str(into)])
    assert json.loads(asked.stdout) == {"n": 6, "texts": 6}, asked.output
