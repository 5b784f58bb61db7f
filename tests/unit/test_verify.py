"""Checking a file by many processes finds what checking it by one finds."""

import os
import signal
from pathlib import Path

import pytest
from support.replicating import Database

import edge_store.chain
import edge_store.verify
from edge_store.errors import Corrupt
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import driver
from edge_store.verify import verify_file

RANGES = 4
SEQS = 40


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results with a gap, closed; so small ranges and pieces that there are several."""
    monkeypatch.setattr(edge_store.verify, "RANGE_SEQS", SEQS // RANGES)
    monkeypatch.setattr(edge_store.verify, "PARALLEL_FROM", 0)
    monkeypatch.setattr(edge_store.chain, "RESULTS_AT_ONCE", 3)  # of one process
    path = tmp_path / "results.db"
    written = Database(path, "box-1")
    for _ in range(5):
        written.write(SEQS // 5)
    delete_results(written.connection, range(8, 25), Reason.RETENTION)
    written.close()
    return path


def change(database: Path, *statements: str) -> None:
    connection = driver.connect(str(database), isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_processes_find_a_fault_in_each_range_and_beyond(database: Path) -> None:
    whole = verify_file(database, processes=2)
    assert (whole.faults, whole.results, whole.deleted_retention) == ((), SEQS - 17, 17)
    change(
        database,
        "PRAGMA foreign_keys = OFF",
        "UPDATE results SET latency_ms = 1 WHERE seq IN (2, 26, 40)",
        "INSERT INTO requests VALUES (15, '', x'', x'', NULL)",
        "INSERT INTO requests VALUES (-7, '', x'', x'', NULL)",
        "INSERT INTO requests VALUES (999, '', x'', x'', NULL)",
    )
    found = verify_file(database, processes=2)
    assert sorted(found.faults) == sorted(verify_file(database, processes=1).faults)
    for seq in (2, 26, 40):
        assert any(f"seq {seq} (" in fault for fault in found.faults), found.faults
    for seq in (15, -7, 999):
        assert f"requests of seq {seq} have no result" in found.faults


def lose_process(_path: Path, _seq_from: int, _seq_to: int) -> list[str]:
    """As a page does that the disk does not give to a map."""
    os.kill(os.getpid(), signal.SIGBUS)
    raise AssertionError("it was not lost")


def test_lost_process_leaves_its_work_to_be_done_without_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(database, "UPDATE results SET latency_ms = 1 WHERE seq = 26")
    monkeypatch.setattr(edge_store.verify, "_check_range", lose_process)
    found = verify_file(database, processes=2)
    assert len(found.faults) == 1
    assert found.faults[0].startswith("seq 26 (")


def test_forged_seq_far_out_is_found(database: Path) -> None:
    change(
        database,
        "PRAGMA foreign_keys = OFF",
        "UPDATE results SET seq = 4611686018427387904 WHERE seq = 40",
    )
    faults = verify_file(database, processes=2).faults
    assert any("seq 4611686018427387904 (" in fault for fault in faults), faults
    assert "seq 4611686018427387904 belongs to no commit" in faults


@pytest.mark.parametrize("seq", [-7, -(2**63)])
def test_result_before_all_commits_belongs_to_none(tmp_path: Path, seq: int) -> None:
    path = tmp_path / "results.db"
    written = Database(path, "box-1")
    written.write(2)
    written.write(1)
    written.close()
    change(path, "PRAGMA foreign_keys = OFF", f"UPDATE results SET seq = {seq} WHERE seq = 3")
    assert f"seq {seq} belongs to no commit" in verify_file(path).faults


def test_damaged_page_is_said_by_whoever_meets_it(database: Path) -> None:
    with database.open("r+b") as file:
        size = file.seek(0, 2)
        for page in range(size // 4096 // 2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(Corrupt, match="malformed"):
        verify_file(database, processes=2)
