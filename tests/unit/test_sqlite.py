"""One place opens databases: what it sets is read back, and what is not ours stays as it is."""

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from support.records import new_database

from edge_store import sqlite
from edge_store.errors import (
    AlreadyRunning,
    Corrupt,
    DiskFull,
    NotAnEdgeStoreFile,
    StoreError,
    VulnerableSQLite,
)
from edge_store.lock import DatabaseLock
from edge_store.recorder.disk import Disk
from edge_store.schema import migrate
from edge_store.sqlite import (
    PAGE_BYTES,
    DatabaseThread,
    check_integrity,
    driver,
    is_vulnerable,
    open_copy,
    open_reader,
    open_writer,
    require_safe_sqlite,
    translated,
)
from edge_store.wal import checkpoint, move_wal, wal_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("wal_autocheckpoint", 0),
        ("busy_timeout", 1234),
        ("foreign_keys", 1),
        ("page_size", 2048),
    ],
)
def test_a_writer_has_the_pragmas_that_the_promises_need(
    path: Path, pragma: str, value: object
) -> None:
    connection = open_writer(path, busy_timeout_ms=1234)
    migrate(connection)
    assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)
    again = open_writer(path, busy_timeout_ms=1234)
    assert again.execute(f"PRAGMA {pragma}").fetchone() == (value,)


def test_a_pragma_that_does_not_take_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragmas = (*sqlite.WRITER_PRAGMAS, ("page_count", 10**6, "cannot be set"))
    monkeypatch.setattr(sqlite, "WRITER_PRAGMAS", pragmas)
    with pytest.raises(StoreError, match="PRAGMA page_count is"):
        open_writer(path)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 4), False),
        ((4, 0, 0), False),
    ],
)
def test_the_versions_with_the_wal_reset_bug_are_known(
    version: tuple[int, ...],
    expected: bool,  # noqa: FBT001
) -> None:
    assert is_vulnerable(version) is expected


def test_a_vulnerable_sqlite_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    require_safe_sqlite(allow_vulnerable=False)
    monkeypatch.setattr(sqlite, "is_vulnerable", lambda: True)
    with pytest.raises(VulnerableSQLite) as refused:
        require_safe_sqlite(allow_vulnerable=False)
    assert refused.value.exit_code == 78
    assert "allow_vulnerable_sqlite" in refused.value.hint
    require_safe_sqlite(allow_vulnerable=True)


def foreign(path: Path, mode: str) -> None:
    """Another application's database, as that application's crash would leave it."""
    code = (
        "import sys, os\n"
        "from edge_store.sqlite import driver\n"
        "c = driver.connect(sys.argv[1], isolation_level=None)\n"
        f"c.execute('PRAGMA journal_mode = {mode}')\n"
        "c.execute('CREATE TABLE theirs (x)')\n"
        "c.execute('INSERT INTO theirs VALUES (42)')\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    assert path.exists()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("opened", [open_writer, open_reader])
def test_another_applications_database_is_refused_and_untouched(
    path: Path, mode: str, opened: object
) -> None:
    foreign(path, mode)
    before = files_of(path.parent)
    assert callable(opened)
    with pytest.raises(NotAnEdgeStoreFile) as refused:
        opened(path)
    assert refused.value.exit_code == 66
    after = files_of(path.parent)
    shared_memory = f"{path.name}-shm"  # how readers see a WAL; it holds nothing
    assert {k: v for k, v in after.items() if k != shared_memory} == {
        k: v for k, v in before.items() if k != shared_memory
    }


@pytest.mark.parametrize("opened", [open_writer, open_reader])
def test_a_file_that_is_no_database_is_refused_and_untouched(path: Path, opened: object) -> None:
    path.write_bytes(b"dear diary, " * 200)
    before = files_of(path.parent)
    assert callable(opened)
    with pytest.raises(NotAnEdgeStoreFile):
        opened(path)
    assert files_of(path.parent) == before


def test_a_reader_creates_nothing(path: Path) -> None:
    with pytest.raises(NotAnEdgeStoreFile, match="no such file"):
        open_reader(path)
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_becomes_ours(path: Path) -> None:
    path.touch()
    migrate(open_writer(path))
    open_reader(path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (driver.SQLITE_FULL, DiskFull),
        (driver.SQLITE_CORRUPT, Corrupt),
        (driver.SQLITE_NOTADB, NotAnEdgeStoreFile),
        (driver.SQLITE_IOERR, StoreError),
        (driver.SQLITE_IOERR | 10 << 8, StoreError),  # an extended code
        (driver.SQLITE_CORRUPT | 1 << 8, Corrupt),
        (driver.SQLITE_BUSY, StoreError),
    ],
)
def test_the_drivers_codes_become_our_errors(code: int, expected: type[StoreError]) -> None:
    error = driver.OperationalError("it failed")
    error.sqlite_errorcode = code
    with pytest.raises(StoreError, match="row 7: it failed") as raised, translated("row 7"):
        raise error
    assert type(raised.value) is expected
    assert raised.value.__cause__ is error


def test_constraints_are_checked_only_on_connections_that_may_write(path: Path) -> None:
    """Which is why a restore's may: docs/operations.md says so of SQLite 3.53.4."""
    connection, _ = new_database(path)
    connection.execute("PRAGMA ignore_check_constraints = 1")
    connection.execute("UPDATE boots SET event = 'odd'")
    checkpoint(connection)
    connection.close()
    reader = open_reader(path)
    assert check_integrity(reader, full=True) == "ok"
    reader.close()
    copy = open_copy(path)
    assert "CHECK constraint failed in boots" in check_integrity(copy, full=True)
    copy.close()


def test_a_damaged_file_is_found(path: Path) -> None:
    connection, _ = new_database(path)
    assert check_integrity(connection) == check_integrity(connection, full=True) == "ok"
    assert checkpoint(connection)
    connection.close()
    damaged = bytearray(path.read_bytes())
    damaged[PAGE_BYTES * 2 : PAGE_BYTES * 3] = bytes(PAGE_BYTES)
    path.write_bytes(damaged)
    reader = open_reader(path)
    try:
        found = check_integrity(reader, full=True)
    except driver.DatabaseError as exc:
        found = str(exc)
    assert found != "ok"


def test_a_checkpoint_empties_the_wal_and_says_when_it_cannot(path: Path) -> None:
    connection, _ = new_database(path)
    connection.execute("PRAGMA busy_timeout = 10")
    assert wal_bytes(path) > 0
    reader = open_reader(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM boots").fetchone()
    connection.execute("UPDATE device SET created_at = 1")
    assert not checkpoint(connection)
    reader.close()
    assert checkpoint(connection)
    assert wal_bytes(path) == 0


def test_the_wal_is_moved_beside_an_open_transaction_of_the_writer(path: Path) -> None:
    connection, _ = new_database(path)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE device SET created_at = 2")
    move_wal(path)
    (_, pages, moved) = connection_state(path)
    assert pages == moved > 0
    connection.execute("COMMIT")
    assert connection_state(path)[1] > pages, "what is written meanwhile stays in the WAL"
    assert connection.execute("SELECT created_at FROM device").fetchone() == (2,)


def connection_state(path: Path) -> tuple[int, int, int]:
    """Whether it was busy, the WAL's pages, and those of them that are in the database too."""
    reader = open_writer(path)
    state: tuple[int, int, int] = reader.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
    reader.close()
    return state


def test_one_process_at_a_time_holds_the_lock(path: Path) -> None:
    with DatabaseLock(path):
        with pytest.raises(AlreadyRunning, match=str(os.getpid())) as refused, DatabaseLock(path):
            pass
        assert refused.value.exit_code == 75
    with DatabaseLock(path):
        pass
    assert not path.exists(), "the lock is a file of its own"


async def test_a_thread_whose_database_cannot_be_opened_ends(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 50)  # noqa: ASYNC240  (a test has time)
    before = threading.active_count()
    with pytest.raises(NotAnEdgeStoreFile):
        await DatabaseThread.open(lambda: open_writer(path))
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(2)
    assert threading.active_count() <= before


def test_a_disk_below_its_reserve_is_a_shortage(path: Path) -> None:
    assert Disk(path, 0).shortage() is None
    free = Disk(path, 0).free_bytes()
    shortage = Disk(path, free * 1000).shortage()
    assert isinstance(shortage, DiskFull)
    assert str(free * 1000) in str(shortage)


async def test_a_connection_that_nobody_refers_to_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    database = await DatabaseThread.open(lambda: open_writer(path))
    await database.run(lambda connection: connection.execute("CREATE TABLE t (x)").close())
    kept = weakref.ref(database)
    del database
    gc.collect()
    survivor = kept()
    assert survivor is not None, "collecting it would close the file, and delete the WAL"
    assert wal_bytes(path) > 0
    await survivor.close()
    assert wal_bytes(path) == 0, "the last close empties the WAL: that is what must not happen"
