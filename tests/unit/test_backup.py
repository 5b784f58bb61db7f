"""A backup is one state of a database that is written meanwhile, whole or not at all."""

from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner
from support.daemon import proven, rows
from support.replicating import Database

from edge_store import backup as module
from edge_store.backup import backup, check_backup, restore_backup
from edge_store.cli.main import cli
from edge_store.errors import BackupFailed, DiskFull, StoreError, VerifyFailed
from edge_store.replica.rebuild import Progress, Stage
from edge_store.sqlite import driver, open_writer

ROWS = 40


def quiet(_progress: Progress) -> None:
    pass


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "box").mkdir()
    path = tmp_path / "box" / "results.db"
    written = Database(path, "box-1")
    written.write(ROWS)
    written.close()
    return path


def test_what_is_committed_meanwhile_is_not_in_it_and_checkpoints_wait_for_the_copy_alone(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGES_AT_ONCE", 16)
    writer = open_writer(database, busy_timeout_ms=0)
    busy: dict[Stage, int] = {}

    def meanwhile(progress: Progress) -> None:
        if progress.stage not in busy:
            writer.execute("UPDATE device SET created_at = created_at + 1")
            (busy[progress.stage], *_) = writer.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            ).fetchone()

    was = writer.execute("SELECT created_at FROM device").fetchone()
    made = backup(database, tmp_path / "a.db", compress=False, on_progress=meanwhile)
    writer.close()
    assert busy == {Stage.COPYING: 1, Stage.CHECKING: 0}
    assert (made.results, made.seq) == (ROWS, ROWS)
    assert rows(tmp_path / "a.db", "SELECT created_at FROM device") == [was]


def test_what_is_not_as_it_was_written_is_found(tmp_path: Path, database: Path) -> None:
    packed = b""
    for name, compress in (("a.db.zst", True), ("b.db", False)):
        file = tmp_path / name
        backup(database, file, compress=compress, on_progress=quiet)
        assert check_backup(file, head=None, on_progress=quiet).faults == ()
        with pytest.raises(BackupFailed, match="there already"):
            backup(database, file, compress=compress, on_progress=quiet)
        whole = file.read_bytes()
        packed = whole if compress else packed
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 1
        for bad in (bytes(broken), whole[:-100], whole + b"x"):
            file.write_bytes(bad)
            with pytest.raises(VerifyFailed):
                check_backup(file, head=None, on_progress=quiet)
            with pytest.raises(VerifyFailed):
                restore_backup(file, tmp_path / "new.db", on_progress=quiet)
    other = zstandard.compress(zstandard.decompress(packed), level=1)  # as good, but another
    file = tmp_path / "a.db.zst"
    file.write_bytes(other)
    with pytest.raises(VerifyFailed, match="sha256"):
        check_backup(file, head=None, on_progress=quiet)
    file = tmp_path / "c.db.zst"  # without a manifest
    for bad in (zstandard.compress(whole)[:-100], zstandard.compress(b"no database")):
        file.write_bytes(bad)
        with pytest.raises((VerifyFailed, StoreError)):
            check_backup(file, head=None, on_progress=quiet)
    assert not (tmp_path / "new.db").exists()


def test_a_changed_row_is_found_and_not_backed_up(tmp_path: Path, database: Path) -> None:
    connection = driver.connect(database, isolation_level=None)
    connection.execute("UPDATE results SET latency_ms = 1 WHERE seq = 3")
    connection.close()
    with pytest.raises(BackupFailed, match="chain"):
        backup(database, tmp_path / "a.zst", compress=True, on_progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_one_that_is_given_up_or_finds_no_room_leaves_nothing(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(progress: Progress) -> None:
        if progress.stage is Stage.COMPRESSING:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(database, tmp_path / "a.zst", compress=True, on_progress=give_up)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(DiskFull, match="1000 bytes free"):
        backup(database, tmp_path / "a.zst", compress=True, on_progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_a_restore_writes_over_nothing(tmp_path: Path, database: Path) -> None:
    backup(database, tmp_path / "a.zst", compress=True, on_progress=quiet)
    for name in ("b.db", "b.db-wal"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(BackupFailed, match="there already"):
            restore_backup(tmp_path / "a.zst", tmp_path / "b.db", on_progress=quiet)
        (tmp_path / name).unlink()
    restore_backup(tmp_path / "a.zst", tmp_path / "b.db", on_progress=quiet)
    assert proven(tmp_path / "b.db").results == ROWS
    assert rows(tmp_path / "b.db", "SELECT reason FROM timelines") == [("created",), ("restored",)]


def test_a_folder_that_is_not_there_does_not_become_a_file(tmp_path: Path, database: Path) -> None:
    arguments = ["backup", f"{tmp_path}/usb/", "--db", str(database)]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, BackupFailed)
    assert str(done.exception) == f"{tmp_path}/usb/ is no folder"
    assert not (tmp_path / "usb").exists()
    (tmp_path / "usb").mkdir()
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert len(list((tmp_path / "usb").iterdir())) == 2
