"""A disk that is full while retention works: what is not archived stays; it goes on by itself."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Box as Daemon
from support.daemon import until
from support.disks import small_disk_at
from support.retaining import Box, stored_rows

from edge_store.archive.ledger import read_archives
from edge_store.archive.loading import restore
from edge_store.archive.store import ArchiveStore
from edge_store.chain import verify_chain
from edge_store.errors import ArchiveFailed, DiskFull
from edge_store.sqlite import open_reader

AGES = [9.0] * 40 + [8.0] * 40 + [1.0] * 20
BODY = {"user_id": "u" * 20_000}  # of each: 2 MB in all, which compress well
SECOND = str(1 / 86400)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with small_disk_at(tmp_path / "disk", "4m") as folder:
        yield folder


def fill(folder: Path) -> Path:
    """To the last block."""
    ballast = folder / "ballast"
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={ballast}", "bs=4096", "oflag=append", "conv=notrunc"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "No space left" in done.stderr
    return ballast


def is_whole(box: Box) -> bool:
    account = box.account()
    assert account["archived"] == account["deleted_retention"]
    assert account["completed"] + account["deleted_retention"] == len(AGES)
    return verify_chain(box.connection).faults == ()


def test_archive_whose_disk_is_full_deletes_nothing_and_says_so(
    small_disk: Path, tmp_path: Path
) -> None:
    box = Box(tmp_path, AGES, **BODY)
    box.archive = small_disk / "archive"
    before = stored_rows(box.connection)
    assert box.put_away(keep_days=8.5).results == 40
    ballast = fill(small_disk)
    for _ in range(2):
        with pytest.raises(ArchiveFailed, match=r"the archive file://.*(?i:disk is full)") as told:
            box.put_away(keep_days=5)
        assert told.value.hint.startswith("make room there: of the archive nothing goes by itself")
        assert box.seqs() == list(range(41, 101))
        assert is_whole(box)
    ballast.unlink()
    assert box.put_away(keep_days=5).results == 40
    assert is_whole(box)
    store = ArchiveStore(str(box.archive))
    files = [each.file for each in read_archives(box.connection)]
    found = [path for path in box.archive.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(box.archive)) for path in found) == sorted(files)
    assert store.names("box-test") == sorted(files)
    target = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 80
    reader = open_reader(target)
    assert stored_rows(reader) == {seq: before[seq] for seq in range(1, 81)}
    reader.close()
    box.close()


def test_archive_that_can_only_be_read_deletes_nothing_and_says_so(
    small_disk: Path, tmp_path: Path
) -> None:
    box = Box(tmp_path, AGES, **BODY)
    box.archive = small_disk / "archive"
    assert box.put_away(keep_days=8.5).results == 40
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for _ in range(2):
        with pytest.raises(ArchiveFailed, match="its file system is read-only") as told:
            box.put_away(keep_days=5)
        assert "ReadWritePaths" in told.value.hint
        assert box.seqs() == list(range(41, 101))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert box.put_away(keep_days=5).results == 40
    assert is_whole(box)
    box.close()


def test_database_whose_disk_is_full_loses_nothing_and_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    box = Box(small_disk, AGES[:60], user_id="u" * 2000)
    box.archive = tmp_path / "archive"
    before = stored_rows(box.connection)
    ballast = fill(small_disk)
    cut = 0
    for _ in range(30):  # until what the WAL's last block had room for is used up
        try:
            box.put_away(keep_days=5)
        except DiskFull as exc:
            assert "free space" in exc.hint  # noqa: PT017
            cut += 1
            break
    assert cut, "the disk must be full, or this test proves nothing"
    account = box.account()
    assert account["archived"] == account["deleted_retention"]
    assert account["completed"] + account["deleted_retention"] == 60
    assert all(before[seq] == rows for seq, rows in stored_rows(box.connection).items())
    ballast.unlink()
    box.put_away(keep_days=5)
    assert box.seqs() == []
    assert box.account()["archived"] == 60
    assert verify_chain(box.connection).faults == ()
    target = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 60
    box.close()


@pytest.mark.slow
def test_daemon_says_so_serves_on_and_archives_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    box = Daemon.init(
        tmp_path / "box", RETENTION__KEEP_DAYS=SECOND, RETENTION__INTERVAL_S="1",
        RETENTION__ARCHIVE=str(small_disk / "archive"),
    )  # fmt: skip
    (small_disk / "archive").mkdir()
    ballast = fill(small_disk)
    with box.serve() as daemon:
        for number in range(5):
            assert daemon.chat(f"question {number}").status_code == 200
        alarm = daemon.logged("alarm_raised", 120)
        assert "disk is full" in str(alarm).lower()
        assert box.scalar("SELECT count(*) FROM results") == 5
        assert daemon.chat("and on").status_code == 200
        ballast.unlink()
        until(lambda: not box.scalar("SELECT count(*) FROM results"), "all is archived", 120)
        daemon.logged("alarm_resolved", 120)
        assert box.scalar("SELECT archived FROM completeness") == 6
        assert daemon.stop() == 0
