"""What a drill finds in a copy. Whole drills, with Litestream, are in e2e/test_drills.py."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from support.replicating import Database

from edge_store.ids import DeviceId
from edge_store.replica.compare import Compared, compare, no_marks, read_marks
from edge_store.sqlite import driver
from edge_store.wal import checkpoint

INSERT = "INSERT INTO annotations (at, id, kind, value) VALUES (1, 'a', 'metadata', ?)"

DRILLS = """
INSERT INTO drills (at, timeline, seq_to, rows, duration_ms, passed)
VALUES (1, 't', 3, 3, 1, 1), (2, 't', 3, 3, 1, 1)
"""
ALL = "DELETE FROM results; DELETE FROM outputs; DELETE FROM requests; DELETE FROM commits"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = tmp_path / "results.db"
    database = Database(path, "box-1")
    database.write(3)
    assert checkpoint(database.connection)
    database.close()
    return path


def change(path: Path, statement: str, *params: str) -> None:
    with closing(driver.connect(str(path), isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute("PRAGMA foreign_keys = 0")
        for each in statement.split(";"):
            connection.execute(each, params)


def compared(live: Path, statement: str, *params: str, in_live: str = "") -> Compared:
    """Of a copy in which this was done; ``in_live``: and that afterwards in the live file."""
    copy = live.with_name("copy.db")
    shutil.copy(live, copy)
    change(copy, statement, *params)
    if in_live:
        change(live, in_live)
    with closing(driver.connect(str(live))) as connection:
        marks = read_marks(connection)
    return compare(copy, live, DeviceId("box-1"), marks)


def test_a_copy_that_is_the_live_file_has_no_faults(live: Path) -> None:
    found = compared(live, INSERT, '"whole"')
    assert (found.rows, found.seq_to, found.faults, found.live) == (3, 3, (), ())


def test_a_row_that_no_constraint_allows_is_damage(live: Path) -> None:
    found = compared(live, INSERT, "no JSON")
    assert found.faults == ("its pages are damaged: CHECK constraint failed in annotations",)


def test_a_result_that_is_missing_is_damage(live: Path) -> None:
    found = compared(live, "DELETE FROM results WHERE seq = 2")
    assert "the first is seq 2" in found.faults[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("DELETE FROM results WHERE seq = 2", "the first is seq 2"),
        ("UPDATE results SET digest = zeroblob(32) WHERE seq = 2", "digest does not match"),
        (ALL, "it has lost its newest commits"),
        ("DELETE FROM drills WHERE drill_id = 1", "drills has lost 1 rows"),
    ],
)
def test_damage_of_the_live_file_is_not_blamed_on_a_sound_copy(
    live: Path, damage: str, words: str
) -> None:
    change(live, DRILLS)
    found = compared(live, INSERT, '"whole"', in_live=damage)
    assert found.faults == ()
    assert words in "; ".join(found.live)


def test_a_copy_of_another_history_is_no_loss_of_the_live_file(live: Path) -> None:
    other = Database(live.with_name("copy.db"), "box-1")
    other.write(3)
    other.write(1)
    other.close()
    found = compare(other.path, live, DeviceId("box-1"), no_marks(0))
    assert found.live == ()
    assert found.faults


def test_what_is_forged_in_both_is_not_proven_and_the_live_file_s(live: Path) -> None:
    forged = "UPDATE outputs SET output_text = 'x' WHERE seq = 2"
    found = compared(live, forged, in_live=forged)
    assert found.faults == ()
    assert "seq 2" in found.live[0]


def test_a_copy_that_is_forged_otherwise_than_the_live_file_is_not_proven(live: Path) -> None:
    forged = "UPDATE outputs SET output_text = '{}' WHERE seq = 2"
    found = compared(live, forged.format("x"), in_live=forged.format("y"))
    assert found.faults + found.live


def test_what_is_forged_in_the_copy_only_is_the_replicas(live: Path) -> None:
    found = compared(live, "UPDATE outputs SET output_text = 'x' WHERE seq = 2")
    assert found.live == ()
    assert "seq 2" in found.faults[0]


def test_a_replica_that_is_worse_than_a_forged_live_file_is_bad(live: Path) -> None:
    forged = "UPDATE outputs SET output_text = 'x' WHERE seq = 2"
    found = compared(live, forged.replace("= 2", "IN (2, 3)"), in_live=forged)
    assert found.live == ()
    assert ["seq 3" in fault for fault in found.faults] == [True]


def test_pages_of_the_live_file_that_are_rotten_are_its_own_damage(live: Path) -> None:
    copy = live.with_name("copy.db")
    shutil.copy(live, copy)
    with live.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (live.stat().st_size - 4096))
    found = compare(copy, live, DeviceId("box-1"), no_marks(0))
    assert found.faults == ()
    assert "malformed" in found.live[0]
