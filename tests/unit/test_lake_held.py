"""An older copy may go to make room once the lake has all of it, and not before."""

from contextlib import closing
from pathlib import Path

import pytest
from support.lakes import exported
from support.replicating import Database

from edge_store.errors import DiskBudgetSpent
from edge_store.fleet.budget import DiskBudget
from edge_store.fleet.lake import care
from edge_store.fleet.lake.held import Held
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import TABLES
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_writer


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Of a box with two results; kept beside."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    database = Database(tmp_path / "box-a.db", "box-a")
    database.write(2)
    path = folder / "box-a.2026-01-01T000000Z.db"
    database.connection.execute("VACUUM INTO ?", (str(path),))
    database.close()
    return path


def test_copy_goes_only_once_the_lake_has_all_of_it(older: Path, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")

    def room(more: int) -> list[Path]:
        bytes_max = older.stat().st_size
        budget = DiskBudget(older.parent, bytes_max, Held(lake).has_all)
        return [each.path for each in budget.make_room(more)]

    with pytest.raises(DiskBudgetSpent, match=r"0\.0 MB of it in older copies that may go"):
        room(1)
    exported(older.parent, Lake(lake), tables=("results",))
    with pytest.raises(DiskBudgetSpent):
        room(1)
    exported(older.parent, Lake(lake), tables=("results", "outputs"))
    assert room(1) == [older]
    assert not older.exists()


def test_bodies_count_where_the_lake_has_those_of_others(older: Path, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    exported(older.parent, lake, tables=("results", "outputs"))
    lake.make("requests", 2)
    assert not Held(str(lake.location.path)).has_all(older)
    exported(older.parent, lake, tables=tuple(TABLES))
    assert Held(str(lake.location.path)).has_all(older)


def test_copy_stays_until_what_it_says_is_forgotten_is_gone(older: Path, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    exported(older.parent, Lake(lake))
    with closing(open_writer(older)) as connection:
        delete_results(connection, [1], Reason.FORGET)
    assert not Held(lake).has_all(older)
    exported(older.parent, Lake(lake), tables=("results", "outputs"))
    assert Held(lake).has_all(older)


def test_copy_whose_rows_came_too_late_for_the_lake_does_not_go(
    older: Path, tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.make("results", 2)
    care.expire(lake, "results", 1)
    reports, said = exported(older.parent, lake, tables=("results", "outputs"))
    assert [each.too_old for each in reports] == [each.too_old for each in said] == [2, 0]
    assert not Held(str(lake.location.path)).has_all(older)


def test_copy_that_cannot_be_read_does_not_go(older: Path, tmp_path: Path) -> None:
    older.write_bytes(b"damaged" * 1000)
    assert not Held(str(tmp_path / "lake")).has_all(older)
