"""What one box has written, or where its copy lies, never harms another box or the newest copy."""

from pathlib import Path

import pytest
from support.replicating import Database

from edge_store.clock import utc_text
from edge_store.fleet.box import BoxPull, BoxReport, Manner
from edge_store.fleet.find import FoundBox
from edge_store.fleet.history import settle
from edge_store.fleet.pull import PullPlan, pull
from edge_store.ids import DeviceId
from edge_store.replica.location import parse_location

NO_CALENDAR_MS = 10**17


def plan(into: Path) -> PullPlan:
    return PullPlan(manner=Manner(into=into, timeout_s=10.0), jobs=1, attempts=1)


def boxes(folder: Path, *names: str) -> list[FoundBox]:
    """Without a replica: they fail."""
    folder.mkdir(exist_ok=True)
    location = parse_location(str(folder))
    return [FoundBox(device_id=DeviceId(name), location=location) for name in names]


def copy(folder: Path, results: int = 1) -> Database:
    folder.mkdir(exist_ok=True)
    database = Database(folder / "box-a.db", "box-a")
    database.write(results)
    database.connection.execute("PRAGMA journal_mode = DELETE")
    return database


@pytest.mark.parametrize("at", [NO_CALENDAR_MS, -NO_CALENDAR_MS, 10**30, 2**63])
def test_time_that_no_calendar_has_is_its_number(at: int) -> None:
    assert utc_text(at) == f"{at}ms"
    assert utc_text(1_800_000_000_999) == "2027-01-15T08:00:00Z"


def test_copy_of_a_box_with_such_a_clock_is_kept_beside(tmp_path: Path) -> None:
    old, new = copy(tmp_path / "old"), copy(tmp_path / "new")
    old.connection.execute("UPDATE commits SET at = ?", (NO_CALENDAR_MS,))
    assert settle(old.path, new.path) == tmp_path / "old" / f"box-a.{NO_CALENDAR_MS}ms.db"


async def test_odd_box_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def odd(self: BoxPull) -> None:
        raise ValueError("year 3170843 is out of range")

    monkeypatch.setattr(BoxPull, "_pull", odd)
    found = boxes(tmp_path / "replicas", "box-a", "box-b")
    done = await pull(plan(tmp_path / "into"), found)
    assert [report.code for report in done.reports] == ["store_error"] * 2


async def test_report_that_cannot_be_told_does_not_end_the_other_boxes(tmp_path: Path) -> None:
    told: list[str] = []

    def tell(report: BoxReport) -> None:
        told.append(report.device_id)
        raise BrokenPipeError

    found = boxes(tmp_path / "replicas", "box-a", "box-b")
    with pytest.raises(BrokenPipeError):
        await pull(plan(tmp_path / "into"), found, tell)
    assert told == ["box-a", "box-b"]
