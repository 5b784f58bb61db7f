"""The real daemon on a disk that fails: it refuses, loses nothing it acknowledged, and goes on by
itself when the disk does.
"""

import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Box, DaemonProcess, until
from support.load import Load
from support.syscall_faults import ALL, FLUSH, SyscallFaults, built_shim

from edge_store import exits

PATIENCE = {"RECORDER__COMMIT_TIMEOUT_S": "1.0", "RECORDER__BEAT_S": "0.1"}


class FailingBox:
    """A box whose daemon makes its system calls under ``faults``."""

    def __init__(self, folder: Path) -> None:
        self.box = Box.init(folder / "box", **PATIENCE)
        self.faults = SyscallFaults(folder / "control")
        self._environment = self.faults.environment(built_shim(folder), self.box.database)

    def serve(self, **settings: str) -> DaemonProcess:
        more = {f"EDGE_STORE_{k}": v for k, v in settings.items()}
        return DaemonProcess(self.box, {**self.box.environ, **self._environment, **more})


@pytest.fixture
def failing(tmp_path: Path) -> FailingBox:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    return FailingBox(tmp_path)


def is_ready(daemon: DaemonProcess) -> bool:
    return daemon.get("/readyz").status_code == 200


def check_accounts(box: Box, acknowledged: dict[str, str]) -> None:
    """Each admitted request is a result or a loss, and none is both."""
    assert acknowledged.items() <= box.texts().items()
    stored = {row[0] for row in box.rows("SELECT id FROM results")}
    lost = {row[0] for row in box.rows("SELECT id FROM losses")}
    assert not stored & lost
    assert box.scalar("SELECT admitted FROM completeness") == len(stored) + len(lost)
    box.proven()


@pytest.mark.parametrize(
    ("error", "kinds", "code"),
    [
        (errno.EIO, FLUSH, "store_error"),
        (errno.EIO, ALL, "store_error"),
        (errno.EROFS, ALL, "store_error"),
        (errno.ENOSPC, ALL, "disk_full"),
    ],
    ids=["eio_on_fsync", "eio", "read_only", "no_space"],
)
def test_disk_that_fails_for_a_while_costs_answers_but_nothing_acknowledged(
    failing: FailingBox, error: int, kinds: int, code: str
) -> None:
    box, faults = failing.box, failing.faults
    with failing.serve() as daemon:
        with Load(daemon.url, 4) as load:
            load.wait_acknowledged(10)
            faults.arm(1, lasting=True, error=error, kinds=kinds)
            until(lambda: len(load.refused) + len(load.cut) == 4, "every caller was told")
        assert load.broken == []
        ready = daemon.get("/readyz")
        assert ready.status_code == 503
        assert daemon.chat("refused").status_code in (500, 507)
        assert daemon.get("/v1/results?limit=1").status_code == 200, "reading goes on"

        faults.mend()
        until(lambda: is_ready(daemon), "it recovers by itself")
        # a slow machine's COMMIT may take longer than a caller waits here
        until(lambda: daemon.chat("and now?").status_code == 200, "it answers")
        lost = sum(v for k, v in daemon.metrics().items() if k.startswith("edge_store_lost_"))
        until(lambda: box.scalar("SELECT count(*) FROM losses") == lost, "each loss is a row")
        assert daemon.stop() == 0
    check_accounts(box, load.acknowledged)
    codes = {row[0] for row in box.rows("SELECT code FROM losses")}
    assert codes <= {code, "store_error"}
    assert box.scalar("SELECT state FROM completeness") == "ended"


def test_one_failed_flush_costs_no_answer_and_reopens_the_database(failing: FailingBox) -> None:
    box, faults = failing.box, failing.faults
    with failing.serve(RECORDER__COMMIT_TIMEOUT_S="60") as daemon:
        with Load(daemon.url, 4) as load:
            load.wait_acknowledged(10)
            faults.arm(1, lasting=False, kinds=FLUSH)
            daemon.logged("database_reopened")
        # who came while admission was closed was refused, and not admitted
        assert all("x-edge-store-id" not in answer.headers for answer in load.refused)
        assert load.cut == load.broken == []
        assert faults.hits == 1
        until(lambda: is_ready(daemon), "admission is open")
        assert daemon.stop() == 0
    check_accounts(box, load.acknowledged)
    assert box.scalar("SELECT count(*) FROM losses") == 0


def test_disk_that_fails_until_the_stop_does_not_hold_it_up(failing: FailingBox) -> None:
    box, faults = failing.box, failing.faults
    with failing.serve() as daemon:
        with Load(daemon.url, 4) as load:
            load.wait_acknowledged(10)
            faults.arm(1, lasting=True)
            until(lambda: len(load.refused) + len(load.cut) == 4, "every caller was told")
        assert daemon.stop() == 0
    faults.mend()
    with failing.serve(RECORDER__COMMIT_TIMEOUT_S="60") as daemon:
        assert daemon.chat("and now?").status_code == 200
        assert daemon.stop() == 0
    assert load.acknowledged.items() <= box.texts().items()
    box.proven()


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in a file, which goes read-only at an error."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    image.touch()
    with image.open("r+b") as file:
        file.truncate(64 << 20)
    made = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, check=False)
    if made.returncode != 0 or not mount(image, folder):
        pytest.skip("a file system of its own needs mkfs.ext4 and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(image: Path, folder: Path) -> bool:
    command = ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def failures(daemon: DaemonProcess) -> list[str]:
    """Of its COMMITs so far."""
    return [line["code"] for line in daemon.log if line.get("event") == "commit_failed"]


def unmount(folder: Path) -> bool:
    return subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0


def test_file_system_that_turns_read_only_is_refused_and_whole_when_mounted_again(
    ext4: Path,
) -> None:
    """A flush that is under way in that instant ext4 may answer with success and then forget, as at
    a power cut. What is acknowledged by it is counted apart; that it is not there any more is found
    by reading back, and ends the daemon as damage does.
    """
    box = Box.init(ext4 / "box", STORE__DISK_RESERVE_BYTES="0", **PATIENCE)
    with box.serve() as daemon:
        with Load(daemon.url, 4) as load:
            load.wait_acknowledged(10)
            acknowledged = dict(load.acknowledged)
            # what ext4 does when its journal fails: from now on every write is refused
            subprocess.run(["mount", "-o", "remount,abort", str(ext4)], check=True)
            until(lambda: len(load.refused) + len(load.cut + load.broken) == 4, "all were told")
        # the second is of the reading back; what the cache holds at first may hide it for a while
        until(
            lambda: "database_corrupt" in failures(daemon) or len(failures(daemon)) >= 10,
            "it was read back some times",
        )
        if "database_corrupt" in failures(daemon):
            assert daemon.wait() == exits.CORRUPT
        else:
            assert load.broken == []
            assert daemon.get("/readyz").status_code == 503
            assert daemon.chat("refused").status_code == 500
            assert daemon.get("/v1/results?limit=1").status_code == 200, "reading goes on"
            assert daemon.stop() == 0

    until(lambda: unmount(ext4), "nobody holds it")  # a child of the daemon ends after it
    until(lambda: mount(ext4.with_name("image"), ext4), "it is mounted again")
    with box.serve(RECORDER__COMMIT_TIMEOUT_S="60") as daemon:
        assert daemon.chat("and now?").status_code == 200
        assert daemon.stop() == 0
    assert acknowledged.items() <= box.texts().items()
    box.proven()
