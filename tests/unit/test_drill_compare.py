"""What a drill finds in a copy. Whole drills, with Litestream, are in e2e/test_drills.py."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from support.replicating import Database

from edge_store.ids import DeviceId
from edge_store.replica.compare import Compared, compare, read_marks
from edge_store.sqlite import driver
from edge_store.wal import checkpoint

INSERT = "INSERT INTO annotations (at, id, kind, value) VALUES (1, 'a', 'metadata', ?)"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = tmp_path / "results.db"
    database = Database(path, "box-1")
    database.write(3)
    assert checkpoint(database.connection)
    database.close()
    return path


def compared(live: Path, statement: str, *params: str) -> Compared:
    """Of a copy in which this was done."""
    copy = live.with_name("copy.db")
    shutil.copy(live, copy)
    with closing(driver.connect(str(copy), isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(statement, params)
    with closing(driver.connect(str(live))) as connection:
        marks = read_marks(connection)
    return compare(copy, live, DeviceId("box-1"), marks)


def test_a_copy_that_is_the_live_file_has_no_faults(live: Path) -> None:
    found = compared(live, INSERT, '"whole"')
    assert (found.rows, found.seq_to, found.faults, found.shared) == (3, 3, (), ())


def test_a_row_that_no_constraint_allows_is_damage(live: Path) -> None:
    found = compared(live, INSERT, "no JSON")
    assert found.faults == ("its pages are damaged: CHECK constraint failed in annotations",)


def test_a_result_that_is_missing_is_damage(live: Path) -> None:
    found = compared(live, "DELETE FROM results WHERE seq = 2")
    assert "the first is seq 2" in found.faults[0]
