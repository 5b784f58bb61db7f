"""Days that a lake has let go stay gone, whoever writes to it meanwhile."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support.lakes import exported, in_lake
from support.replicating import Database

from edge_store.clock import now_ms
from edge_store.errors import LakeFailed, LakeOvertaken
from edge_store.fleet.lake import care
from edge_store.fleet.lake.append import Appender
from edge_store.fleet.lake.forget import Forgetter
from edge_store.fleet.lake.store import KEPT_SINCE, Lake, kept_since
from edge_store.fleet.lake.tables import Source
from edge_store.recorder.deletions import Reason, delete_results

DAY_MS = 86_400_000
TABLES = ("results", "outputs")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Database]:
    """With two results of ten days ago, and three of now."""
    (tmp_path / "fleet").mkdir()
    database = Database(tmp_path / "results.db", "box-a")
    database.write(2, created_at=now_ms() - 10 * DAY_MS)
    database.write(3, created_at=now_ms())
    yield database
    database.close()


def pulled(box: Database) -> Path:
    copy = box.path.with_name("fleet") / "box-a.db"
    copy.unlink(missing_ok=True)
    box.connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


def test_export_that_waits_across_an_expiry_brings_no_day_back(
    box: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = pulled(box)
    flush, expired = Appender.flush, list[int]()

    def after_an_expiry(appender: Appender) -> None:
        if not expired:  # in the order of the tables: results
            assert appender._points, "rows wait"
            expired.append(care.expire(lake, "results", 5))
        flush(appender)

    monkeypatch.setattr(Appender, "flush", after_an_expiry)
    reports, said = exported(copy.parent, lake, tables=TABLES)

    assert expired == [0], "they were not there yet"
    assert [(each.rows, each.too_old) for each in reports] == [(3, 2), (5, 0)]
    assert not any(each.error for each in said)
    assert (len(in_lake(lake, "results")), len(in_lake(lake, "outputs"))) == (3, 5)


def test_rows_of_a_writer_that_has_not_seen_the_expiry_are_refused(
    box: Database, lake: Lake
) -> None:
    appender = Appender(lake, "results", 2)
    with Source(pulled(box)) as source:
        appender.append(source, frozenset())
    care.expire(lake, "results", 5)
    with pytest.raises(LakeOvertaken):
        appender.flush()
    assert in_lake(lake, "results") == []


def test_expiry_that_an_export_overtakes_looks_at_its_rows_too(
    box: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = pulled(box)
    lake.make("results", 2)

    def overtaken(delta: DeltaTable) -> object:
        found = kept_since(delta)
        monkeypatch.undo()
        exported(copy.parent, lake, tables=("results",))
        return found

    monkeypatch.setattr("edge_store.fleet.lake.care.kept_since", overtaken)
    assert care.expire(lake, "results", 5) == 2
    assert len(in_lake(lake, "results")) == 3


def test_expiry_that_was_killed_half_way_is_gone_on_with(box: Database, lake: Lake) -> None:
    exported(pulled(box).parent, lake, tables=TABLES)
    since = (datetime.now(UTC) - timedelta(days=5)).date()
    lake.open("results").alter.set_table_properties(
        {KEPT_SINCE: since.isoformat()}, raise_if_not_exists=False
    )
    assert care.expire(lake, "results", 30) == 2, "what was let go does not become younger"
    assert len(in_lake(lake, "results")) == 3
    (state,) = care.states(lake, {"results": lake.open("results")})
    assert state.kept_since == since
    version = state.version
    assert care.expire(lake, "results", 30) == 0
    assert lake.open("results").version() == version, "nothing is committed for nothing"


@pytest.mark.parametrize("is_moved", [True, False])
def test_file_that_another_writer_removed_is_no_failure(
    box: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch, *, is_moved: bool
) -> None:
    """Two exports that forget at once: one vacuums what the other is about to read."""
    exported(pulled(box).parent, lake, tables=("results",))
    delete_results(box.connection, [5], Reason.FORGET)
    forget, failed = Forgetter.forget, list[str]()

    def after_another(forgetter: Forgetter, source: Source) -> int:
        if not failed:
            failed.append("a file is not found")
            if is_moved:
                care.expire(lake, "results", 400)
            raise LakeFailed(failed[0])
        return forget(forgetter, source)

    monkeypatch.setattr(Forgetter, "forget", after_another)
    copy = pulled(box)
    if is_moved:
        exported(copy.parent, lake, tables=("results",))
        assert len(in_lake(lake, "results")) == 4
    else:
        with pytest.raises(LakeFailed, match="not found"):
            exported(copy.parent, lake, tables=("results",))
