"""A file system that is really full: 507 until there is room, and nothing acknowledged is lost."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.daemon import Box, DaemonProcess, until
from support.disks import small_disk_at
from support.load import Load

PROMPT = "x" * 40_000
BALLAST_BYTES = 1 << 20
TOO_LARGE = "y" * (4 << 20)  # more than the whole disk: no room of an earlier COMMIT can hold it


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, a quarter of it taken by a file ``ballast``."""
    with small_disk_at(tmp_path / "disk", "4m") as folder:
        (folder / "ballast").write_bytes(bytes(BALLAST_BYTES))
        yield folder


def fill(daemon: DaemonProcess) -> dict[str, str]:
    """Chat until the disk is full. Returns what was acknowledged. A stream whose COMMIT failed is
    cut: it had begun with 200, and got no end.
    """
    with Load(daemon.url, 4, PROMPT) as load:
        until(lambda: len(load.refused) + len(load.cut) == 4, "every caller was refused")
    assert load.broken == []
    for answer in load.refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert int(answer.headers["retry-after"]) > 0
    return load.acknowledged


@pytest.mark.parametrize("reserve_bytes", [0, 512 << 10])
def test_full_disk_refuses_loses_nothing_and_recovers(small_disk: Path, reserve_bytes: int) -> None:
    box = Box.init(small_disk / "box", STORE__DISK_RESERVE_BYTES=str(reserve_bytes))
    with box.serve() as daemon:
        acknowledged = fill(daemon)
        assert acknowledged.items() <= box.texts().items()
        refused = daemon.chat(TOO_LARGE)
        assert (refused.status_code, refused.headers["retry-after"]) == (507, "30")
        if reserve_bytes:  # without one, a mark that still fits opens admission for a moment
            assert refused.headers.get("x-edge-store-durability") is None  # it was not admitted
            ready = daemon.get("/readyz")
            assert (ready.status_code, ready.json()["admission"]["code"]) == (503, "disk_full")
        assert daemon.get("/v1/results?limit=1").status_code == 200  # reading goes on

        (small_disk / "ballast").unlink()
        until(lambda: daemon.chat("and now?").status_code == 200, "it recovers by itself")
        assert daemon.get("/readyz").status_code == 200
        assert daemon.stop() == 0
    assert acknowledged.items() <= box.texts().items()
    assert box.scalar("SELECT state FROM completeness") == "ended"
    box.proven()


def test_daemon_stops_and_starts_on_a_full_disk(small_disk: Path) -> None:
    box = Box.init(small_disk / "box", STORE__DISK_RESERVE_BYTES="0")
    with box.serve(STORE__WAL_BYTES_MAX="1048576") as daemon:
        acknowledged = fill(daemon)
        # The WAL is over its bound, and there is no room to move it into the database.
        daemon.logged("checkpoint_failed")
        with suppress(OSError), (small_disk / "crumbs").open("wb", buffering=0) as crumbs:
            while True:  # until the disk has no page left
                crumbs.write(bytes(4096))
        assert daemon.chat(TOO_LARGE).status_code == 507
        assert daemon.stop() == 0
    # Whether its first row fits is SQLite's luck; that it starts, or says why not, is not.
    daemon = box.serve()
    daemon.start()
    try:
        until(
            lambda: (
                daemon.exit_code is not None
                or any(line.get("event") == "http_listening" for line in daemon.log)
            ),
            "it has started or ended",
        )
        refuses = daemon.exit_code is not None
        assert daemon.stop() == (1 if refuses else 0)
        assert any("full" in line for line in daemon.raw) is refuses
    finally:
        daemon.__exit__(None, None, None)

    (small_disk / "ballast").unlink()
    with box.serve() as daemon:
        assert daemon.chat("and now?").status_code == 200
        assert daemon.stop() == 0
    assert acknowledged.items() <= box.texts().items()
    box.proven()
