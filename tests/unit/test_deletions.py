"""What is deleted leaves its number, its reason and its digest, in the same transaction."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.records import make_result, new_database

from edge_store.chain import verify_chain
from edge_store.errors import StoreError
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.sqlite import Connection

COUNT = 6


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """Six results in two commits."""
    connection, boot = new_database(tmp_path / "results.db")
    head = read_head(connection)
    for first in (1, 4):
        batch = [make_result(n, boot.boot_id) for n in range(first, first + 3)]
        head = write_batch(connection, boot, head, first + 2, batch).head
    yield connection
    connection.close()


def seqs(connection: Connection, table: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT DISTINCT seq FROM {table} ORDER BY 1")]


def account(connection: Connection) -> tuple[int, ...]:
    (row,) = connection.execute(
        "SELECT admitted, completed, deleted, deleted_forget, deleted_retention, in_flight "
        "FROM completeness"
    )
    return tuple(row)


def test_deleted_result_is_gone_with_all_that_hangs_on_it_and_stays_counted(
    connection: Connection,
) -> None:
    (result_id,) = connection.execute("SELECT id FROM results WHERE seq = 2").fetchone()
    connection.execute(
        "INSERT INTO annotations (at, id, kind, value) VALUES (0, ?, 'pin', '1')", (result_id,)
    )
    connection.execute(
        "INSERT INTO repairs (at, id, choice_index, json_state, repairer) "
        "VALUES (0, ?, 0, 'repaired', 'r')",
        (result_id,),
    )
    assert delete_results(connection, [2, 5, 99], Reason.RETENTION) == 2
    for table in ("results", "outputs", "requests"):
        assert seqs(connection, table) == [1, 3, 4, 6]
    for table in ("annotations", "repairs"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert account(connection) == (COUNT, 4, 2, 0, 2, 0)
    check = verify_chain(connection)
    assert (check.faults, check.results, check.deleted_retention) == ((), 4, 2)


def test_deleted_content_leaves_the_result_and_a_chain_that_holds(connection: Connection) -> None:
    assert delete_results(connection, [1, 2, 3], Reason.RETENTION, What.CONTENT) == 3
    assert seqs(connection, "requests") == [4, 5, 6]
    assert seqs(connection, "outputs") == seqs(connection, "results") == [1, 2, 3, 4, 5, 6]
    assert account(connection) == (COUNT, COUNT, 0, 0, 0, 0)
    check = verify_chain(connection)
    assert (check.faults, check.content_deleted) == ((), 3)
    connection.execute("UPDATE outputs SET output_text = 'other' WHERE seq = 2")
    assert any(fault.startswith("seq 2 (") for fault in verify_chain(connection).faults)


def test_result_is_deleted_after_its_content_and_forgotten_after_retention(
    connection: Connection,
) -> None:
    assert delete_results(connection, [2], Reason.RETENTION, What.CONTENT) == 1
    assert delete_results(connection, [2], Reason.RETENTION) == 1
    assert delete_results(connection, [2], Reason.FORGET) == 0
    assert delete_results(connection, [2], Reason.FORGET) == 0
    reasons = connection.execute("SELECT what, reason FROM deletions ORDER BY deletion_id")
    assert reasons.fetchall() == [
        ("content", "retention"),
        ("result", "retention"),
        ("result", "forget"),
    ]
    assert account(connection) == (COUNT, COUNT - 1, 1, 1, 0, 0)
    assert verify_chain(connection).faults == ()


def test_seq_of_the_newest_result_is_not_given_again_after_it_was_deleted(
    connection: Connection,
) -> None:
    head = read_head(connection)
    assert delete_results(connection, [COUNT - 1, COUNT], Reason.FORGET) == 2
    assert read_head(connection) == head
    assert head.seq == COUNT


def test_deletion_that_fails_halfway_deletes_nothing(connection: Connection) -> None:
    connection.execute(
        "CREATE TRIGGER refuse BEFORE DELETE ON requests WHEN old.seq = 3 "
        "BEGIN SELECT raise(ABORT, 'no'); END"
    )
    for what in What:
        with pytest.raises(StoreError):
            delete_results(connection, [2, 3], Reason.FORGET, what)
        assert not connection.in_transaction
    assert seqs(connection, "requests") == seqs(connection, "results") == [1, 2, 3, 4, 5, 6]
    assert connection.execute("SELECT count(*) FROM deletions").fetchone() == (0,)
