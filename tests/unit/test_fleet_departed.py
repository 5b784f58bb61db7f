"""What a box's retention deletes between two pulls is in the lake, or in a copy that is kept."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.fleet import result_rows
from support.lakes import exported, in_lake
from support.replicating import Database

from edge_store.fleet import centre as fleet_centre
from edge_store.fleet.departed import NOTHING, Taken
from edge_store.fleet.forget import older_copies
from edge_store.fleet.history import Kept, settle
from edge_store.fleet.lake import export as export_module
from edge_store.fleet.lake.held import Held
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import TABLES
from edge_store.fleet.query import FleetAnswer
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.sqlite import open_writer

ROWS = ("results", "outputs")


class Centre:
    """One box and the folder that it is pulled into, as ``fleet pull`` does it."""

    def __init__(self, folder: Path) -> None:
        self.box = Database(folder / "results.db", "box-a")
        self.folder = folder / "fleet"
        self.folder.mkdir()
        self.copy = self.folder / "box-a.db"
        self.lake = Lake(str(folder / "lake"))
        self._new = folder / "new.db"

    def retire(self, *seqs: int, what: What = What.RESULT) -> None:
        assert delete_results(self.box.connection, seqs, Reason.RETENTION, what) == len(seqs)

    def pull(self, *, has_lake: bool = True) -> Kept | None:
        self._new.unlink(missing_ok=True)
        self.box.connection.execute("VACUUM INTO ?", (str(self._new),))
        held = Held(str(self.lake))
        taken = held.taken if has_lake else lambda _copy: NOTHING
        kept = settle(self.copy, self._new, older_copies(self.copy), taken)
        self._new.replace(self.copy)
        return kept

    def export(self, *tables: str) -> None:
        reports, _ = exported(self.folder, self.lake, tables=tables or ROWS)
        assert not any(each.failed for each in reports)

    def seqs(self, table: str = "results") -> list[int]:
        rows = self.lake.open(table).to_pyarrow_dataset().to_table(columns=["seq"])
        return sorted(rows["seq"].to_pylist())


def asked(folder: Path) -> FleetAnswer:
    whole = fleet_centre.Centre(folder=folder)
    return whole.ask("SELECT count(*) FROM results", rows_max=1, timeout_s=60)


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    centre = Centre(tmp_path)
    centre.box.write(5)
    yield centre
    centre.box.close()


def test_row_that_retention_deletes_between_two_exports_reaches_the_lake(centre: Centre) -> None:
    centre.pull()
    centre.export()
    centre.box.write(5)
    centre.pull()
    centre.retire(2, 7)
    centre.box.write(1)
    kept = centre.pull()
    assert kept is not None
    assert kept.is_continued
    assert kept.path.exists()
    centre.export()
    centre.export()
    assert centre.seqs() == centre.seqs("outputs") == [*range(1, 12)]


def test_copy_is_not_kept_for_what_the_lake_has(centre: Centre) -> None:
    centre.pull()
    centre.export()
    centre.retire(1, 5)
    centre.retire(2, what=What.CONTENT)  # this lake takes no bodies
    assert centre.pull() is None
    assert older_copies(centre.copy) == []


def test_bodies_are_kept_for_a_lake_that_takes_bodies(centre: Centre) -> None:
    centre.pull()
    centre.export(*TABLES)
    centre.box.write(2)
    centre.pull()
    centre.export(*ROWS)
    centre.retire(3, 6, what=What.CONTENT)
    assert centre.pull() is not None
    centre.export(*TABLES)
    assert centre.seqs("requests") == [*range(1, 8)]
    centre.retire(7, what=What.CONTENT)
    assert centre.pull() is None


def test_copy_is_kept_where_the_lake_cannot_be_read(centre: Centre) -> None:
    centre.pull()
    centre.export()
    (log,) = (centre.folder.parent / "lake" / "results" / "_delta_log").glob("*0.json")
    log.write_text("odd")
    centre.retire(1)
    assert centre.pull() is not None


def test_without_a_lake_copies_hold_the_union_and_one_is_kept_for_many(centre: Centre) -> None:
    """A box that always deletes its oldest: until what is kept has all of that, it is enough."""
    seen: dict[str, Any] = {}
    kept = 0
    for first in range(1, 13):
        kept += centre.pull(has_lake=False) is not None
        assert asked(centre.folder).left_out == kept
        seen |= result_rows(centre.copy)
        centre.retire(first)
        centre.box.write(1)
    union: dict[str, Any] = {}
    for path in (centre.copy, *older_copies(centre.copy)):
        union |= result_rows(path)
    assert union == seen
    assert kept == 3  # of 5 results each
    assert asked(centre.folder).result.rows == [(5,)], "each row once"


def test_body_counts_with_its_result(centre: Centre) -> None:
    """A copy that has the row alone is not enough."""
    centre.pull(has_lake=False)
    older = centre.copy.with_name("box-a.2026-01-01T000000Z.db")
    older.write_bytes(centre.copy.read_bytes())
    centre.retire(1)
    assert centre.pull(has_lake=False) is None
    with closing(open_writer(older)) as connection:
        connection.execute("DELETE FROM requests WHERE seq = 2")
        connection.execute("UPDATE results SET digest = x'00' WHERE seq = 3")
    centre.retire(2)
    assert centre.pull(has_lake=False) is not None
    older_copies(centre.copy)[-1].unlink()
    centre.retire(3)
    assert centre.pull(has_lake=False) is not None, "that is another result"


def test_deletions_of_a_box_that_was_restored_are_not_taken_for_the_older_ones(
    centre: Centre,
) -> None:
    """They count from where the replica was: the same number is of another row."""
    assert centre.pull() is None
    state = centre.folder.parent / "state.db"
    centre.box.connection.execute("VACUUM INTO ?", (str(state),))
    centre.retire(1)
    assert centre.pull(has_lake=False) is not None
    for path in older_copies(centre.copy):
        path.unlink()
    with closing(open_writer(state)) as connection:
        delete_results(connection, [4], Reason.RETENTION)
    assert settle(centre.copy, state) is not None


def test_lake_is_asked_once_and_only_where_something_was_deleted(centre: Centre) -> None:
    asked: list[Path] = []

    def taken(copy: Path) -> Taken:
        asked.append(copy)
        return NOTHING

    new = centre.folder.parent / "other.db"
    centre.pull()
    centre.box.write(3)
    centre.box.connection.execute("VACUUM INTO ?", (str(new),))
    assert settle(centre.copy, new, (), taken) is None
    assert asked == []
    new.unlink()
    centre.retire(1, 2, 3)
    centre.box.connection.execute("VACUUM INTO ?", (str(new),))
    assert settle(centre.copy, new, (), taken) is not None
    assert asked == [centre.copy]


def test_copy_that_a_pull_puts_aside_while_an_export_runs_comes_first(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the watermark would be beyond what only that one has, for good."""
    centre.pull()
    centre.export(*TABLES)
    centre.box.write(5)
    centre.pull()
    centre.retire(7)
    centre.retire(8, what=What.CONTENT)
    grouped = export_module._by_box

    def pulled_meanwhile(plan: export_module.ExportPlan) -> object:
        found = grouped(plan)
        assert centre.pull() is not None
        return found

    monkeypatch.setattr(export_module, "_by_box", pulled_meanwhile)
    centre.export(*TABLES)
    monkeypatch.undo()
    centre.export(*TABLES)
    for table in TABLES:
        assert centre.seqs(table) == [*range(1, 11)], table
    assert len(in_lake(centre.lake, "results")) == 10


def test_copy_between_two_watermarks_brings_nothing_twice(centre: Centre) -> None:
    """It holds the lower one, and the lake has its rows by another that went further."""
    states = [centre.folder / f"box-a.2026-01-0{day}T000000Z.db" for day in (1, 2)]
    for state in states:
        centre.box.write(2)
        centre.box.connection.execute("VACUUM INTO ?", (str(state),))
    between = states[1].rename(centre.folder.parent / "between.db")
    centre.box.write(2)
    centre.pull()
    centre.export()
    centre.export()
    between.rename(states[1])
    told = fleet_centre.Centre(folder=centre.folder, lake_url=str(centre.lake))
    for _ in range(2):
        answer = told.ask("SELECT count(*) FROM generations", rows_max=1, timeout_s=60)
        assert answer.result.rows == [(11,)]
        centre.export()
        assert centre.seqs() == centre.seqs("outputs") == [*range(1, 12)]
