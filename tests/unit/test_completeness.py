"""Whose turn it is in a file, and what became of what a boot admitted, whatever the clock said."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.records import DEVICE, make_result, new_database

import edge_store.identity
import edge_store.recorder.boot
from edge_store.identity import create_identity
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import Boot, begin_boot, end_boot
from edge_store.sql import sql
from edge_store.sqlite import Connection


class Box:
    """One database that boots again and again; each id is less than the one before it."""

    def __init__(self, path: Path) -> None:
        self.connection, self.boot = new_database(path)

    def boot_again(self) -> Boot:
        self.boot = begin_boot(
            self.connection, device_id=DEVICE, version="0", engine="demo", engine_version="0"
        )
        return self.boot

    def commit(self, admitted_upto: int, *boot_seqs: int) -> None:
        results = [make_result(n, self.boot.boot_id) for n in boot_seqs]
        head = read_head(self.connection)
        write_batch(self.connection, self.boot, head, admitted_upto, results)

    def end(self) -> None:
        end_boot(self.connection, self.boot)

    def ended(self) -> bool:
        return bool(self.connection.execute(sql("select_last_boot_ended")).fetchone()[0])

    def completeness(self, columns: str) -> list[tuple[object, ...]]:
        return self.connection.execute(
            f"SELECT {columns} FROM completeness ORDER BY boot_no"
        ).fetchall()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    left: Iterator[int] = iter(range(99, 0, -1))
    for module in (edge_store.identity, edge_store.recorder.boot):
        monkeypatch.setattr(module, "new_boot_id", lambda: f"{next(left):08d}")
    return Box(tmp_path / "results.db")


def timeline(connection: Connection) -> str:
    return str(connection.execute(sql("select_timeline")).fetchone()[0])


def test_restored_file_goes_on_under_its_new_timeline_after_the_clock_stepped_back(
    box: Box,
) -> None:
    before = timeline(box.connection)
    create_identity(box.connection, "", reason="restored")
    assert timeline(box.connection) < before, "ids go backwards here"
    assert box.boot_again().timeline == timeline(box.connection)


def test_the_last_boot_is_the_one_that_is_open_after_the_clock_stepped_back(box: Box) -> None:
    box.commit(2, 1)
    first = box.boot.boot_id
    second = box.boot_again().boot_id
    assert second < first, "ids go backwards here"
    assert box.completeness("boot_id, state") == [(first, "interrupted"), (second, "open")]
    assert not box.ended()
    box.end()
    assert box.ended()
    box.boot_again()
    assert not box.ended()


COUNTS = "state, admitted, completed, in_flight, interrupted, not_stored, percent"


def test_what_has_no_row_is_named_by_how_the_boot_went_on(box: Box) -> None:
    box.commit(4, 1, 2, 4)
    assert box.completeness(COUNTS) == [("open", 4, 3, 1, 0, 0, 100.0)]
    box.boot_again()
    assert box.completeness(COUNTS)[0] == ("interrupted", 4, 3, 0, 1, 0, 75.0)
    box.commit(5, 1, 2, 3, 5)
    box.end()
    assert box.completeness(COUNTS)[1] == ("ended", 5, 4, 0, 0, 1, 80.0)
