"""Retention of a running box: into an object store, beside requests, over a kill, and forgotten."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Box, DaemonProcess, rows, until
from support.retaining import Box as Results
from support.s3server import S3Server

SECOND = str(1 / 86400)


@pytest.fixture
def s3(tmp_path: Path) -> Any:
    with S3Server(tmp_path / "s3") as server:
        yield server


def ids_of(daemon: DaemonProcess, count: int, user: str) -> list[str]:
    return [
        str(daemon.chat(f"{user} {n}", user=user).headers["x-edge-store-id"]) for n in range(count)
    ]


def run(box: Box, *arguments: str) -> str:
    done = box.run(*arguments, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_results_move_to_the_store_and_are_forgotten_there(s3: S3Server, tmp_path: Path) -> None:
    box = Box.init(
        tmp_path / "box",
        RETENTION__KEEP_DAYS=SECOND,
        RETENTION__INTERVAL_S="1",
        RETENTION__ARCHIVE=s3.url("archive"),
    )
    box.environ.update(s3.environ)
    with box.serve() as daemon:
        mine, others = ids_of(daemon, 5, "ada"), ids_of(daemon, 5, "bob")
        run(box, "retention", "hold", "add", "one", "--user", "nobody")
        assert box.run("retention", "hold", "add", "two").returncode == 2
        until(lambda: not box.scalar("SELECT count(*) FROM results"), "all is archived", 240)
        receipt = daemon.get(f"/v1/results/{mine[0]}/receipt").json()
        assert receipt["state"] == "archived"
        assert box.scalar("SELECT archived FROM completeness") == 10
        asked = run(box, "archive", "query", "select id from generations order by seq", "--nl")
        assert [json.loads(line)["id"] for line in asked.splitlines()] == mine + others
        both = run(box, "query", "select count(*) as n from generations", "--with-archive", "--nl")
        assert json.loads(both) == {"n": 10}
        daemon.chat("live, or archived by now", user="cy")
        narrowed = ("--with-archive", "--since", "1h", "--model", "demo", "--status", "completed")
        asked = run(box, "query", "select count(*) as n from generations", *narrowed, "--nl")
        assert json.loads(asked) == {"n": 11}
        none = run(box, "query", "select seq from outputs", "--with-archive", "--model", "x")
        assert none == ""
        until(lambda: box.scalar("SELECT archived FROM completeness") == 11, "that, too", 240)
        ended = "SELECT count(*) FROM archives WHERE emptied_at IS NULL"
        until(lambda: not box.scalar(ended), "the pass is over", 240)
        said = json.loads(run(box, "forget", "--user", "ada", "--yes"))
        assert (said["results"], said["archived"]) == (0, 5)
        assert said["remains"]["archive"].startswith("nothing")
        assert daemon.get(f"/v1/results/{mine[0]}/receipt").json()["state"] == "deleted"
        assert "as they were committed" in run(box, "archive", "verify")
        assert not [path for path in s3.folder.rglob("*.parquet") if b"ada 1" in path.read_bytes()]
        s3.stop()
        ids_of(daemon, 1, "eve")
        daemon.logged("alarm_raised", 240)
        assert box.scalar("SELECT count(*) FROM results") == 1
        s3.start()
        until(lambda: not box.scalar("SELECT count(*) FROM results"), "the store is back", 240)
        daemon.logged("alarm_resolved")
    run(box, "archive", "restore", "--to", str(tmp_path / "old.db"))
    restored = {name for (name,) in rows(tmp_path / "old.db", "SELECT id FROM results")}
    assert len(restored) == 7
    assert set(others) < restored
    box.proven()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compacted_file_is_replicated_and_proven(tmp_path: Path) -> None:
    box = Box.init(
        tmp_path / "box", REPLICA__ENABLED="true", REPLICA__URL=f"file://{tmp_path}/replica",
        REPLICA__DRILL_IDLE_S="0", REPLICA__DRILL_INTERVAL_S="0", RETENTION__KEEP_DAYS=SECOND,
        RETENTION__INTERVAL_S="1",
    )  # fmt: skip
    with box.serve() as daemon:
        ids_of(daemon, 120, "ada")
        until(lambda: not box.scalar("SELECT count(*) FROM results"), "replicated, and gone", 240)
        assert daemon.stop() == 0
    given = json.loads(run(box, "retention", "compact", "--yes"))
    assert given["given_back_bytes"] > 50_000
    box.environ["EDGE_STORE_RETENTION__KEEP_DAYS"] = "0"
    with box.serve() as daemon:
        ids_of(daemon, 5, "bob")
        run(box, "replica", "drill", "--full")
    box.proven()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pass_by_hand_that_succeeds_ends_the_alarm_at_once(tmp_path: Path) -> None:
    in_the_way = tmp_path / "disk"
    in_the_way.write_bytes(b"")  # no folder, as where a disk is to be mounted
    box = Box.init(
        tmp_path / "box", RETENTION__KEEP_DAYS=SECOND,
        RETENTION__ARCHIVE=str(in_the_way / "archive"),
    )  # fmt: skip
    with box.serve() as daemon:
        ids_of(daemon, 3, "ada")
        daemon.logged("alarm_raised", 240)
        assert box.run("retention", "apply", "--yes", "--config", str(box.directory)).returncode
        in_the_way.unlink()
        assert json.loads(run(box, "retention", "apply", "--yes"))["results"] == 3
        daemon.logged("alarm_resolved")  # by itself it would pass again after an hour


STARVED = """
import itertools
from edge_store.archive import aside
from edge_store.cli import main

aside.STARVED_S = 0.0
waited_s = itertools.count(0, 1000)
aside._delayed_s = lambda process_id: float(next(waited_s))  # the machine has other work
main()
"""


def test_what_a_pass_by_hand_says_is_json_where_its_archive_starves(tmp_path: Path) -> None:
    results = Results(tmp_path, [9.0] * 3)
    results.close()
    (tmp_path / "edge-store.toml").touch()
    box = Box(
        tmp_path, STORE__PATH=str(results.path), RETENTION__KEEP_DAYS="5",
        RETENTION__ARCHIVE=str(results.archive),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STARVED, "retention", "apply", "--yes", "--config", str(tmp_path)],
        env=box.environ, capture_output=True, text=True, timeout=box.deadline_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] == 3
    assert "archive_starved" in done.stderr
