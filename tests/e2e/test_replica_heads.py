"""Heads over a real Litestream: written at the stop, believed after it, judged from elsewhere."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Box, DaemonProcess, until


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(
        tmp_path / "box",
        "--device-id",
        "box-1",
        REPLICA__ENABLED="true",
        REPLICA__URL=f"file://{tmp_path}/replica",
        REPLICA__STOP_TIMEOUT_S="50",
    )


def head_path(box: Box) -> Path:
    return box.directory.parent / "replica" / "heads" / "box-1.json"


def head_of(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(head_path(box).read_text())
    return found


def replicated(daemon: DaemonProcess, result_id: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get(f"/v1/results/{result_id}/receipt").json()["replicated"]
    return found


def fleet(box: Box, *options: str) -> tuple[int, list[dict[str, Any]]]:
    done = box.run("fleet", *options, "--nl")
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_receipt_right_after_a_restart_knows_what_was_replicated_before(box: Box) -> None:
    with box.serve() as daemon:
        ids = [daemon.chat(f"question {n}").json()["id"] for n in range(3)]
        assert daemon.stop() == 0
    head = head_of(box)
    assert (head["seq"], head["rows"]) == (3, 3), "written after the last sync"
    with box.serve(REPLICA__MONITOR_INTERVAL_S="3600") as daemon:
        first = until(
            lambda: daemon.get("/readyz").json()["replica"]["confirmed"], "its path is claimed"
        )
        found = replicated(daemon, ids[-1])
        assert found["state"] == "replicated"
        assert first["seq"] == 3
        daemon.kill()
    head_path(box).write_text(json.dumps({**head, "timeline": "another", "seq": 3}))
    with box.serve() as daemon:
        until(lambda: head_of(box)["timeline"] == head["timeline"], "it is written anew")
        daemon.kill()


def test_a_centre_tells_idle_late_dead_and_tampered_boxes_apart(box: Box) -> None:
    replica, copies = f"file://{box.directory.parent}/replica", box.directory.parent / "copies"
    asked = ("heads", "--from", replica)
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        until(lambda: head_path(box).exists() and head_of(box)["rows"] == 1, "the head")
        code, (found,) = fleet(box, *asked)
        assert (code, found["state"], found["rows"]) == (0, "alive", 1)

        def stays() -> bool:
            written = head_path(box).stat().st_mtime_ns
            time.sleep(2.5)  # two looks of the teller
            return head_path(box).stat().st_mtime_ns == written

        until(stays, "an idle box puts nothing")
        content = head_path(box).read_bytes()
        assert daemon.stop() == 0
    assert content != head_path(box).read_bytes(), "the boot's end moved the replica"
    assert box.run("fleet", "pull", "--from", replica, "--into", str(copies)).returncode == 0
    beside = (*asked, "--in", str(copies))
    assert fleet(box, *beside)[1][0]["state"] == "idle"
    for hours, state in ((1, "late"), (48, "dead")):
        then = time.time() - hours * 3600
        os.utime(head_path(box), (then, then))
        code, (found,) = fleet(box, *beside)
        assert (code, found["state"]) == (int(state == "dead"), state)
    head_path(box).write_text(json.dumps({**head_of(box), "digest": "11" * 32}))
    code, (found,) = fleet(box, *beside)
    assert (code, found["state"]) == (1, "tampered")
    head_path(box).write_text("no head")
    code, (found,) = fleet(box, *beside)
    assert (code, found["state"], found["seq"]) == (1, "unreadable", None)
