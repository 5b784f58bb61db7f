"""Taking digests inside SQLite finds what taking them from fetched rows finds."""

from contextlib import closing
from pathlib import Path

import pytest
from support.records import make_result, new_database

import edge_store.chain
from edge_store.chain import add_digest_function, check_rows
from edge_store.errors import StoreError
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.result import Output
from edge_store.sqlite import SQLITE_ERRORS, driver, open_reader, open_scanner
from edge_store.verify import verify_file

PLAIN = (1, 4)  # the last of them has no output
ALL = (1, 6)
INSERT_OUTPUT = "INSERT INTO outputs (seq, choice_index, output_text, json_state)"
INSERT_CONTENT = "INSERT INTO requests VALUES (2, '', x'', x'', NULL)"
DECLARE_EXPIRED = """
    INSERT INTO deletions SELECT NULL, 0, 'content', 'retention', id, seq, timeline, boot_id,
        boot_seq, 0, NULL, digest FROM results WHERE seq = 2"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Four plain results, one of two outputs, one whose content has expired; closed."""
    path = tmp_path / "results.db"
    connection, boot = new_database(path)
    outputs = [
        tuple(Output(choice_index=i, output_text=f"{n}, {i}") for i in range(choices))
        for n, choices in enumerate((1, 1, 1, 0, 2, 1))
    ]
    results = [make_result(n, boot.boot_id, outputs=o) for n, o in enumerate(outputs, 1)]
    write_batch(connection, boot, read_head(connection), len(results), results)
    delete_results(connection, [6], Reason.RETENTION, What.CONTENT)
    connection.close()
    return path


def change(database: Path, statement: str) -> None:
    with closing(driver.connect(str(database), isolation_level=None)) as connection:
        connection.execute(statement)


def faults(database: Path, span: tuple[int, int] = ALL) -> list[str]:
    with closing(open_scanner(database)) as connection:
        assert add_digest_function(connection)
        return check_rows(connection, *span, in_sql=True)


def test_plain_results_are_not_fetched(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.chain, "_check_piece", None)
    assert faults(database, PLAIN) == []


def test_what_is_not_plain_is_looked_at_row_by_row(database: Path) -> None:
    assert faults(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE results SET latency_ms = latency_ms + 1e-9 WHERE seq = 2",
        "UPDATE results SET error_type = '' WHERE seq = 2",
        "UPDATE results SET finish_reason = NULL WHERE seq = 2",
        "UPDATE results SET tenant = char(0) WHERE seq = 2",
        "UPDATE results SET user_id = endpoint, endpoint = '/' WHERE seq = 2",
        "UPDATE results SET engine = engine || char(0) || 'hidden' WHERE seq = 2",
        "UPDATE outputs SET output_text = output_text || char(0) || 'hidden' WHERE seq = 2",
        "UPDATE outputs SET choice_index = 1 WHERE seq = 2",
        "UPDATE outputs SET output_text = '' WHERE seq = 5 AND choice_index = 1",
        "UPDATE requests SET input_text = NULL WHERE seq = 2",
        "UPDATE requests SET response_body = CAST(response_body || x'00' AS BLOB) WHERE seq = 2",
        "UPDATE results SET digest = zeroblob(32) WHERE seq = 2",
        "DELETE FROM outputs WHERE seq = 2",
        "DELETE FROM requests WHERE seq = 2",
        f"{INSERT_OUTPUT} VALUES (4, 0, '', 'text')",
        f"{INSERT_OUTPUT} VALUES (3, 9, '', 'text')",
        "DELETE FROM results WHERE seq = 2",
        DECLARE_EXPIRED,
    ],
)
def test_a_change_is_found_as_by_fetching(database: Path, statement: str) -> None:
    change(database, statement)  # foreign keys are off: parts of a removed result stay
    with closing(open_reader(database)) as connection:
        fetched = check_rows(connection, *ALL)
    assert fetched
    assert faults(database) == fetched


@pytest.mark.parametrize(
    "statement", [f"{INSERT_OUTPUT} VALUES (2, 0, '', 'text')", INSERT_CONTENT]
)
def test_what_is_put_where_a_result_was_deleted_is_found(database: Path, statement: str) -> None:
    with closing(driver.connect(str(database), isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        delete_results(connection, [2], Reason.RETENTION)
    assert faults(database, PLAIN) == []
    change(database, statement)
    assert len(faults(database, PLAIN)) == 1


def test_text_that_is_not_utf8_is_no_null(database: Path) -> None:
    change(database, "UPDATE results SET tenant = CAST(x'ff' AS TEXT) WHERE seq = 2")
    with pytest.raises(SQLITE_ERRORS):
        faults(database, PLAIN)


def test_what_cannot_be_read_in_a_process_is_said_by_the_one_that_asked(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_store.verify.PARALLEL_FROM", 0)
    change(database, "UPDATE results SET tenant = CAST(x'ff' AS TEXT) WHERE seq = 2")
    with pytest.raises(StoreError, match="UTF-8"):
        verify_file(database, processes=1)


def test_a_driver_whose_functions_cut_values_is_not_used_for_it(database: Path) -> None:
    with closing(driver.connect(":memory:")) as connection:
        connection.create_function("length_of", 1, len)
        cuts = connection.execute("SELECT length_of(char(65, 0, 66))").fetchone() != (3,)
        assert add_digest_function(connection) is not cuts


def test_a_piece_that_is_put_into_a_body_is_found(database: Path) -> None:
    change(database, "INSERT INTO blobs VALUES ('name', 'image/png', x'00')")
    assert faults(database, PLAIN) == []
    change(database, "INSERT INTO request_blobs VALUES (2, 0, 5, 0, 'name')")
    assert len(faults(database, PLAIN)) == 1
