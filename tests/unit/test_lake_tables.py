"""The rows that a copy has for the lake are the box's, each once, from where the lake ends."""

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.replicating import Database

from edge_store.errors import Corrupt, NotAnEdgeStoreFile
from edge_store.fleet.lake.tables import (
    RESULTS_PER_STEP,
    TABLES,
    Point,
    Source,
    bucket_of,
    mark_of,
    rows_after,
    schema_of,
)
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_copy, open_reader


class Lake:
    """Watermarks that are told."""

    buckets = 8

    def __init__(self, *points: Point) -> None:
        self._points = points

    def points(self, table: str, device_id: str, timeline: str) -> tuple[Point, ...]:
        assert (table in TABLES, device_id) == (True, "box-a")
        return tuple(point for point in self._points if point.timeline == timeline)

    def is_unread(self, table: str, copy: Path) -> bool:
        return False


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "box-a.db", "box-a")
    database.write(5)
    yield database
    database.close()


def rows(copy: Path, table: str, lake: Lake) -> list[dict[str, Any]]:
    return [row for batch in rows_after(copy, table, lake) for row in batch.to_pylist()]


def seqs(copy: Path, table: str, *points: Point) -> list[int]:
    return [row["seq"] for row in rows(copy, table, Lake(*points))]


def point(box: Database, seq: int) -> Point:
    found = box.connection.execute("SELECT timeline, digest FROM results WHERE seq = ?", (seq,))
    timeline, digest = found.fetchone()
    return Point(timeline, seq, mark_of(digest))


@pytest.mark.parametrize("table", TABLES)
def test_every_column_of_the_box_is_there_with_its_value(box: Database, table: str) -> None:
    whole = "bodies" if table == "requests" else table
    with closing(open_reader(box.path)) as reader:
        found = reader.execute(f"SELECT * FROM {whole} ORDER BY seq")
        names = [column[0] for column in found.description]
        stored = [dict(zip(names, row, strict=True)) for row in found]
    taken = rows(box.path, table, Lake())
    assert [{name: row[name] for name in names} for row in taken] == stored
    assert {"device_id", "timeline", "seq", "id", "created_at"} <= set(taken[0])


def test_rows_lie_by_the_day_of_admission_and_the_bucket_of_their_box(box: Database) -> None:
    assert {(row["date"], row["bucket"]) for row in rows(box.path, "results", Lake())} == {
        (date(2025, 10, 9), bucket_of("box-a", 8))  # make_result's 1_760_000_000_000
    }


@pytest.mark.parametrize("table", TABLES)
def test_only_what_comes_after_the_newest_known_point_is_read(box: Database, table: str) -> None:
    assert seqs(box.path, table, point(box, 3), point(box, 1)) == [4, 5]
    assert seqs(box.path, table, point(box, 5)) == []


def test_a_point_that_the_copy_does_not_hold_hides_nothing(box: Database) -> None:
    other = point(box, 3)._replace(mark=1)
    later = point(box, 5)._replace(seq=9)
    assert seqs(box.path, "results", other, later) == [1, 2, 3, 4, 5]
    assert seqs(box.path, "results", other, later, point(box, 2)) == [3, 4, 5]


@pytest.mark.parametrize("reason", Reason)
def test_a_point_whose_result_the_box_has_deleted_holds(box: Database, reason: Reason) -> None:
    known = point(box, 3)
    delete_results(box.connection, [1, 2, 3], reason)
    assert seqs(box.path, "results", known) == [4, 5]


def test_what_an_older_box_lacks_is_null(box: Database) -> None:
    box.close()
    with closing(open_copy(box.path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'"):
            connection.execute(f"DROP VIEW {name}")
        connection.execute("ALTER TABLE results DROP COLUMN privacy")
        connection.execute("ALTER TABLE outputs DROP COLUMN constraint_error")
    assert {row["privacy"] for row in rows(box.path, "results", Lake())} == {None}
    assert {row["constraint_error"] for row in rows(box.path, "outputs", Lake())} == {None}
    assert len(rows(box.path, "results", Lake())) == 5


@pytest.mark.parametrize("table", TABLES)
def test_a_row_of_another_box_is_refused(box: Database, table: str) -> None:
    box.write(1, device_id="box-victim")
    with pytest.raises(Corrupt, match="box-a's and has results of box-victim"):
        rows(box.path, table, Lake())


def test_steps_are_consecutive_and_end_at_their_points(box: Database) -> None:
    box.write(300)
    with Source(box.path) as source:
        steps = list(source.steps("outputs", 0, 1))
    assert [step.batch["seq"][-1].as_py() for step in steps] == [step.upto.seq for step in steps]
    assert [s for step in steps for s in step.batch["seq"].to_pylist()] == list(range(1, 306))
    assert [step.upto for step in steps] == [point(box, step.upto.seq) for step in steps]


def test_a_step_of_large_rows_is_a_small_part_of_them(box: Database) -> None:
    box.write(200, body_bytes=200_000)
    with Source(box.path) as source:
        sizes = [step.batch.nbytes for step in source.steps("requests", 0, 1)]
    assert sum(sizes) > 40_000_000
    assert max(sizes) < 20_000_000


def test_results_without_outputs_move_the_point_on(box: Database) -> None:
    box.connection.execute("DELETE FROM outputs")
    with Source(box.path) as source:
        assert [(s.batch.num_rows, s.upto.seq) for s in source.steps("outputs", 0, 1)] == [(0, 5)]


def test_a_file_that_is_no_box_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAnEdgeStoreFile):
        Source(tmp_path / "none.db")


def test_all_tables_have_the_columns_that_join_them() -> None:
    for table in TABLES:
        assert {"device_id", "timeline", "seq", "id", "date", "bucket"} <= set(
            schema_of(table).names
        )
    assert RESULTS_PER_STEP > 100
