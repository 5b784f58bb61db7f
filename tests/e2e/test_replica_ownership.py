"""A replica's path has one owner: who is not it serves on, replicates nothing and says so."""

import json
from pathlib import Path

from support.daemon import Box, until


def of_device(tmp_path: Path, name: str) -> Box:
    return Box.init(
        tmp_path / name,
        "--device-id",
        "box-1",
        REPLICA__ENABLED="true",
        REPLICA__URL=f"file://{tmp_path}/replica",
    )


def test_a_second_box_on_a_path_serves_and_does_not_replicate(tmp_path: Path) -> None:
    first, second = of_device(tmp_path, "first"), of_device(tmp_path, "second")
    with first.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        owner = json.loads((tmp_path / "replica" / "box-1" / "owner.json").read_text())
        assert owner["boot_id"] == daemon.get("/readyz").json()["boot_id"]
        with second.serve() as other:
            assert other.chat("hello").status_code == 200
            replica = other.get("/readyz").json()["replica"]
            assert (replica["state"], replica["cause"]) == ("broken", "taken")
            assert owner["boot_id"] in replica["error"]
    with first.serve() as again:
        until(
            lambda: again.get("/readyz").json()["replica"]["state"] == "ok",
            "its own next boot goes on",
        )


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
