"""Whose turn it is in a file, and what became of what a boot admitted, whatever the clock said."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.records import DEVICE, make_result, new_database

import edge_store.identity
import edge_store.recorder.boot
from edge_store.identity import create_identity
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot, end_boot
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.result import Boot
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

    def lose(self, boot_seq: int) -> None:
        self.connection.execute(
            "INSERT INTO losses (at, boot_id, boot_seq, id, code, message) "
            "VALUES (1760000000000, ?, ?, ?, 'store_error', 'no')",
            (self.boot.boot_id, boot_seq, f"id-{self.boot.boot_id}-{boot_seq}"),
        )

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


SUM = (
    "admitted - completed - incomplete - failed - cancelled - deleted - lost - in_flight"
    " - interrupted - not_stored"
)


def test_deletions_and_losses_are_counted_apart_and_only_losses_lower_the_share(box: Box) -> None:
    box.commit(8, 1, 2, 4, 5)
    delete_results(box.connection, [1], Reason.FORGET)
    delete_results(box.connection, [2, 3], Reason.RETENTION)
    for boot_seq in (3, 6):
        box.lose(boot_seq)
    columns = "completed, deleted_forget, deleted_retention, lost, in_flight, percent"
    assert box.completeness(columns) == [(1, 1, 2, 2, 2, 66.6666)]
    box.boot_again()
    columns = "state, lost, in_flight, interrupted, percent"
    assert box.completeness(columns)[0] == ("interrupted", 2, 0, 2, 50.0)
    assert box.completeness(SUM) == [(0,), (0,)]


def test_a_single_loss_is_not_rounded_away(box: Box) -> None:
    box.commit(3_000_000)
    box.lose(1)
    box.connection.execute(
        "INSERT INTO deletions (at, what, reason, id, seq, timeline, boot_id, boot_seq, created_at,"
        " digest) WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
        " SELECT 0, 'result', 'retention', i, i, '', ?, i, 0, x'' FROM n",
        (box.boot.boot_id,),
    )
    assert box.completeness("lost, in_flight, percent") == [(1, 2_970_000, 99.9966)]


def test_a_cut_is_named_by_its_last_mark_and_the_next_start(box: Box) -> None:
    box.commit(3, 1)
    cut = box.boot.boot_id
    box.connection.execute("UPDATE commits SET at = 1760000000000")
    box.connection.execute("UPDATE boots SET at = 1759990000000")
    box.boot_again()
    box.connection.execute("UPDATE boots SET at = 1760100000000 WHERE boot_id <> ?", (cut,))
    assert box.completeness("interrupted, unknown_after, unknown_until")[0] == (
        2,
        "2025-10-09T08:53:20.000Z",
        "2025-10-10T12:40:00.000Z",
    )
    by_day = box.connection.execute(
        "SELECT day, admitted, completed, interrupted, cuts, percent FROM completeness_by_day"
    ).fetchall()
    assert by_day == [
        ("2025-10-09", 3, 1, 2, 1, 33.3333),
        ("2025-10-10", 0, 0, 0, 0, 100.0),  # the boot that goes on has admitted nothing yet
    ]


def test_days_sum_up_to_what_the_boots_sum_up_to(box: Box) -> None:
    day_ms = 86_400_000
    for boot in range(3):
        results = [
            make_result(n, box.boot.boot_id, created_at=1_760_000_000_000 + (n % 3) * day_ms)
            for n in range(1, 8)
        ]
        head = read_head(box.connection)
        write_batch(box.connection, box.boot, head, 11, results)
        delete_results(box.connection, [head.seq + 1, head.seq + 2], Reason.RETENTION)
        delete_results(box.connection, [head.seq + 3], Reason.FORGET)
        box.lose(9)
        if boot == 1:
            box.end()
        box.boot_again()
    names = (
        "admitted", "completed", "deleted", "deleted_forget", "deleted_retention", "lost",
        "in_flight", "interrupted", "not_stored",
    )  # fmt: skip
    sums = ", ".join(f"sum({name})" for name in names)
    by_boot, by_day = (
        box.connection.execute(f"SELECT {sums} FROM {view}").fetchone()
        for view in ("completeness", "completeness_by_day")
    )
    assert by_boot == by_day == (33, 12, 9, 3, 6, 3, 0, 6, 3)
    days = box.connection.execute("SELECT day, deleted FROM completeness_by_day ORDER BY day")
    assert days.fetchall()[:3] == [("2025-10-09", 3), ("2025-10-10", 3), ("2025-10-11", 3)]
