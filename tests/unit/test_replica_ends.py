"""A WAL that ended before Litestream had read it is noticed, whoever has it begin anew."""

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.replicating import Database

from edge_store.replica.ends import FILES_MAX
from edge_store.replica.ltx import has_every_page
from edge_store.replica.reached import Reached, Read, Upto
from edge_store.sqlite import driver

PAGE_SIZE = 4096
PAGES = 300  # their numbers take one byte of the index, and two


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "results.db", "box-1")
    yield found
    found.close()


class Files:
    """Those that Litestream leaves beside the database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "0"
        self.folder.mkdir()
        self.txid = 0

    def add(self, upto: Upto, *, pages: int = 1) -> int:
        """One that reads so far; returns its TXID."""
        self.txid += 1
        head = struct.pack(">4sIIIQQQ", b"LTX1", 2, PAGE_SIZE, PAGES, self.txid, self.txid, 1)
        wal = struct.pack(">QQ8s", 32, upto.end - 32, upto.salts)
        index = b"".join(map(entry, range(1, pages + 1))) + b"\0"
        content = (head + bytes(8) + wal).ljust(100, b"\0") + bytes(6) + index
        path = self.folder / f"{self.txid:016x}-{self.txid:016x}.ltx"
        path.write_bytes(content + struct.pack(">Q", len(index)) + bytes(16))
        return self.txid


def entry(page: int) -> bytes:
    return varint(page) + varint(100 + page * 1000) + varint(1000)


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + varint(rest)


def checkpoint(path: Path, mode: str = "PASSIVE") -> None:
    """As another program does."""
    with closing(driver.connect(str(path), isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        busy, frames, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        assert (busy, frames) == (0, moved)


def written(reached: Reached) -> Upto:
    found = reached.written()
    assert found is not None
    return found


@pytest.fixture
def reached(database: Database, tmp_path: Path) -> Reached:
    return Reached(database.path, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("mode", ["PASSIVE", "TRUNCATE"])
@pytest.mark.parametrize("has_read_all", [False, True])
def test_who_goes_on_before_the_end_of_a_wal_has_skipped_it(
    database: Database, reached: Reached, files: Files, mode: str, *, has_read_all: bool
) -> None:
    database.write(20)
    before = written(reached)
    assert reached.judge(before, files.add(before)) is Read.HELD
    database.write(1)
    ended = written(reached)
    if has_read_all:
        files.add(ended)
    checkpoint(database.path, mode)
    database.write(1)
    now = written(reached)
    assert now.salts != ended.salts
    read = reached.judge(now, files.add(now))
    assert read is (Read.HELD if has_read_all else Read.SKIPPED)


def test_commits_that_nobody_has_looked_at_are_found_where_they_were(
    database: Database, reached: Reached, files: Files
) -> None:
    database.write(20)
    before = written(reached)
    database.write(3)
    with closing(driver.connect(str(database.path), isolation_level=None)) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("UPDATE device SET created_at = created_at + 1")
    wal = database.path.with_name("results.db-wal")
    ended = Upto(before.salts, wal.stat().st_size)
    checkpoint(database.path)
    database.write(1)
    now = written(reached)
    frame = (ended.end - 32) // ((ended.end - 32) // PAGE_SIZE)
    assert wal.stat().st_size == ended.end, "it is written from its beginning"
    files.add(Upto(ended.salts, ended.end - frame))
    assert reached.judge(now, files.add(now)) is Read.SKIPPED
    reached.anew()
    assert reached.judge(now, files.add(now)) is Read.HELD


def test_what_was_rolled_back_is_not_waited_for(
    database: Database, reached: Reached, files: Files
) -> None:
    database.write(20)
    ended = written(reached)
    with closing(driver.connect(str(database.path), isolation_level=None)) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("PRAGMA cache_size = 1")  # so that it is written before its COMMIT
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM requests")
        other.execute("DELETE FROM outputs")
        other.execute("DELETE FROM results")
        assert database.path.with_name("results.db-wal").stat().st_size > ended.end
        other.execute("ROLLBACK")
    files.add(ended)
    checkpoint(database.path)
    database.write(1)
    now = written(reached)
    assert reached.judge(now, files.add(now)) is Read.HELD


def test_until_it_is_read_nothing_is_known_of_a_wal_that_is_gone(
    database: Database, reached: Reached, files: Files
) -> None:
    database.write(2)
    before = written(reached)
    database.write(1)
    ended = written(reached)
    checkpoint(database.path, "TRUNCATE")
    assert reached.written() is None
    assert reached.judge(None, files.add(before)) is Read.MISSED
    assert reached.judge(None, files.add(ended)) is Read.HELD


@pytest.mark.parametrize("pages", [PAGES - 1, PAGES])
def test_who_takes_the_whole_database_has_skipped_nothing(
    database: Database, reached: Reached, files: Files, pages: int
) -> None:
    database.write(2)
    before = written(reached)
    database.write(1)
    written(reached)
    checkpoint(database.path)
    files.add(before)
    database.write(1)
    now = written(reached)
    files.add(now, pages=pages)
    is_whole = pages == PAGES
    assert reached.judge(now, files.txid) is (Read.HELD if is_whole else Read.SKIPPED)
    checkpoint(database.path)
    database.write(1)
    later = written(reached)
    assert reached.judge(later, files.add(later, pages=PAGES)) is Read.HELD


def test_what_a_restore_has_is_not_skipped(
    database: Database, reached: Reached, files: Files
) -> None:
    database.write(2)
    files.add(written(reached))
    database.write(1)
    written(reached)
    checkpoint(database.path)
    database.write(1)
    now = written(reached)
    txid = files.add(now)
    assert reached.judge(now, txid) is Read.SKIPPED
    reached.proven(txid - 1)
    assert reached.judge(now, txid) is Read.SKIPPED
    reached.proven(txid)
    assert reached.judge(now, txid) is Read.HELD


def test_where_files_are_missing_it_is_not_said(
    database: Database, reached: Reached, files: Files
) -> None:
    database.write(2)
    now = written(reached)
    assert reached.judge(now, files.add(now)) is Read.HELD
    database.write(1)
    ended = written(reached)
    gone = files.add(ended)
    checkpoint(database.path)
    database.write(1)
    now = written(reached)
    newest = files.add(now)
    (files.folder / f"{gone:016x}-{gone:016x}.ltx").unlink()
    assert reached.judge(now, newest) is Read.HELD


@pytest.mark.parametrize(("wals", "files_after"), [(300, 1), (2, FILES_MAX + 1)])
def test_an_answer_that_took_long_skips_nothing_that_was_read_meanwhile(
    database: Database, reached: Reached, files: Files, wals: int, files_after: int
) -> None:
    database.write(2)
    now = written(reached)
    assert reached.judge(now, files.add(now)) is Read.HELD
    for _ in range(wals):  # while the store does not answer
        database.write(1)
        files.add(written(reached))
        checkpoint(database.path)
    database.write(1)
    now = written(reached)
    for _ in range(files_after):
        files.add(now)
    assert reached.judge(now, files.txid) is Read.HELD
    database.write(1)
    written(reached)
    checkpoint(database.path)
    database.write(1)
    now = written(reached)
    assert reached.judge(now, files.add(now)) is Read.SKIPPED, "it is noticed as before"


def test_of_a_file_that_is_none_not_every_page_is_there(tmp_path: Path) -> None:
    for content in (b"", bytes(100), b"LTX1" + bytes(200)):
        (tmp_path / "one").write_bytes(content)
        assert not has_every_page(tmp_path / "one")
    assert not has_every_page(tmp_path / "none")


def test_an_answer_that_comes_late_makes_nothing_good(
    database: Database, reached: Reached, files: Files
) -> None:
    database.write(2)
    before = written(reached)
    early = files.add(before)
    assert reached.judge(before, early) is Read.HELD
    database.write(1)
    written(reached)
    checkpoint(database.path)
    database.write(1)
    now = written(reached)
    txid = files.add(now)
    assert reached.judge(now, txid) is Read.SKIPPED
    assert reached.judge(before, early) is Read.SKIPPED
    (files.folder / f"{txid:016x}-{txid:016x}.ltx").unlink()
    assert reached.judge(now, txid) is Read.SKIPPED
