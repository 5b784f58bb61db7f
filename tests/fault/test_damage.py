"""A damaged database is not written to: the daemon says what is wrong and how to recover, ends with
its own code, and leaves file and WAL as they are.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from support.daemon import Box, DaemonProcess

from edge_store.errors import EdgeStoreError
from edge_store.lock import DatabaseLock
from edge_store.recorder.damage import examine
from edge_store.sqlite import PAGE_BYTES, is_index_held

CORRUPT, NOT_OURS, TOO_NEW = 65, 66, 76
ROWS = 12
# How a request is refused once a file is damaged or swapped: by its own COMMIT; by a daemon that
# has met it first, in a change or a look of its own, and is about to end; by one that has ended.
MET = (
    (500, "database_corrupt"),
    (500, "not_an_edge_store_file"),
    (503, "admission_closed"),
    None,
)


def served(directory: Path) -> Box:
    """A box that was stopped, served again, and killed: part of it is in the WAL only."""
    box = Box.init(directory, "--engine", "demo")
    with box.serve() as daemon:
        chats(daemon)
        assert daemon.stop() == 0
    with box.serve() as daemon:
        chats(daemon)
        daemon.kill()
    assert beside(box, "-wal").stat().st_size > 0
    return box


def chats(daemon: DaemonProcess) -> None:
    for n in range(ROWS):
        assert daemon.chat(f"row {n}").status_code == 200


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """To be copied, not to be touched."""
    return served(tmp_path_factory.mktemp("killed") / "box")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """Another box with as much in it; not to be touched."""
    return served(tmp_path_factory.mktemp("other") / "box")


@pytest.fixture
def box(killed: Box, tmp_path: Path) -> Box:
    """A copy of the killed box."""
    return copied(killed, tmp_path / "box")


@pytest.fixture(scope="module")
def ended(killed: Box, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """The same after one clean end more: all of it is in the file. Not to be touched."""
    box = copied(killed, tmp_path_factory.mktemp("ended") / "box")
    with box.serve() as daemon:
        assert daemon.stop() == 0
    assert not beside(box, "-wal").exists()
    return box


@pytest.fixture
def whole(ended: Box, tmp_path: Path) -> Box:
    """A copy of that."""
    return copied(ended, tmp_path / "box")


def copied(box: Box, directory: Path) -> Box:
    shutil.copytree(box.directory, directory, ignore=shutil.ignore_patterns("*.sock"))
    return Box(directory)


def beside(box: Box, end: str) -> Path:
    return box.database.with_name(f"{box.database.name}{end}")


def content(box: Box) -> list[bytes | None]:
    """Of the file and its WAL; an empty WAL is as none."""
    files = (box.database, beside(box, "-wal"))
    return [(file.read_bytes() or None) if file.is_file() else None for file in files]


def refused(box: Box, code: int) -> str:
    """Start the daemon, which ends with ``code``; nothing has changed, and another start would be
    refused too: an operator tries again.
    """
    before = content(box)
    done = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("edge-store: ")
    assert content(box) == before, "the damaged file was touched"
    assert examined(box) == code
    assert content(box) == before
    return done.stderr


def examined(box: Box) -> int:
    """The exit code of a start, without one; 0 when it would go on."""
    with DatabaseLock(box.database) as lock:
        try:
            examine(box.database, lock, index_was_held=is_index_held(box.database))
        except EdgeStoreError as exc:
            return exc.exit_code
    return 0


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def sqlite(box: Box, statement: str) -> None:
    connection = sqlite3.connect(box.database, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(statement)
    connection.close()


def test_undamaged_box_starts_and_has_all_rows(box: Box) -> None:
    with box.serve() as daemon:
        assert daemon.chat("one more").status_code == 200
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results") == 2 * ROWS + 1
    box.proven()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_wal(box: Box, keep: float) -> None:
    wal = beside(box, "-wal")
    with wal.open("r+b") as file:
        file.truncate(int(wal.stat().st_size * keep))
    said = refused(box, CORRUPT)
    assert "whole frames" in said
    beside(box, "-shm").unlink()  # what it knows is what was lost: its owner gives that up
    with box.serve() as daemon:
        assert daemon.stop() == 0
    assert ROWS <= box.scalar("SELECT count(*) FROM results") < 2 * ROWS
    box.proven()


def test_missing_wal(box: Box) -> None:
    beside(box, "-wal").unlink()
    assert "whole frames" in refused(box, CORRUPT)


def test_flipped_bit_in_the_wal(box: Box) -> None:
    wal = beside(box, "-wal")
    place = wal.stat().st_size // 2
    overwrite(wal, place, bytes([wal.read_bytes()[place] ^ 1]))
    assert "whole frames" in refused(box, CORRUPT)


@pytest.mark.parametrize("with_index", [True, False])
def test_wal_of_another_database(box: Box, other: Box, *, with_index: bool) -> None:
    shutil.copy(beside(other, "-wal"), beside(box, "-wal"))
    if not with_index:
        beside(box, "-shm").unlink()
    refused(box, CORRUPT)


@pytest.mark.parametrize("index", [b"", b"\xff" * 32768, b"\x00" * 32768, b"junk" * 5000])
def test_damaged_index_is_made_anew(box: Box, index: bytes) -> None:
    beside(box, "-shm").write_bytes(index)
    with box.serve() as daemon:
        assert daemon.chat("one more").status_code == 200
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results") == 2 * ROWS + 1
    box.proven()


def test_missing_file_that_was_served(box: Box) -> None:
    for end in ("", "-wal", "-shm"):
        beside(box, end).unlink()
    said = refused(box, NOT_OURS)
    assert "is missing" in said
    assert "to begin anew without it, remove edge-store.lock too" in said
    assert not box.database.exists()


def test_missing_file_beside_its_wal(box: Box) -> None:
    box.database.unlink()
    (box.directory / "edge-store.lock").unlink()
    assert "results.db-wal" in refused(box, NOT_OURS)


def test_new_file_where_none_ever_was(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    box.database.unlink()
    with box.serve() as daemon:
        assert daemon.chat("the first").status_code == 200
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results") == 1


def test_empty_file_in_its_place(box: Box) -> None:
    for end in ("-wal", "-shm"):
        beside(box, end).unlink()
    box.database.write_bytes(b"")
    assert "is empty" in refused(box, CORRUPT)


def test_folder_in_its_place(box: Box) -> None:
    for end in ("", "-wal", "-shm"):
        beside(box, end).unlink()
    box.database.mkdir()
    assert "is a folder" in refused(box, NOT_OURS)


def other_application(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 252006674")  # GeoPackage's
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def other_application_in_wal_mode(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("CREATE TABLE theirs (x)")
    shutil.copy(path, f"{path}.copy")
    shutil.copy(f"{path}-wal", f"{path}.copy-wal")
    connection.close()
    Path(f"{path}.copy").replace(path)
    Path(f"{path}.copy-wal").replace(f"{path}-wal")


@pytest.mark.parametrize("make", [other_application, other_application_in_wal_mode])
def test_file_of_another_application(
    killed: Box, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    box = Box(tmp_path / "box")
    box.directory.mkdir()
    shutil.copy(killed.directory / "edge-store.toml", box.directory)
    make(box.database)
    assert "application_id" in refused(box, NOT_OURS)


def test_newer_schema(whole: Box) -> None:
    sqlite(whole, "PRAGMA user_version = 9999")
    said = refused(whole, TOO_NEW)
    assert "9999" in said
    assert "newer one" in said


def test_overwritten_header(whole: Box) -> None:
    overwrite(whole.database, 0, b"This is no database" * 10)
    assert "was edge-store's, and is damaged" in refused(whole, CORRUPT)


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_truncated_file(whole: Box, keep: float) -> None:
    with whole.database.open("r+b") as file:
        file.truncate(int(whole.database.stat().st_size * keep) // PAGE_BYTES * PAGE_BYTES)
    refused(whole, CORRUPT)


def test_any_damaged_page_is_found_after_a_crash(whole: Box) -> None:
    sqlite(whole, "DELETE FROM boots WHERE event = 'end'")  # so the last start was cut
    assert examined(whole) == 0
    before = whole.database.read_bytes()
    for page in range(len(before) // PAGE_BYTES):
        overwrite(whole.database, page * PAGE_BYTES, b"\xa5" * PAGE_BYTES)
        assert examined(whole) == CORRUPT, page
        overwrite(whole.database, page * PAGE_BYTES, before[page * PAGE_BYTES :][:PAGE_BYTES])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE outputs SET output_text = 'forged' WHERE seq = (SELECT max(seq) FROM outputs)",
        "UPDATE results SET status = 'failed' WHERE seq = (SELECT max(seq) - 5 FROM results)",
        "DELETE FROM results WHERE seq = (SELECT max(seq) FROM results)",
        "DELETE FROM commits WHERE commit_id = (SELECT max(commit_id) - 1 FROM commits)",
        "UPDATE requests SET request_body = x'00' WHERE seq = (SELECT max(seq) FROM requests)",
    ],
)
def test_newest_rows_that_do_not_match_their_digests(whole: Box, statement: str) -> None:
    sqlite(whole, statement)
    assert "commit" in refused(whole, CORRUPT)


@pytest.mark.parametrize(
    ("statement", "lacks"),
    [
        ("DROP TABLE deletions", "column deletions.boot_id"),
        ("ALTER TABLE losses RENAME COLUMN message TO said", "column losses.message"),
    ],
)
def test_schema_that_lacks_something_is_said_by_each_command(
    whole: Box, statement: str, lacks: str
) -> None:
    sqlite(whole, statement)
    said = refused(whole, CORRUPT)
    assert "its schema lacks" in said
    assert lacks in said
    assert "it was left as it is" in said
    verified = whole.run("verify", "--db", str(whole.database))
    assert verified.returncode == CORRUPT, verified.stderr
    assert lacks in verified.stderr
    checked = whole.run("doctor", "--config", str(whole.directory))
    assert checked.returncode == 1
    assert lacks in checked.stdout


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (["DROP VIEW v_otel"], "view v_otel"),
        (["DROP VIEW completeness", "CREATE VIEW completeness AS SELECT 100.0 AS percent"],
         "view completeness"),
        (["DROP TRIGGER request_blobs_last"], "trigger request_blobs_last"),
        (["DROP INDEX results_by_idempotency"], "index results_by_idempotency"),
        (["DROP INDEX deletions_by_seq", "CREATE INDEX deletions_by_seq ON deletions (seq)"],
         "index deletions_by_seq"),
    ],
)  # fmt: skip
def test_views_and_indexes_are_told_and_made_anew(
    whole: Box, statements: list[str], name: str
) -> None:
    """They hold nothing of their own, so it is no damage; but a view may say what it likes."""
    made = "SELECT type || ' ' || name, sql FROM sqlite_schema ORDER BY 1"
    before = whole.rows(made)
    for statement in statements:
        sqlite(whole, statement)
    checked = whole.run("doctor", "--config", str(whole.directory))
    assert name in checked.stdout
    verified = whole.run("verify", "--db", str(whole.database))
    assert verified.returncode == (CORRUPT if name.startswith("view") else 0), verified.stderr
    assert (name in verified.stdout) == name.startswith("view")
    with whole.serve() as daemon:
        assert daemon.chat("as ever").status_code == 200
        assert daemon.logged("schema_mended")["made_anew"] == [name]
    assert whole.rows(made) == before
    assert whole.run("verify", "--db", str(whole.database)).returncode == 0


def test_more_in_the_schema_than_is_ours_is_no_damage(whole: Box) -> None:
    done = whole.run("index", "add", "output.sku", "--config", str(whole.directory))
    assert done.returncode == 0, done.stderr
    sqlite(whole, "CREATE TABLE mine (x)")
    assert examined(whole) == 0


def test_damage_met_by_a_commit_ends_the_daemon(whole: Box) -> None:
    size = whole.database.stat().st_size
    with whole.serve() as daemon:
        before = whole.database.read_bytes()
        overwrite(whole.database, PAGE_BYTES, b"\xa5" * (size - PAGE_BYTES))
        damaged = before[:PAGE_BYTES] + b"\xa5" * (size - PAGE_BYTES)
        assert daemon.refused("into the damage") in MET
        assert daemon.logged("database_damaged")["code"] == "database_corrupt"
        assert daemon.wait() == CORRUPT
        assert whole.database.read_bytes() == damaged, "the damaged file was touched"
        assert "it was left as it is" in "\n".join(daemon.raw)
    refused(whole, CORRUPT)


def test_damage_met_by_a_change_alone_ends_the_daemon(whole: Box) -> None:
    name = "SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'conversations'"
    pages = [page for (page,) in whole.rows(name)]
    with whole.serve() as daemon:
        for page in pages:
            overwrite(whole.database, (page - 1) * PAGE_BYTES, b"\xa5" * PAGE_BYTES)
        damaged = whole.database.read_bytes()
        with suppress(httpx.TransportError):  # a change of its own has met it, and it has ended
            answer = daemon.post("/v1/conversations", json={})
            assert (answer.status_code, answer.json()["error"]["code"]) in MET
        assert daemon.logged("database_damaged")["code"] == "database_corrupt"
        assert daemon.wait() == CORRUPT
        assert whole.database.read_bytes() == damaged, "the damaged file was touched"
    refused(whole, CORRUPT)


def moved_away(box: Box, aside: Path, other: Path) -> None:
    box.database.rename(aside)


def replaced(box: Box, aside: Path, other: Path) -> None:
    box.database.rename(aside)
    shutil.copy(other, box.database)


def replaced_by_a_copy_of_itself(box: Box, aside: Path, other: Path) -> None:
    box.database.rename(aside)
    shutil.copy(aside, box.database)


@pytest.mark.parametrize(
    ("swap", "is_asked"),
    [(moved_away, False), (replaced, True), (replaced_by_a_copy_of_itself, True)],
)
def test_nothing_is_acknowledged_into_a_file_that_nobody_finds(
    whole: Box,
    other: Box,
    tmp_path: Path,
    swap: Callable[[Box, Path, Path], None],
    *,
    is_asked: bool,
) -> None:
    aside = tmp_path / "aside.db"
    with whole.serve() as daemon:
        acknowledged = daemon.chat("before").headers["x-edge-store-id"]
        swap(whole, aside, other.database)
        there = whole.database.read_bytes() if whole.database.exists() else b""
        if is_asked:  # else it is noticed by itself
            assert daemon.refused("into the void") in MET
        assert daemon.logged("database_damaged")["code"] == "not_an_edge_store_file"
        assert daemon.wait() == NOT_OURS
        assert "put that file back and start again" in "\n".join(daemon.raw)
        assert (whole.database.read_bytes() if whole.database.exists() else b"") == there
    refused(whole, CORRUPT if there else NOT_OURS)

    aside.replace(whole.database)  # its -wal has waited in its place
    with whole.serve() as daemon:
        assert acknowledged in whole.texts()
        assert daemon.chat("after").status_code == 200
        assert daemon.stop() == 0
    whole.proven()
