"""Nothing is written to a database that a COMMIT, or a look at it, has found damaged."""

import sqlite3
from pathlib import Path

from support.daemon import Box

from edge_store import exits
from edge_store.sqlite import PAGE_BYTES


def damaged_index(box: Box) -> int:
    """Where the root page of an index lies that no start needs and every COMMIT does."""
    with sqlite3.connect(f"file:{box.database}?mode=ro", uri=True) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'results_by_model_and_hour'"
        ).fetchone()
    connection.close()
    return (int(root) - 1) * PAGE_BYTES


def test_no_end_is_written_after_damage_so_that_the_next_start_looks_again(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="false")
    with box.serve() as daemon:
        assert daemon.chat("whole").status_code == 200
        assert daemon.stop() == 0
    assert not box.database.with_name("results.db-wal").exists()
    offset = damaged_index(box)
    with box.serve() as daemon:
        with box.database.open("r+b") as file:
            file.seek(offset)
            file.write(b"\xa5" * PAGE_BYTES)
        assert daemon.refused("into the damage") in ((500, "database_corrupt"), None)
        assert daemon.wait() == exits.CORRUPT
    before = box.database.read_bytes()
    done = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert done.returncode == exits.CORRUPT, done.stderr
    assert box.database.read_bytes() == before


def test_an_index_is_not_added_to_a_database_that_the_daemon_refuses(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="false")
    with box.serve() as daemon:
        assert daemon.chat("whole").status_code == 200
        daemon.kill()
    wal = box.database.with_name("results.db-wal")
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size // 2)
    before = wal.read_bytes()
    done = box.run("index", "add", "output.x", "--config", str(box.directory))
    assert done.returncode == exits.CORRUPT, done.stderr
    assert wal.read_bytes() == before


def test_who_reads_a_refused_database_does_not_make_it_pass(tmp_path: Path) -> None:
    """A reader makes the WAL's index anew, which alone showed what the WAL has lost."""
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="false")
    with box.serve() as daemon:
        assert daemon.chat("whole").status_code == 200
        daemon.kill()
    wal = box.database.with_name("results.db-wal")
    whole = wal.read_bytes()
    wal.write_bytes(whole[: len(whole) // 2])
    first = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert first.returncode == exits.CORRUPT, first.stderr
    box.run("ledger", "--config", str(box.directory))
    again = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert again.returncode == exits.CORRUPT, again.stderr
    assert "nothing has changed since" in again.stderr
    wal.write_bytes(whole)  # found again
    with box.serve() as daemon:
        assert daemon.chat("whole again").status_code == 200
