"""Restore drills of a running box: what they prove, what they find, and what is done about it."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import obstore
import pytest
from support.daemon import Box, DaemonProcess, until
from support.replicating import contents
from support.s3server import S3Server
from support.unread import require_replicated, require_unread, rot_last_checksum, waited

from edge_store.duty import is_stopped
from edge_store.ids import DeviceId
from edge_store.replica.compare import no_marks
from edge_store.replica.control import Control
from edge_store.replica.proof import Job
from edge_store.replica.proving import prove_aside
from edge_store.sqlite import driver, open_writer

INTERVAL_S = 1.0
FOREIGN_S = 6.0
LOSSES = 3
DELETIONS = 10
DRILLS_S = 240.0  # of a command that waits for those that the daemon has begun by itself
RESULT_ID = "x-edge-store-id"
FOREIGN = """
import os, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("PRAGMA wal_autocheckpoint = 1000")
for number in range(1_000_000):
    value = '"' + number % 10 * "y" + 4000 * "x" + '"'
    connection.execute(
        "INSERT INTO annotations (at, id, kind, value) VALUES (1, ?, 'metadata', ?)",
        (os.urandom(8).hex(), value),
    )
    time.sleep(0.0005)
    if number % 50 == 49:
        gone = "DELETE FROM annotations WHERE annotation_id % 7 = ?"
        connection.execute(gone, (number // 50 % 7,))
"""


def replicated(tmp_path: Path, **settings: str) -> Box:
    url = settings.pop("REPLICA__URL", f"file://{tmp_path}/replica")
    return Box.init(
        tmp_path / "box",
        "--device-id",
        "box-1",
        REPLICA__ENABLED="true",
        REPLICA__URL=url,
        REPLICA__DRILL_INTERVAL_S=settings.pop("REPLICA__DRILL_INTERVAL_S", "0"),
        REPLICA__DRILL_IDLE_S=settings.pop("REPLICA__DRILL_IDLE_S", "0"),  # the machine may be full
        **settings,
    )


def replicated_to(kind: str, tmp_path: Path, s3: S3Server, **settings: str) -> Box:
    """Into a folder, or a bucket."""
    if kind == "folder":
        return replicated(tmp_path, **settings)
    box = replicated(tmp_path, REPLICA__URL=s3.url("fleet"), **settings)
    box.environ.update(s3.environ)
    return box


def has_failed(daemon: DaemonProcess) -> bool:
    """Whether a drill has."""
    return any(line["event"] == "drill_failed" for line in daemon.log)


def require_restorable(box: Box, copy: Path, txid: str) -> None:
    """The replica gives this state, whole, and it is part of what the box holds."""
    done = box.run(
        *("replica", "restore", "--config", str(box.directory), "--txid", txid, "--to", str(copy))
    )
    assert done.returncode == 0, done.stderr
    assert set(contents(copy)) <= set(contents(box.database))


def drill(box: Box, code: int = 0, *, full: bool = False) -> list[dict[str, Any]]:
    """``edge-store replica drill``: its drills, each with its proof."""
    more = ["--full"] if full else []
    done = box.run("replica", "drill", "--config", str(box.directory), "--json", *more)
    assert done.returncode == code, done.stderr
    drills: list[dict[str, Any]] = json.loads(done.stdout)["drills"]
    return drills


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        yield server


def children() -> list[int]:
    """Of this process."""
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def share_of(process_id: int) -> tuple[int, int, int]:
    """Its policy, how nice it is, and how nice its session is."""
    group = Path(f"/proc/{process_id}/autogroup")
    nice = int(group.read_text().split()[-1]) if group.exists() else 19
    return os.sched_getscheduler(process_id), os.getpriority(os.PRIO_PROCESS, process_id), nice


def alarms(daemon: DaemonProcess) -> set[tuple[str, str]]:
    """What was raised or resolved, and which."""
    return {(line["event"], line["alarm"]) for line in daemon.log if "alarm" in line}


def rot(database: Path, value: bytes) -> None:
    """Change it on the disk, below SQLite and Litestream."""
    for path in (database, database.with_name(f"{database.name}-wal")):
        content = path.read_bytes()
        with path.open("r+b") as file:
            at = content.find(value)
            while at >= 0:
                file.seek(at)
                file.write(bytes([value[0] ^ 1]))
                at = content.find(value, at + 1)


def receipt(daemon: DaemonProcess, result_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.get(f"/v1/results/{result_id}/receipt").json()
    return answer


def test_a_drill_proves_what_was_committed_before_it(tmp_path: Path, s3: S3Server) -> None:
    box = replicated(tmp_path, REPLICA__URL=s3.url("fleet"))
    box.environ.update(s3.environ)
    with box.serve() as daemon:
        for n in range(3):
            assert daemon.chat(f"question {n}").status_code == 200
        ((newest,),) = box.rows("SELECT id FROM results ORDER BY seq DESC LIMIT 1")
        assert receipt(daemon, newest)["proven"] is None
        assert daemon.metrics()["edge_store_replica_proven_at"] == 0
        (one,) = drill(box)
        assert one["proof"]["rows"] == 3
        assert one["proof"]["seq_to"] == box.scalar("SELECT max(seq) FROM results")
        proven = receipt(daemon, newest)["proven"]
        assert proven["drill_id"] == one["drill_id"]
        assert proven["txid"] == one["proof"]["txid"]
        assert daemon.metrics()["edge_store_replica_proven_at"] > 0
        known = {"txid": one["proof"]["txid"], "seq": one["proof"]["seq_to"]}
        assert daemon.get("/readyz").json()["replica"]["proven"] == known
        port = daemon.url.rpartition(":")[2]
        told = box.run("replica", "status", "--config", str(box.directory), SERVER__PORT=port)
        assert f"every result up to seq {known['seq']}, by a restore of" in told.stdout
        head = s3.folder / "edge" / "fleet" / "heads" / "box-1.json"

        def told_by_head() -> Any:
            with suppress(FileNotFoundError):  # rclone removes what it is about to write anew
                proven = json.loads(head.read_text())["proven"] or {}
                return proven if "seq" in proven else None
            return None

        assert until(told_by_head, "the head tells of it")["txid"] == known["txid"]
        assert not list(box.directory.glob(".drill*"))
    (later,) = drill(box)  # the daemon is stopped: proven here, and not recorded
    assert later["drill_id"] is None
    assert later["proof"]["rows"] == 3
    assert box.scalar("SELECT count(*) FROM drills") == 1


def test_what_litestream_does_not_see_is_never_told_as_replicated(tmp_path: Path) -> None:
    box = replicated(tmp_path, REPLICA__PROFILE="fast")
    with box.serve() as daemon:
        require_replicated(daemon)
        rot_last_checksum(box.database)
        require_unread(daemon)
        failed = daemon.logged("drill_failed", 120)  # none is scheduled
        assert "it ends at seq" in failed["failure"]
        passed = daemon.logged("drill_passed", 120)
        assert (passed["cause"], passed["kind"]) == ("healed", "full")
        until(lambda: daemon.get("/readyz").json()["replica"]["cause"] is None, "it is healed")
        require_replicated(daemon)


def test_what_another_programs_checkpoint_took_is_never_told_as_replicated(
    tmp_path: Path,
) -> None:
    box = replicated(tmp_path, REPLICA__PROFILE="fast")
    with box.serve() as daemon:
        for _ in range(20):  # so that the next WAL does not reach as far
            assert daemon.chat("hello").status_code == 200
        require_replicated(daemon)
        config = ("--config", str(box.directory))
        assert box.run("replica", "pause", "--for", "1h", *config).returncode == 0
        lost = daemon.chat("x" * 50_000).headers[RESULT_ID]
        with closing(driver.connect(str(box.database), isolation_level=None)) as other:
            busy, frames, moved = other.execute("PRAGMA wal_checkpoint").fetchone()
        assert (busy, frames) == (0, moved)
        assert not waited(daemon, 1)[1]
        assert box.run("replica", "resume", *config).returncode == 0
        require_unread(daemon)
        answer = daemon.post(
            "/v1/chat/completions",
            json={"model": "demo", "messages": [{"role": "user", "content": "hello"}]},
            headers={"x-edge-store-wait": "replicated; timeout=45"},
        )
        assert answer.headers["x-edge-store-not-replicated"] == "unread", "it is not waited for"
        assert receipt(daemon, lost)["replicated"]["state"] != "replicated"
        box.deadline_s = DRILLS_S  # one that the daemon has begun by itself may come before it
        drills = drill(box)  # the first fails, unless Litestream has made a snapshot by then
        assert drills[-1]["proof"]["failure"] is None
        until(lambda: daemon.get("/readyz").json()["replica"]["cause"] is None, "it is healed")
        require_replicated(daemon)
        assert receipt(daemon, lost)["replicated"]["state"] == "replicated"


def test_an_unclean_start_is_followed_by_a_full_drill(tmp_path: Path) -> None:
    box = replicated(tmp_path, REPLICA__DRILL_INTERVAL_S="86400")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        kept = box.directory / ".drill.kept.db"
        for full in (False, True):  # that of the first would do for the second
            assert drill(box, full=full)[0]["proof"]["kind"] == "full"
            assert kept.exists()
        assert daemon.chat("hello").status_code == 200
        daemon.kill()
    with box.serve() as daemon:
        passed = daemon.logged("drill_passed", DRILLS_S)
        assert (passed["cause"], passed["kind"]) == ("unclean_start", "full")
        assert not [line for line in daemon.log if line["event"] == "drill_not_incremental"]
        assert daemon.stop() == 0
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        assert drill(box)[0]["proof"]["kind"] == "incremental"
        assert daemon.stop() == 0
        causes = [line["cause"] for line in daemon.log if line["event"] == "drill_passed"]
        assert causes == ["asked"]
    assert box.rows("SELECT cause, kind, passed FROM drills ORDER BY drill_id") == [
        ("asked", "full", 1),
        ("asked", "full", 1),
        ("unclean_start", "full", 1),
        ("asked", "incremental", 1),
    ]


def test_a_drill_that_is_starved_begins_again_with_a_share(tmp_path: Path) -> None:
    box = replicated(tmp_path, REPLICA__DRILL_IDLE_S="0.05")  # its interpreter takes longer
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        (one,) = drill(box)
        assert one["proof"]["failure"] is None
        assert [line["idle_s"] for line in daemon.log if line["event"] == "drill_starved"] == [0.05]


async def test_a_drill_takes_only_what_others_leave_and_stops_for_requests(tmp_path: Path) -> None:
    job = Job(
        url=f"file://{tmp_path}/nowhere",
        device_id=DeviceId("box-1"),
        database=str(tmp_path / "results.db"),
        marks=no_marks(0),
        reserve_bytes=0,
    )
    proving = asyncio.ensure_future(
        prove_aside(job, lambda _step: None, idle_s=60, is_busy=lambda: True)
    )
    seen, were_stopped = set(), set()
    while not proving.done():
        for process_id in children():
            with suppress(OSError):  # it has just ended
                seen.add(share_of(process_id))
                were_stopped.add(is_stopped(process_id))
        await asyncio.sleep(0.01)
    assert (os.SCHED_IDLE, 19, 19) in seen
    assert were_stopped == {True, False}
    proof = await proving
    assert proof.failure is not None
    assert "there is no such folder" in proof.failure


async def lose_a_commit(box: Box, daemon: DaemonProcess) -> None:
    """What a checkpoint of somebody else's does when it comes at the wrong moment, made certain:
    Litestream has let go, and goes on in a WAL that no longer has the commit.
    """
    config = (box.directory / "litestream" / "litestream.yml").read_text()
    (socket,) = re.findall(r"\S+/litestream\.sock", config)
    control = Control(Path(socket.strip('"')), box.database)
    try:
        await control.stop_database()
        assert daemon.chat("which Litestream does not see").status_code == 200
        with closing(sqlite3.connect(box.database, timeout=60)) as foreign:
            (is_busy, *_) = foreign.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not is_busy
        await control.start_database()
    finally:
        await control.close()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_what_a_foreign_writer_damages_is_caught_by_the_next_drill_and_healed(
    tmp_path: Path, kind: str, s3: S3Server
) -> None:
    """The control: SQLite's own default corrupts a replica, and Litestream reports nothing of it.

    Damage comes by chance; where none did, it is made. Whether it is caught in time is judged from
    what was proven before: the drill that fails is the next one after the last that passed, and
    that one's state can be restored.
    """
    box = replicated_to(kind, tmp_path, s3, REPLICA__DRILL_INTERVAL_S=f"{INTERVAL_S}")
    box.deadline_s = DRILLS_S
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        daemon.logged("drill_passed", DRILLS_S)
        foreign = subprocess.Popen([sys.executable, "-c", FOREIGN, str(box.database)])
        ends_at = time.monotonic() + FOREIGN_S
        try:
            while time.monotonic() < ends_at and not has_failed(daemon):
                assert daemon.chat("beside it").status_code == 200
                time.sleep(0.02)
        finally:
            foreign.kill()
            foreign.wait()
        (last, *_) = drill(box)
        if not has_failed(daemon):
            require_restorable(box, tmp_path / "copy.db", last["proof"]["txid"])
            for _ in range(LOSSES):  # the first may find a WAL that it knows to be another
                asyncio.run(lose_a_commit(box, daemon))
                drill(box)
                if has_failed(daemon):
                    break
            assert has_failed(daemon)
        until(lambda: ("alarm_resolved", "drill_failed") in alarms(daemon), "healed", 120)
        assert ("alarm_raised", "drill_failed") in alarms(daemon)
        drills = box.rows("SELECT passed, cause, txid FROM drills ORDER BY drill_id")
        at = [passed for passed, _, _ in drills].index(0)
        assert drills[at + 1][:2] == (1, "healed")
        later = daemon.chat("after it")
        again = drill(box)[-1]
        proven = receipt(daemon, later.headers[RESULT_ID])["proven"]
        assert proven["drill_id"] >= again["drill_id"]  # by that one, or a scheduled one since
        assert daemon.stop() == 0
    require_restorable(box, tmp_path / "before.db", drills[at - 1][2])
    require_restorable(box, tmp_path / "after.db", again["proof"]["txid"])


def test_lost_files_of_the_replica_are_found_and_healed(tmp_path: Path, s3: S3Server) -> None:
    box = replicated_to("s3", tmp_path, s3)
    store = s3.store()

    def lose() -> None:
        """All but the newest."""
        keys = [each["path"] for chunk in obstore.list(store, "fleet/") for each in chunk]
        files = [key for key in keys if key.endswith(".ltx")]
        newest = max(key for key in files if "/0000/" in key)
        obstore.delete(store, [key for key in files if key != newest])

    with box.serve() as daemon:
        for n in range(2):
            assert daemon.chat(f"question {n}").status_code == 200
            drill(box)  # each is a TXID of its own
        for _ in range(DELETIONS):  # each 30 s Litestream merges files of its own: that mends it
            lose()
            drills = drill(box)
            if len(drills) > 1:
                break
        failed, healed = drills
        assert failed["proof"]["failure"]
        assert healed["cause"] == "healed"
        assert healed["proof"]["failure"] is None
        assert healed["proof"]["rows"] == 2


def test_a_forged_row_is_a_broken_chain_and_not_a_bad_replica(tmp_path: Path) -> None:
    box = replicated(tmp_path)
    with box.serve() as daemon:
        require_replicated(daemon)  # so the first upload has begun with an empty WAL
        began_anew = len([line for line in daemon.log if line["event"] == "wal_emptied"])
        forger = open_writer(box.database)
        forger.execute("UPDATE outputs SET output_text = 'forged'")
        (one,) = drill(box, code=65)
        assert one["proof"]["failure"] is None
        assert "not as it was committed" in one["proof"]["live"]
        assert box.rows("SELECT passed FROM drills") == [(0,)]
        raised = {
            (line["alarm"], line["message"].rpartition(": ")[2])
            for line in daemon.log
            if line["event"] == "alarm_raised"
        }
        assert ("chain_broken", one["proof"]["live"].rpartition(": ")[2]) in raised
        emptied = [line for line in daemon.log if line["event"] == "wal_emptied"]
        assert len(emptied) == began_anew
        forger.close()


def test_a_damaged_live_file_is_not_uploaded_over_its_good_replica(tmp_path: Path) -> None:
    box = replicated(tmp_path)
    with box.serve() as daemon:
        for n in range(3):
            assert daemon.chat(f"question {n}").status_code == 200
        (good,) = drill(box)
        ((digest,),) = box.rows("SELECT digest FROM results WHERE seq = 2")
        replica = tmp_path / "replica"
        before = {path: path.read_bytes() for path in replica.rglob("*.ltx")}
        began_anew = len([line for line in daemon.log if line["event"] == "wal_emptied"])
        rot(box.database, digest)
        (one,) = drill(box, code=65)
        assert one["proof"]["failure"] is None
        assert "seq 2" in one["proof"]["live"]
        assert ("alarm_raised", "chain_broken") in alarms(daemon)
        assert ("alarm_raised", "drill_failed") not in alarms(daemon)
        passed = "SELECT passed, failure LIKE 'the live file is damaged%' FROM drills"
        assert box.rows(passed) == [(1, None), (0, 1)]
        emptied = [line for line in daemon.log if line["event"] == "wal_emptied"]
        assert len(emptied) == began_anew  # nor is the database uploaded anew
        assert all(path.read_bytes() == content for path, content in before.items())
        told = daemon.get("/readyz").json()["replica"]
        assert told["proven"]["txid"] == good["proof"]["txid"]
        assert told["drill_failure"].startswith("the live file is damaged")
        port = daemon.url.rpartition(":")[2]
        status = box.run("replica", "status", "--config", str(box.directory), SERVER__PORT=port)
        assert "the newest one failed, nothing later is proven" in status.stdout
    copy = tmp_path / "copy.db"
    done = box.run(
        *("replica", "restore", "--config", str(box.directory), "--to", str(copy)),
        *("--txid", good["proof"]["txid"]),
    )
    assert done.returncode == 0, done.stderr
    files = sorted(f"{path.parent.name}/{path.name}" for path in replica.rglob("*.ltx"))
    with closing(sqlite3.connect(copy)) as restored:
        found = restored.execute("SELECT count(*) FROM results").fetchone()
    assert found == (3,), (good, done.stdout, files)


def test_a_store_that_is_away_says_nothing_of_the_replica(tmp_path: Path, s3: S3Server) -> None:
    box = replicated(tmp_path, REPLICA__URL=s3.url("fleet"))
    box.environ.update(s3.environ)
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        drill(box)
        assert daemon.stop() == 0
    s3.stop()
    done = box.run("replica", "drill", "--config", str(box.directory), "--json")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["message"] in done.stderr
    assert error["hint"]


def test_a_drill_leaves_the_reserve_of_the_disk_alone(tmp_path: Path) -> None:
    box = replicated(tmp_path)
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        drill(box)
    done = box.run(
        "replica", "drill", "--config", str(box.directory),
        STORE__DISK_RESERVE_BYTES=str(2**60),
    )  # fmt: skip
    assert done.returncode == 1
    assert "store.disk_reserve_bytes" in done.stderr
    assert sqlite3.connect(box.database).execute("SELECT count(*) FROM drills").fetchone() == (1,)


def test_a_drill_while_nothing_is_replicated_says_so_at_once(tmp_path: Path) -> None:
    box = replicated(tmp_path)
    config = ("--config", str(box.directory))
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        assert box.run("replica", "pause", *config, "--for", "10min").returncode == 0
        done = box.run("replica", "drill", *config)
    assert done.returncode == 1
    assert "nothing is replicated now" in done.stderr
    assert "edge-store replica status" in done.stderr
