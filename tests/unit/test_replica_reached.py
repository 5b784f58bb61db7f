"""How far the WAL is written is read without a lock, and how far Litestream has read it."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.replicating import Database

from edge_store.ids import BootId
from edge_store.replica.anew import Ground
from edge_store.replica.reached import UNREADABLE, Reached, Read, Upto
from edge_store.replica.room import Replica
from edge_store.wal import checkpoint

SALTS = struct.pack(">II", 7, 99)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "results.db", "box-1")
    yield found
    found.close()


def test_it_is_written_as_far_as_the_last_commit(database: Database, tmp_path: Path) -> None:
    reached = Reached(database.path, tmp_path)
    wal = database.path.with_name("results.db-wal")
    for _ in range(3):
        database.write(2)
        assert reached.written() == Upto(wal.read_bytes()[16:24], wal.stat().st_size)
    before = reached.written()
    database.connection.execute("BEGIN IMMEDIATE")
    database.connection.execute("DELETE FROM results")
    assert reached.written() == before
    database.connection.execute("ROLLBACK")
    assert checkpoint(database.connection)
    assert reached.written() is None
    database.write(1)
    written = reached.written()
    assert written is not None
    assert before is not None
    assert written.salts != before.salts


def test_reading_it_takes_no_lock_away(database: Database, tmp_path: Path) -> None:
    for _ in range(2):
        assert Reached(database.path, tmp_path).written()
    ask = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT 1 FROM results')"
    subprocess.run([sys.executable, "-c", ask, database.path], check=True)
    assert database.path.with_name("results.db-wal").stat().st_size > 0, "it was not the last"


def test_of_a_database_that_nobody_has_open_nothing_is_known(tmp_path: Path) -> None:
    assert Reached(tmp_path / "results.db", tmp_path).written() is None


def test_of_an_index_that_cannot_be_opened_nothing_counts_as_read(tmp_path: Path) -> None:
    (tmp_path / "results.db-shm").symlink_to("results.db-shm")
    reached = Reached(tmp_path / "results.db", tmp_path)
    assert reached.written() is UNREADABLE


def test_one_that_took_its_place_is_read(tmp_path: Path) -> None:
    first = Database(tmp_path / "results.db", "box-1")
    reached = Reached(first.path, tmp_path)
    assert reached.written() is not None
    first.close()
    for path in tmp_path.glob("results.db*"):
        path.unlink()
    second = Database(tmp_path / "results.db", "box-1")
    wal = second.path.with_name("results.db-wal")
    assert reached.written() == Upto(wal.read_bytes()[16:24], wal.stat().st_size)
    second.close()


@pytest.mark.parametrize(
    ("salts", "end", "read"),
    [
        (SALTS, 1000, Read.HELD),
        (SALTS, 2000, Read.HELD),
        (SALTS, 999, Read.MISSED),
        (struct.pack(">II", 6, 99), 9999, Read.MISSED),
        (struct.pack(">II", 8, 11), 100, Read.RESTARTED),
    ],
)
def test_it_was_read_as_far_as_the_file_of_the_answer_says(
    tmp_path: Path, salts: bytes, end: int, read: Read
) -> None:
    (tmp_path / "0").mkdir()
    file = tmp_path / "0" / f"{18:016x}-{18:016x}.ltx"
    file.write_bytes(bytes(48) + struct.pack(">QQ8s", 32, end - 32, salts) + bytes(28))
    reached = Reached(tmp_path / "results.db", tmp_path)
    assert reached.judge(Upto(SALTS, 1000), 18) is read
    assert reached.judge(None, 18) is Read.HELD
    assert reached.judge(Upto(SALTS, 1000), 19) is Read.UNKNOWN


@pytest.mark.parametrize("has_passed_over", [True, False])
async def test_after_a_stop_nobody_goes_on_from_what_was_passed_over(
    database: Database, tmp_path: Path, *, has_passed_over: bool
) -> None:
    ltx = tmp_path / "litestream" / "ltx"
    unused: Any = SimpleNamespace(is_swapped=False, now=None)
    ground = Ground(database.path, ltx, unused)
    ground.note(database.boot.boot_id)
    litestream: Any = SimpleNamespace(
        positions=SimpleNamespace(has_passed_over=has_passed_over), is_replicated=False
    )
    replica = Replica(litestream, unused, unused, ground, unused, unused, unused, unused)
    await replica.tell_last()
    assert ground.continues(database.boot.boot_id) is not has_passed_over


async def test_nor_after_a_crash_until_it_is_made_good(database: Database, tmp_path: Path) -> None:
    async def nothing(*_given: object) -> None:
        pass

    ltx = tmp_path / "litestream" / "ltx"
    boot_id = database.boot.boot_id
    unused: Any = SimpleNamespace(is_swapped=False, now=None)
    positions = SimpleNamespace(has_passed_over=False)
    litestream: Any = SimpleNamespace(positions=positions, start=nothing)
    ownership: Any = SimpleNamespace(boot_id=boot_id, claim=claimed_from(boot_id), begun=int)
    telling: Any = SimpleNamespace(remembered=nothing)
    ground = Ground(database.path, ltx, unused)
    replica = Replica(litestream, ownership, telling, ground, unused, unused, unused, unused)
    ground.note(boot_id)
    await replica.claim()
    found = []
    for positions.has_passed_over in (False, True, False):
        replica.keep_ground()
        found.append(ground.continues(boot_id))
    assert found == [True, False, True]


def claimed_from(boot_id: BootId) -> Any:
    async def claim(**_how: bool) -> BootId:
        return boot_id

    return claim
