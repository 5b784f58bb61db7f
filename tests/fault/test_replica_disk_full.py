"""The disk on which the replica lies is full: that is said, requests are served, and it goes on by
itself once there is room.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from support.daemon import Box, DaemonProcess, until
from support.disks import small_disk_at

PAGE = bytes(4096)


def fill(disk: Path) -> Path:
    """To the last byte."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(PAGE)
    return filler


def box_of(tmp_path: Path, disk: Path) -> Box:
    settings = {"REPLICA__ENABLED": "true", "REPLICA__URL": f"file://{disk}/replica"}
    return Box.init(tmp_path / "box", **settings)


def replica(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/readyz").json()["replica"]
    return found


def test_full_disk_of_the_replica_is_called_that_and_gone_on_from(tmp_path: Path) -> None:
    with small_disk_at(tmp_path / "disk", "16m") as disk:
        box = box_of(tmp_path, disk)
        with box.serve() as daemon:
            assert daemon.chat("first").status_code == 200
            until(lambda: replica(daemon)["confirmed"], "it is replicated")
            filler = fill(disk)
            assert daemon.chat("second").status_code == 200
            until(lambda: replica(daemon)["cause"] == "full", "it is said")
            assert replica(daemon)["state"] == "stalled"
            config = ("--config", str(box.directory))
            port = daemon.url.rpartition(":")[2]
            told = box.run("replica", "status", *config, SERVER__PORT=port).stdout
            assert "the disk, or store, that the error names is full" in told
            assert f"{disk}/replica" in told
            assert "no space left on device" in told
            filler.unlink()
            until(lambda: replica(daemon)["state"] == "ok", "it goes on", 120)


def test_start_on_a_full_disk_of_the_replica_says_so_too(tmp_path: Path) -> None:
    """Nor can the path be claimed there."""
    with small_disk_at(tmp_path / "disk", "1m") as disk:
        box = box_of(tmp_path, disk)
        filler = fill(disk)
        with box.serve(REPLICA__OWNER_CHECK_S="1") as daemon:
            assert daemon.chat("served").status_code == 200
            until(lambda: replica(daemon)["cause"] == "full", "it is said")
            assert replica(daemon)["error"].endswith("its disk is full")
            filler.unlink()
            until(lambda: replica(daemon)["state"] == "ok", "it goes on", 120)
