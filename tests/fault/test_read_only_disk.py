"""A disk that only reads, as a kernel makes of one that fails, and one that is full: it is said
what failed and what to do next, and the advice holds.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Box
from support.disks import small_disk_at

ROOM = "4m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk_at(tmp_path / "disk", ROOM) as folder:
        yield folder


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def test_results_of_a_read_only_disk_are_read_from_a_copy(disk: Path, tmp_path: Path) -> None:
    box = Box.init(disk / "box", STORE__DISK_RESERVE_BYTES="0")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        daemon.kill()
    box.database.with_name("results.db-shm").unlink()
    make_read_only(disk)
    served = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert served.returncode == 1
    assert "edge-store.lock cannot be written: Read-only file system\n" in served.stderr
    assert "Traceback" not in served.stderr
    assert "see `dmesg`" in served.stderr
    asked = box.run("query", "select count(*) as n from results", "--config", str(box.directory))
    assert asked.returncode == 1
    assert "copy results.db and, if it is there, results.db-wal into another folder" in asked.stderr
    rescued = tmp_path / "rescued"
    rescued.mkdir()
    for name in ("results.db", "results.db-wal"):
        shutil.copy(box.database.with_name(name), rescued)
    found = box.run("query", "select count(*) as n from results", "--db", f"{rescued}/results.db")
    assert (found.returncode, found.stdout) == (0, '{"n":1}\n')
    made = box.run("init", str(disk / "other"), "--engine", "demo")
    assert made.returncode == 1
    assert f"edge-store: {disk / 'other'} cannot be written: Read-only file" in made.stderr


def test_full_disk_leaves_no_half_of_a_bundle_or_a_box(disk: Path, tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with pytest.raises(OSError, match="No space left"):
        (disk / "ballast").write_bytes(bytes(8 << 20))
    bundle = disk / "bundle.tgz"
    done = box.run("support-bundle", "-o", str(bundle), "--config", str(box.directory))
    assert (done.returncode, bundle.exists()) == (1, False)
    assert done.stderr == (
        f"edge-store: {bundle} cannot be written: No space left on device\n"
        "  give another place: -o FILE\n"
    )
    made = box.run("init", str(disk / "other"), "--engine", "demo")
    assert (made.returncode, (disk / "other").exists()) == (1, False)
    assert "  free space on " in made.stderr
