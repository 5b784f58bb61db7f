"""Boxes pulled by the command: a broken one fails alone, and the exit code says so."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.replicating import ROOT, Database, contents, replicate

DEADLINE_S = 120.0


def edge_store(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator would, with this process's keys."""
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "edge_store", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **keys},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


async def replicated(tmp_path: Path, device_id: str, url: str, results: int) -> Path:
    """A box that has replicated that many more results. Returns its database."""
    folder = tmp_path / device_id
    folder.mkdir(exist_ok=True)
    database = Database(folder / "results.db", device_id)
    async with replicate(database.path, device_id, url) as litestream:
        database.write(results)
        await litestream.sync(60)
    database.close()
    return database.path


def break_replica(tmp_path: Path, device_id: str) -> None:
    """Flip a byte in every file of one box's replica, wherever it lies."""
    files = [path for path in tmp_path.rglob("*.ltx") if f"replicas/{device_id}/" in str(path)]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)


def add_other_folder(tmp_path: Path) -> None:
    """Put one beside the box's, wherever that lies."""
    (stored,) = (path for path in tmp_path.rglob("replicas/box-a") if path.is_dir())
    other = stored.with_name("lost-found")
    other.mkdir()
    (other / "note.txt").write_text("no box")


async def test_broken_box_fails_alone(tmp_path: Path, url: str) -> None:
    boxes = {name: await replicated(tmp_path, name, url, 3) for name in ("box-a", "box-b", "box-c")}
    break_replica(tmp_path, "box-b")
    into = tmp_path / "copies"

    done = edge_store("fleet", "pull", "--from", url, "--into", str(into), "--jobs", "2")

    assert done.returncode == 1, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["box-a"].split()[1:4] == ["restored", "3", "results"]
    assert lines["box-b"].split()[1:3] == ["failed", "restore_failed:"]
    assert "2 of 3 boxes" in done.stderr
    assert sorted(path.name for path in into.glob("[!.]*")) == ["box-a.db", "box-c.db"]
    for name in ("box-a", "box-c"):
        assert contents(into / f"{name}.db") == contents(boxes[name])


async def test_failed_box_keeps_its_older_copy_and_is_asked_with_the_others(
    tmp_path: Path, url: str
) -> None:
    for name in ("box-a", "box-b"):
        await replicated(tmp_path, name, url, 3)
    into = tmp_path / "copies"
    first = edge_store("fleet", "pull", "--from", url, "--into", str(into))
    assert first.returncode == 0, first.stderr
    await replicated(tmp_path, "box-a", url, 4)
    break_replica(tmp_path, "box-b")
    assert edge_store("fleet", "pull", "--from", url, "--into", str(into)).returncode == 1

    looked = edge_store("fleet", "health", "--from", url, "--in", str(into), "--json")
    *boxes, _ = map(json.loads, looked.stdout.splitlines())
    met = {
        box["device_id"]: [
            each["message"] for each in box["findings"] if each["name"] == "pull_failed"
        ]
        for box in boxes
    }
    assert (met["box-a"], len(met["box-b"])) == ([], 1)
    assert met["box-b"][0].startswith("pulls of it have failed since ")

    statement = "SELECT device_id, count(*) AS results FROM results GROUP BY 1 ORDER BY 1"
    asked = edge_store("fleet", "query", statement, "--in", str(into), "--nl")

    assert asked.returncode == 0, asked.stderr
    assert [json.loads(line) for line in asked.stdout.splitlines()] == [
        {"device_id": "box-a", "results": 7},
        {"device_id": "box-b", "results": 3},
    ]


async def test_unreadable_copy_is_named_and_changes_the_exit_code(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replicas"
    await replicated(tmp_path, "box-a", url, 3)
    into = tmp_path / "copies"
    assert edge_store("fleet", "pull", "--from", url, "--into", str(into)).returncode == 0
    (into / "box-z.db").write_bytes(b"not a database, but long enough to be looked at" * 20)

    asked = edge_store("fleet", "query", "SELECT count(*) AS n FROM results", "--in", str(into))

    assert asked.returncode == 1
    assert json.loads(asked.stdout) == {"n": 3}
    assert "box-z.db" in asked.stderr


async def test_second_pull_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replicas"
    await replicated(tmp_path, "box-a", url, 1)
    into = tmp_path / "copies"
    into.mkdir()
    with (into / ".pull.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = edge_store("fleet", "pull", "--from", url, "--into", str(into))
    assert done.returncode == 75
    assert "another pull" in done.stderr


def test_place_without_boxes_is_an_error(tmp_path: Path) -> None:
    done = edge_store("fleet", "pull", "--from", str(tmp_path), "--into", str(tmp_path / "copies"))
    assert done.returncode == 1
    assert "no box has replicated" in done.stderr


async def test_lost_box_is_restored_by_the_command(tmp_path: Path, url: str) -> None:
    await replicated(tmp_path, "box-a", url, 3)
    copy = tmp_path / "restored.db"

    done = edge_store("replica", "restore", "--from", url, "--to", str(copy))

    assert done.returncode == 0, done.stderr
    assert "3 results of box-a" in done.stdout
    assert len(contents(copy)) == 4
    again = edge_store("replica", "restore", "--from", url, "--to", str(copy))
    assert again.returncode == 1
    assert "is there already" in again.stderr


async def test_status_without_a_daemon_looks_into_the_store(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replicas"
    database = await replicated(tmp_path, "box-a", url, 3)
    config = database.parent / "edge-store.toml"
    config.write_text(f'[server]\nport = 1\n[replica]\nurl = "{url}"\n')

    done = edge_store("replica", "status", "--config", str(config), "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["daemon"], found["device_id"]) == ("not running", "box-a")
    assert found["txid"] > 0
    assert found["written_at"].endswith("Z")


async def test_folder_that_is_no_box_is_passed_over(tmp_path: Path, url: str) -> None:
    await replicated(tmp_path, "box-a", url, 3)
    add_other_folder(tmp_path)
    into = tmp_path / "copies"

    done = edge_store("fleet", "pull", "--from", url, "--into", str(into))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 boxes" in done.stderr


def test_box_that_has_replicated_nothing_yet_is_said(tmp_path: Path) -> None:
    (tmp_path / "replicas" / "box-a" / "results.db").mkdir(parents=True)
    url = f"file://{tmp_path}/replicas"
    done = edge_store("fleet", "pull", "--from", url, "--into", str(tmp_path / "copies"))
    assert done.returncode == 1
    assert "box-a: nothing is replicated there yet" in done.stdout


async def test_command_that_ends_after_a_listing_ends_normally(tmp_path: Path) -> None:
    """The threads of obstore's asynchronous calls aborted one in ten of these (SIGABRT)."""
    empty, existing = tmp_path / "empty", tmp_path / "there.db"
    empty.mkdir()
    existing.touch()
    await replicated(tmp_path, "box-a", f"file://{tmp_path}/replicas", 1)
    restore = ("replica", "restore", "--from", str(tmp_path / "replicas"), "--to", str(existing))
    pull = ("fleet", "pull", "--from", str(empty), "--into", str(tmp_path / "copies"))
    codes = [edge_store(*command).returncode for command in (restore, pull) * 8]
    assert set(codes) == {1}


def pulled(url: str, into: Path) -> subprocess.CompletedProcess[str]:
    return edge_store("fleet", "pull", "--from", url, "--into", str(into))


def count(into: Path) -> Any:
    asked = edge_store("fleet", "query", "SELECT count(*) AS n FROM results", "--in", str(into))
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)["n"]


async def test_box_set_up_anew_keeps_its_history_beside(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    old = contents(await replicated(tmp_path, "box-a", url, 5))
    assert pulled(url, into).returncode == 0
    shutil.rmtree(tmp_path / "box-a")
    shutil.rmtree(tmp_path / "replicas")
    new = contents(await replicated(tmp_path, "box-a", url, 2))

    done = pulled(url, into)

    assert done.returncode == 0, done.stdout
    (kept,) = into.glob("box-a.*.db")
    assert str(kept) in done.stdout
    assert (contents(kept), contents(into / "box-a.db")) == (old, new)
    assert count(into) == 2
    assert pulled(url, into).returncode == 0
    assert list(into.glob("box-a.*.db")) == [kept]


async def test_replica_that_fell_back_leaves_the_newer_copy(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    await replicated(tmp_path, "box-a", url, 2)
    shutil.copytree(tmp_path / "replicas", tmp_path / "earlier")
    await replicated(tmp_path, "box-a", url, 3)
    assert pulled(url, into).returncode == 0
    newer = contents(into / "box-a.db")

    done = pulled(f"file://{tmp_path}/earlier", into)

    assert done.returncode == 1
    assert "failed  replica_behind" in done.stdout
    assert contents(into / "box-a.db") == newer
    assert count(into) == 5


async def test_unreadable_older_copy_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    into.mkdir()
    (into / "box-a.db").write_bytes(b"damaged" * 1000)
    await replicated(tmp_path, "box-a", url, 2)

    done = pulled(url, into)

    assert done.returncode == 0
    (kept,) = into.glob("box-a.*.db*")
    assert kept.name.endswith("Z.db.damaged")
    assert f"the older copy was damaged, and is kept as {kept}" in done.stdout
    assert kept.read_bytes() == b"damaged" * 1000
    assert count(into) == 2


async def test_copies_are_for_their_owner_and_group(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    await replicated(tmp_path, "box-a", url, 1)
    assert pulled(url, into).returncode == 0
    assert into.stat().st_mode & 0o777 == 0o750
    assert (into / "box-a.db").stat().st_mode & 0o777 == 0o640


async def test_folder_of_a_killed_pull_is_removed_by_a_later_one(tmp_path: Path) -> None:
    url, into = f"file://{tmp_path}/replicas", tmp_path / "copies"
    await replicated(tmp_path, "box-a", url, 1)
    killed, other = into / ".box-a.db.restoring", into / ".box-b.db.restoring"
    for folder in (killed / "work", killed / "files", other):
        folder.mkdir(parents=True)
        (folder / "part").touch()
    assert pulled(url, into).returncode == 0
    assert (killed.exists(), other.exists()) == (False, True)


async def test_restore_by_the_command_takes_a_time_with_its_zone(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replicas"
    await replicated(tmp_path, "box-a", url, 2)
    copy = tmp_path / "a copy.db"
    restore = ("replica", "restore", "--from", url, "--to", str(copy), "--at")
    for wrong in ("yesterday", "2026-01-31T08:00:00"):
        done = edge_store(*restore, wrong)
        assert (done.returncode, copy.exists()) == (2, False)
        assert "is not like 2026-01-31, 2026-01-31T08:00Z" in done.stderr
    for wrong in ("2026-02-30", "2026-02-30T08:00:00Z"):
        done = edge_store(*restore, wrong)
        assert (done.returncode, copy.exists()) == (2, False)
        assert "the calendar has no 2026-02-30" in done.stderr
    nowhere = tmp_path / "typo" / "a.db"
    done = edge_store("replica", "restore", "--from", url, "--to", str(nowhere))
    assert (done.returncode, nowhere.parent.exists()) == (1, False)
    assert f"{nowhere.parent} is no folder: nothing was written" in done.stderr
    early = edge_store(*restore, "2020-01-31")
    assert (early.returncode, copy.exists()) == (1, False)
    assert "2020-01-31T00:00:00" in early.stderr
    for number, later in enumerate(("2999-01-01", "2999-01-01T00:00:00+02:00")):
        copy = tmp_path / f"a copy{number}.db"
        done = edge_store("replica", "restore", "--from", url, "--to", str(copy), "--at", later)
        assert done.returncode == 0, done.stderr
    assert f"edge-store query --db '{copy}'" in done.stdout
    assert ("chown edge-store:edge-store" in done.stdout) == (os.geteuid() == 0)


@pytest.mark.parametrize("folder", ["a#b", "a%20b", "a?b"])
def test_path_that_litestream_misreads_is_refused_by_every_command(
    tmp_path: Path, folder: str
) -> None:
    box = tmp_path / folder
    box.mkdir()
    config = box / "edge-store.toml"
    config.write_text(f'[server]\nport = 1\n[replica]\nurl = "file://{tmp_path}/replica"\n')
    for command in (("replica", "status"), ("replica", "restore", "--to", str(tmp_path / "a.db"))):
        done = edge_store(*command, "--config", str(config))
        assert done.returncode == 78
        assert "litestream cannot replicate a path with" in done.stderr
    done = edge_store("doctor", "--config", str(config), "--json")
    (check,) = (check for check in json.loads(done.stdout) if check["name"] == "replica")
    assert check["state"] == "failed"
    assert "litestream cannot replicate a path with" in check["found"]
