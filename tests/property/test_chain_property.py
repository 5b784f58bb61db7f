"""Whoever changes, removes or inserts what a commit carried is found."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import make_result, new_database

from edge_store.chain import ChainCheck, verify_chain
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.result import Output, Status
from edge_store.sqlite import Connection, driver

TABLES = ("results", "outputs", "requests", "commits", "deletions")
# The order of the commits is all that their number says, and `previous` holds that order.
NOT_CHAINED = {("commits", "commit_id")}
# Of a deletion the chain needs these; when, why and whose it was is not chained.
OF_DELETIONS = ("what", "seq", "boot_id", "digest")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three commits with results, marks between them, a result and a content deleted, closed."""
    path = tmp_path_factory.mktemp("chain") / "results.db"
    connection, boot = new_database(path)
    head = read_head(connection)
    admitted = 0
    for rows in (2, 0, 1, 3, 0):
        results = []
        for _ in range(rows):
            admitted += 1
            outputs = tuple(
                Output(choice_index=i, output_text=f"answer {admitted}.{i}", tool_calls="[]")
                for i in range(2)
            )
            failed = {"status": Status.FAILED, "error_type": "engine_error", "http_status": 502}
            results.append(
                make_result(
                    admitted,
                    boot.boot_id,
                    outputs=outputs,
                    metadata='{"a": 1}',
                    **(failed if admitted % 3 == 0 else {}),
                )
            )
        head = write_batch(connection, boot, head, admitted, results).head
    assert delete_results(connection, [2], Reason.RETENTION, What.CONTENT) == 1
    assert delete_results(connection, [4], Reason.FORGET) == 1
    connection.close()
    return path


@contextmanager
def tampering(original: Path) -> Iterator[Connection]:
    """A copy, open without any of the file's own safeguards."""
    copy = original.with_name("copy.db")
    shutil.copyfile(original, copy)
    connection = driver.connect(str(copy), isolation_level=None)
    connection.execute("PRAGMA journal_mode = MEMORY")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    try:
        yield connection
    finally:
        connection.close()


def columns_of(connection: Connection, table: str) -> dict[str, str]:
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}


def rowids(connection: Connection, table: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]


def newest(connection: Connection) -> bytes:
    return bytes(verify_chain(connection).newest_digest)


def is_found(check: ChainCheck, published: bytes) -> bool:
    """What an auditor sees who holds the digest that was published with the head."""
    return bool(check.faults) or check.newest_digest != published


def test_an_untouched_file_holds(original: Path) -> None:
    with tampering(original) as connection:
        check = verify_chain(connection)
    assert check.faults == ()
    assert (check.commits, check.results) == (5, 5)
    assert (check.deleted_forget, check.deleted_retention, check.content_deleted) == (1, 0, 1)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_changed_column_is_found(original: Path, data: st.DataObject) -> None:
    with tampering(original) as connection:
        published = newest(connection)
        table = data.draw(st.sampled_from(TABLES))
        columns = columns_of(connection, table)
        column = data.draw(
            st.sampled_from(
                [
                    name
                    for name in columns
                    if (table, name) not in NOT_CHAINED
                    and (table != "deletions" or name in OF_DELETIONS)
                ]
            )
        )
        rowid = data.draw(st.sampled_from(rowids(connection, table)))
        (old,) = connection.execute(
            f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)
        ).fetchone()
        values = {
            "INTEGER": st.integers(0, 2**40),
            "REAL": st.floats(0, 1e6),
            "TEXT": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            "BLOB": st.binary(max_size=32),
        }[columns[column]]
        new = data.draw((values | st.none()).filter(lambda value: value != old))
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, rowid))
        except driver.IntegrityError:
            return  # the file itself refuses: UNIQUE or NOT NULL
        assert is_found(verify_chain(connection), published), (table, column, old, new)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_removed_row_is_found(original: Path, data: st.DataObject) -> None:
    with tampering(original) as connection:
        published = newest(connection)
        table = data.draw(st.sampled_from(TABLES))
        rowid = data.draw(st.sampled_from(rowids(connection, table)))
        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        assert is_found(verify_chain(connection), published), (table, rowid)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_inserted_row_is_found(original: Path, data: st.DataObject) -> None:
    with tampering(original) as connection:
        published = newest(connection)
        table = data.draw(st.sampled_from(TABLES))
        rowid = data.draw(st.sampled_from(rowids(connection, table)))
        columns = columns_of(connection, table)
        row = dict(
            zip(
                columns,
                connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (rowid,)).fetchone(),
                strict=True,
            )
        )
        fresh = data.draw(st.integers(1, 50))
        forged: dict[str, dict[str, Any]] = {
            "results": {"seq": fresh, "id": "forged", "boot_seq": 1000},
            "outputs": {"seq": fresh, "choice_index": 7},
            "requests": {"seq": fresh},
            "commits": {"commit_id": fresh},
            "deletions": {"deletion_id": 9, "seq": fresh},
        }
        row |= forged[table]
        places = ", ".join("?" for _ in row)
        try:
            connection.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values())
            )
        except driver.IntegrityError:
            return  # that place is taken
        assert is_found(verify_chain(connection), published), (table, row)


@pytest.mark.parametrize(("what", "gone"), [("result", ["results", "outputs", "requests"]),
                                            ("content", ["requests"])])  # fmt: skip
def test_a_removal_that_is_declared_with_another_digest_is_found(
    original: Path, what: str, gone: list[str]
) -> None:
    with tampering(original) as connection:
        connection.execute(
            "INSERT INTO deletions (at, what, reason, id, seq, timeline, boot_id, boot_seq, "
            "created_at, digest) SELECT 0, ?, 'retention', id, seq, timeline, boot_id, boot_seq, "
            "created_at, x'00' FROM results WHERE seq = 3",
            (what,),
        )
        for table in gone:
            connection.execute(f"DELETE FROM {table} WHERE seq = 3")
        faults = verify_chain(connection).faults
        assert any("seq 3 (" in fault or "commit" in fault for fault in faults), faults


@pytest.mark.parametrize(("what", "seq"), [("result", 3), ("content", 3)])
def test_what_is_declared_deleted_and_is_here_is_found(original: Path, what: str, seq: int) -> None:
    with tampering(original) as connection:
        connection.execute(
            "INSERT INTO deletions (at, what, reason, id, seq, timeline, boot_id, boot_seq, "
            "created_at, digest) SELECT 0, ?, 'retention', id, seq, timeline, boot_id, boot_seq, "
            "created_at, digest FROM results WHERE seq = ?",
            (what, seq),
        )
        faults = verify_chain(connection).faults
        assert any("is declared deleted, but it is here" in fault for fault in faults), faults


def test_a_digest_from_elsewhere_finds_a_tail_that_was_cut_off(original: Path) -> None:
    with tampering(original) as connection:
        head = newest(connection)
        assert verify_chain(connection, head=head).faults == ()
        connection.execute("DELETE FROM commits WHERE commit_id >= 4")
        for table in ("results", "outputs", "requests", "deletions"):
            connection.execute(f"DELETE FROM {table} WHERE seq >= 4")
        assert verify_chain(connection).faults == (), "the rest is a chain of its own"
        (fault,) = verify_chain(connection, head=head).faults
        assert head.hex() in fault


def test_two_commits_in_each_others_place_are_found(original: Path) -> None:
    with tampering(original) as connection:
        connection.execute("UPDATE commits SET commit_id = -2 WHERE commit_id = 2")
        assert verify_chain(connection).faults


def test_faults_are_named_and_bounded(original: Path) -> None:
    with tampering(original) as connection:
        connection.execute("UPDATE results SET output_tokens = 7 WHERE seq = 5")
        faults = verify_chain(connection).faults
        assert any(fault.startswith("seq 5 (") for fault in faults), faults
        connection.execute("UPDATE commits SET previous = x'00'")
        assert len(verify_chain(connection, faults_max=2).faults) <= 4
