"""A replica's path has one owner: who is not it serves on, replicates nothing and says so."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import (
    DEADLINE_S,
    EDGE_STORE,
    Box,
    DaemonProcess,
    environment,
    until,
)
from support.motoserver import MotoServer
from support.processes import standing_still
from support.replicating import contents
from support.s3server import BUCKET, S3Server


def settings(url: str, **more: str) -> dict[str, str]:
    return {
        "REPLICA__ENABLED": "true",
        "REPLICA__URL": url,
        "REPLICA__OWNER_CHECK_S": "1",
        "REPLICA__MONITOR_INTERVAL_S": "0.2",
        "REPLICA__DRILL_IDLE_S": "0",  # the machine may be full
        **more,
    }


def of_device(tmp_path: Path, name: str) -> Box:
    return Box.init(
        tmp_path / name, "--device-id", "box-1", **settings(f"file://{tmp_path}/replica")
    )


def clone(daemon: DaemonProcess, name: str) -> Box:
    """As a machine is copied: at one moment, and with its folder of Litestream's."""
    box = daemon.box
    folder = box.directory.with_name(name)
    ignored = shutil.ignore_patterns("*.sock", "edge-store.lock")
    with standing_still(daemon.process_id):
        shutil.copytree(box.directory, folder, ignore=ignored)
    copy = Box(folder)
    copy.environ = box.environ
    return copy


def take_away(folder: Path) -> None:
    """All of it at once, under the hands of whoever writes into it."""
    folder.rename(folder.with_name(f"{folder.name}.gone"))


def replica(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/readyz").json()["replica"]
    return found


DIES_AS_IT_RESTORES = """
import os, signal
from edge_store.replica import restore
restore.restore = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
from edge_store.cli import main
main()
"""
LOOKS_S = 120.0  # the owner of a path is asked every 30 s only


def until_replicated(daemon: DaemonProcess) -> None:
    """What was committed until now is in the replica."""

    def is_in() -> bool:
        found = replica(daemon)
        newest = daemon.box.scalar("SELECT coalesce(max(seq), 0) FROM results")
        confirmed = found["confirmed"]
        return bool(found["state"] == "ok" and confirmed and confirmed["seq"] >= newest)

    until(is_in, "all of it is in the replica", LOOKS_S)


def until_cause(daemon: DaemonProcess, cause: str) -> str:
    """The error that is told with it."""

    def told() -> dict[str, Any] | None:
        found = replica(daemon)
        return found if found["cause"] == cause else None

    return str(until(told, f"it is {cause}", LOOKS_S)["error"])


def owner(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "replica/box-1/owner.json").read_text())
    return found


def restored(box: Box, name: str, *options: str) -> Path:
    to = box.directory.with_name(name)
    done = box.run("replica", "restore", "--to", str(to), "--config", str(box.directory), *options)
    assert done.returncode == 0, done.stderr
    return to


def prompts(path: Path) -> int:
    return len([row for row in contents(path) if len(row) == 3])


def test_a_second_box_on_a_path_serves_and_does_not_replicate(tmp_path: Path) -> None:
    first, second = of_device(tmp_path, "first"), of_device(tmp_path, "second")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        assert daemon.logged("wal_emptied")["level"] == "info", "there was nothing to upload anew"
        mine = owner(tmp_path)
        assert mine["boot_id"] == daemon.get("/readyz").json()["boot_id"]
        with second.serve() as other:
            assert other.chat("hello").status_code == 200
            assert "which this database knows nothing of" in until_cause(other, "taken")
    with first.serve() as again:
        until_replicated(again)


def test_a_clone_of_a_running_box_is_answered_and_does_not_replicate(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        second = clone(daemon, "second")
        with second.serve() as other:
            assert "a clone of the other" in until_cause(other, "taken")
            assert other.chat("only there").status_code == 200
            assert daemon.chat("hello again").status_code == 200
            until_replicated(daemon)
            assert daemon.logged("replica_path_asked_for")
    assert contents(restored(first, "back.db")) == contents(first.database)


def test_a_clone_that_was_first_keeps_the_path(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        second = clone(daemon, "second")
        daemon.kill()
    with second.serve() as other:  # nobody answers it
        assert other.chat("there").status_code == 200
        until_replicated(other)
        with first.serve() as again:
            assert again.chat("here").status_code == 200
            assert "an earlier state or a clone" in until_cause(again, "taken")
    assert contents(restored(second, "back.db")) == contents(second.database)


def test_a_box_set_up_anew_writes_nothing_over_its_former_history(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
    for gone in ("", "owner.json"):
        if gone:
            (tmp_path / "replica/box-1" / gone).unlink()
        before = sorted(tmp_path.joinpath("replica").rglob("*.ltx"))
        anew = of_device(tmp_path, f"anew{gone}")
        with anew.serve() as daemon:
            assert daemon.chat("as if nothing were").status_code == 200
            error = until_cause(daemon, "taken")
            assert "which this database knows nothing of" in error
        assert sorted(tmp_path.joinpath("replica").rglob("*.ltx")) == before


def test_a_box_restored_to_the_newest_state_goes_on(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        daemon.kill()
    back = restored(first, "back.db")
    for name in ("results.db", "results.db-wal", "results.db-shm"):
        (first.directory / name).unlink(missing_ok=True)
    back.rename(first.database)  # the folder `litestream` was forgotten
    with first.serve() as daemon:
        assert daemon.chat("hello again").status_code == 200
        until_replicated(daemon)
    assert contents(restored(first, "again.db")) == contents(first.database)


def test_a_box_set_back_goes_on_once_its_former_writer_is_silent(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("before").status_code == 200
        until_replicated(daemon)
    early = restored(first, "early.db")
    with first.serve() as daemon:
        assert daemon.chat("after").status_code == 200
        until_replicated(daemon)
        future = contents(first.database)
        head = tmp_path / "replica/heads/box-1.json"
        until(lambda: head.exists() and json.loads(head.read_text())["rows"] == 2, "head")
    last_txid = max(p.stem[-16:] for p in (tmp_path / "replica").rglob("*.ltx"))
    for name in ("results.db", "results.db-wal", "results.db-shm"):
        (first.directory / name).unlink(missing_ok=True)
    early.rename(first.database)
    with first.serve() as daemon:
        assert daemon.chat("another future").status_code == 200
        until(lambda: "has been silent" in (replica(daemon)["error"] or ""), "it waits")
        long_ago = time.time() - 1000
        os.utime(head, (long_ago, long_ago))
        until_replicated(daemon)
    assert contents(restored(first, "now.db")) == contents(first.database)
    assert contents(lost_future(first, tmp_path, last_txid)) == future


def lost_future(box: Box, tmp_path: Path, txid: str) -> Path:
    """The state of a TXID, by Litestream itself."""
    to = tmp_path / "future.db"
    program = Path(sys.executable).with_name("litestream")
    url = f"file://{tmp_path}/replica/box-1/results.db"
    subprocess.run(
        [program, "restore", "-txid", txid, "-integrity-check", "full", "-o", to, url],
        check=True,
        capture_output=True,
    )
    return to


def test_a_file_swapped_underneath_is_not_replicated(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        other = of_device(tmp_path, "other")
        other.database.replace(first.database)
        assert daemon.wait() == 66
        assert daemon.logged("litestream_stopped")["is_replicated"] is False
    assert prompts(restored(first, "back.db")) == 1


def test_a_bucket_emptied_under_way_is_filled_anew(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        take_away(tmp_path / "replica")
        assert daemon.chat("hello again").status_code == 200
        daemon.logged("replica_begun_anew")
        until_replicated(daemon)
        assert owner(tmp_path)["boot_id"] == daemon.get("/readyz").json()["boot_id"]
        assert contents(restored(first, "back.db")) == contents(first.database)
        passed = daemon.logged("drill_passed", 120)  # long before the first that is scheduled
        assert (passed["cause"], passed["kind"]) == ("healed", "full")


def test_a_bucket_deleted_under_way_is_told_of_and_filled_anew_once_it_is_back(
    tmp_path: Path,
) -> None:
    with MotoServer() as moto:
        box = Box.init(tmp_path / "box", "--device-id", "box-1", **settings(moto.url("fleet")))
        box.environ.update(moto.environ)
        with box.serve() as daemon:
            assert daemon.chat("hello").status_code == 200
            until_replicated(daemon)
            reset = httpx.post(f"{moto.endpoint}/moto-api/reset", timeout=DEADLINE_S)
            assert reset.status_code == 200
            assert daemon.chat("hello again").status_code == 200
            assert "bucket" in until_cause(daemon, "unreachable")
            until(lambda: replica(daemon)["state"] == "offline", "it is offline")
            made = httpx.put(f"{moto.endpoint}/{BUCKET}", timeout=DEADLINE_S)
            assert made.status_code == 200
            until_replicated(daemon)
            assert contents(restored(box, "back.db")) == contents(box.database)


def test_what_is_left_of_its_own_replica_without_a_name_is_not_somebodys(tmp_path: Path) -> None:
    """As where Litestream has sent all of it into an emptied bucket before the daemon looked."""
    box = of_device(tmp_path, "box")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        until(lambda: list((tmp_path / "replica").rglob("*head*")), "a head")
        with standing_still(daemon.process_id):  # else it may look when one of them is gone
            for path in (tmp_path / "replica").rglob("*.json"):
                path.unlink()
        daemon.logged("replica_begun_anew")
        until_replicated(daemon)
        assert contents(restored(box, "back.db")) == contents(box.database)


def test_a_store_that_does_not_say_whose_the_path_is_is_not_ok(tmp_path: Path) -> None:
    """rclone makes a bucket anew that is gone, and goes on to promise the owner that was in it."""
    with S3Server(tmp_path / "s3") as s3:
        box = Box.init(tmp_path / "box", "--device-id", "box-1", **settings(s3.url("fleet")))
        box.environ.update(s3.environ)
        with box.serve() as daemon:
            assert daemon.chat("hello").status_code == 200
            until_replicated(daemon)
            take_away(s3.folder / BUCKET)
            assert daemon.chat("hello again").status_code == 200
            assert "cannot be reached" in until_cause(daemon, "unreachable")


def test_what_another_wrote_beside_the_owner_is_uploaded_over(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        before = len([line for line in daemon.log if line.get("event") == "wal_emptied"])
        asked = tmp_path / "asked.json"
        with standing_still(daemon.process_id):  # which may write its own there
            said = owner(tmp_path) | {"asked_by": {"boot_id": "b", "host": "other", "wrote": True}}
            asked.write_text(json.dumps(said))
            asked.rename(tmp_path / "replica/box-1/owner.json")
        daemon.logged("replica_begun_anew")
        assert daemon.logged("wal_emptied", number=before + 1)["level"] == "warning"
        until_replicated(daemon)
        assert contents(restored(first, "back.db")) == contents(first.database)


@pytest.fixture(params=["file", "rclone", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "file":
        yield settings(f"file://{tmp_path}/replica")
        return
    server = S3Server(tmp_path / "s3") if request.param == "rclone" else MotoServer()
    with server:
        yield {**settings(server.url("fleet")), **server.environ}


def test_of_two_boxes_that_start_at_once_one_replicates(
    tmp_path: Path, place: dict[str, str]
) -> None:
    keys = {name: place.pop(name) for name in list(place) if name.startswith("AWS_")}
    boxes = [Box.init(tmp_path / name, "--device-id", "box-1", **place) for name in ("one", "two")]
    for box in boxes:
        box.environ |= keys
    one, two = boxes[0].serve(), boxes[1].serve()
    with ExitStack() as stack:
        with ThreadPoolExecutor() as threads:
            for entered in [threads.submit(stack.enter_context, each) for each in (one, two)]:
                entered.result()

        def winner_of() -> DaemonProcess | None:
            states = [replica(daemon)["state"] for daemon in (one, two)]
            if sorted(states) != ["broken", "ok"]:
                return None
            return (one, two)[states.index("ok")]

        winner = until(winner_of, "one replicates", LOOKS_S)
        assert one.chat("here").status_code == two.chat("there").status_code == 200
        until_replicated(winner)
        until(lambda: winner_of() is winner, "the other does not", LOOKS_S)
        assert contents(restored(winner.box, "back.db")) == contents(winner.box.database)


def test_a_box_set_up_anew_takes_the_path_over_when_it_is_told_to(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
    anew = of_device(tmp_path, "anew")
    arguments = ("replica", "take-over", "--config", str(anew.directory))
    refused = anew.run(*arguments, "--yes")
    assert refused.returncode == 1
    assert "start it first" in refused.stderr
    with anew.serve() as daemon:
        assert daemon.chat("another history").status_code == 200
        until_cause(daemon, "taken")
        done = anew.run(*arguments, "--yes")
        assert done.returncode == 0, done.stderr
        assert owner(tmp_path)["boot_id"] == daemon.get("/readyz").json()["boot_id"]
        until_replicated(daemon)
        assert "already" in anew.run(*arguments, "--yes").stdout
    assert contents(restored(anew, "now.db")) == contents(anew.database)


def test_a_path_taken_away_and_back_holds_the_history_of_who_has_it(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        second = clone(daemon, "second")
        with second.serve() as other:
            for taker, loser in ((other, daemon), (daemon, other)):
                assert taker.chat("mine").status_code == 200
                place = str(taker.box.directory)
                done = taker.box.run("replica", "take-over", "--config", place, "--yes")
                assert done.returncode == 0, done.stderr
                until_cause(loser, "taken")
                assert loser.chat("not replicated").status_code == 200
                until_replicated(taker)
                back = restored(taker.box, f"{taker.box.directory.name}.db")
                assert contents(back) == contents(taker.box.database)


def test_a_new_machine_goes_on_in_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    first = of_device(tmp_path, "first")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until_replicated(daemon)
        daemon.kill()
    url = f"file://{tmp_path}/replica"
    options = ("--engine", "demo", "--from-replica", url)
    unfinished = tmp_path / "new" / "edge-store.toml.unfinished"
    cut_short = subprocess.run(
        [sys.executable, "-c", DIES_AS_IT_RESTORES, "init", str(tmp_path / "new"), *options],
        env=environment(),
        check=False,
    )
    assert cut_short.returncode == -signal.SIGKILL
    assert unfinished.exists()
    shorter = [*EDGE_STORE, "init", str(tmp_path / "new"), "--engine", "demo"]
    refused = subprocess.run(shorter, env=environment(), capture_output=True, check=False)
    assert (refused.returncode, b"was cut short there" in refused.stderr) == (78, True)
    new = Box.init(tmp_path / "new", *options, **settings(url))
    assert prompts(new.database) == 1
    with new.serve() as daemon:
        assert daemon.get("/readyz").json()["device_id"] == "box-1"
        assert daemon.chat("hello again").status_code == 200
        until_replicated(daemon)
        assert new.scalar("SELECT count(*) FROM boots WHERE event = 'start'") == 2
    assert contents(restored(new, "now.db")) == contents(new.database)


def test_the_head_tells_how_far_the_replica_is(tmp_path: Path) -> None:
    box = of_device(tmp_path, "first")
    with box.serve() as daemon:
        for n in range(3):
            assert daemon.chat(f"question {n}").status_code == 200
        head = tmp_path / "replica" / "heads" / "box-1.json"
        until(
            lambda: head.exists() and json.loads(head.read_text())["rows"] == 3,
            "the head has all of it",
        )
        found = json.loads(head.read_text())
        replica = daemon.get("/readyz").json()["replica"]
        assert found["txid"] <= replica["replicated_txid"]
        assert found["seq"] == box.scalar("SELECT max(seq) FROM results")
