"""What one box has written, or where its copy lies, never harms another box or the newest copy."""

import errno
import os
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.replicating import Database

from edge_store.clock import utc_text
from edge_store.errors import DiskBudgetSpent, StoreError
from edge_store.fleet import box as box_module
from edge_store.fleet import forget as forget_module
from edge_store.fleet.box import BoxPull
from edge_store.fleet.budget import DiskBudget
from edge_store.fleet.copies import Standing, keep_standing, last_standing
from edge_store.fleet.find import FoundBox
from edge_store.fleet.forget import all_older_copies
from edge_store.fleet.history import Kept, settle
from edge_store.fleet.met import read_met
from edge_store.fleet.pull import PullPlan, pull
from edge_store.fleet.query import find_copies
from edge_store.fleet.report import BoxReport, Flag, How, Manner
from edge_store.fleet.waits import Waits
from edge_store.ids import DeviceId
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.replica.location import parse_location
from edge_store.replica.objects import Entry, Objects
from edge_store.replica.points import Txid
from edge_store.search.file import index_of_copy
from edge_store.search.index import catch_up
from edge_store.sqlite import open_reader, open_writer

NO_CALENDAR_MS = 10**17


def plan(into: Path) -> PullPlan:
    return PullPlan(manner=Manner(into=into, timeout_s=60.0), jobs=1, attempts=1)


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
    kept = settle(old.path, new.path)
    assert kept == Kept(tmp_path / "old" / f"box-a.{NO_CALENDAR_MS}ms.db")


@pytest.mark.parametrize(
    "odd_of",
    [ValueError("year 3170843 is out of range"), TypeError("a digest is a text"), KeyError("seq")],
    ids=repr,
)
async def test_odd_box_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd_of: Exception
) -> None:
    async def odd(self: BoxPull) -> None:
        raise odd_of

    monkeypatch.setattr(BoxPull, "_pull", odd)
    found = boxes(tmp_path / "replicas", "box-a", "box-b")
    done = await pull(plan(tmp_path / "into"), found)
    assert [report.code for report in done.reports] == ["verify_failed"] * 2


async def test_a_folder_here_that_cannot_be_written_is_not_the_replicas_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> list[object]:
        return []

    monkeypatch.setattr(box_module, "list_files", nothing)
    into = tmp_path / "into"
    into.mkdir()
    (into / ".box-a.db.restoring").write_text("a file in the place of the scratch folder")
    (report,) = (await pull(plan(into), boxes(tmp_path / "replicas", "box-a"))).reports
    assert report.code == "store_error"
    assert "into cannot be written" in (report.error or "")
    hindrance = read_met(into)[report.device_id].hindrance
    assert hindrance == "this machine cannot write or read what it needs for it"


async def test_report_that_cannot_be_told_does_not_end_the_other_boxes(tmp_path: Path) -> None:
    told: list[str] = []

    def tell(report: BoxReport) -> None:
        told.append(report.device_id)
        raise BrokenPipeError

    found = boxes(tmp_path / "replicas", "box-a", "box-b")
    with pytest.raises(BrokenPipeError):
        await pull(plan(tmp_path / "into"), found, tell)
    assert told == ["box-a", "box-b"]


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("bytes_max", [None, 1])
async def test_pull_that_ends_before_the_rename_leaves_the_newest_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool, bytes_max: int | None
) -> None:
    current, new = copy(tmp_path / "into"), copy(tmp_path / "new")
    seen: list[int] = []

    async def nothing(*_: object) -> list[object]:
        return []

    async def full(*_: object, before_replacing: Any, **__: object) -> None:
        before_replacing(new.path)
        seen.append(len([*current.path.parent.glob("box-a*.db")]))
        raise OSError(errno.ENOSPC, "no room")

    def no_links(*_: object) -> None:
        raise PermissionError

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(box_module, "list_files", nothing)
    monkeypatch.setattr(box_module, "restore", full)
    into = current.path.parent
    budget = DiskBudget(into, bytes_max) if bytes_max else None
    (found,) = boxes(tmp_path / "replicas", "box-a")
    content = current.path.read_bytes()
    for _ in range(2):
        pulling = BoxPull(found, plan(into).manner, None, Objects(found.location, None), budget)
        report = await pulling.pull()
        assert report.code == ("disk_budget_spent" if bytes_max else "store_error"), report
        assert report.kept is None
        assert current.path.read_bytes() == content
        assert [path.name for path in into.iterdir()] == ["box-a.db"]
    assert seen == ([] if bytes_max else [2, 2])


def test_twin_of_a_killed_pull_is_taken_for_the_copy_that_it_is(tmp_path: Path) -> None:
    old, new = copy(tmp_path / "old"), copy(tmp_path / "new")
    kept = settle(old.path, new.path)
    assert kept is not None
    assert kept == settle(old.path, new.path)
    size = old.path.stat().st_size
    assert DiskBudget(tmp_path / "old", size).make_room(0) == []
    new.path.replace(old.path)
    assert settle(old.path, kept.path) not in (None, kept)


def test_copy_that_was_just_set_aside_does_not_go_for_another_box(tmp_path: Path) -> None:
    for name in ("box-a.db", "box-b.db", "box-a.2026-01-01T000000Z.db"):
        (tmp_path / name).write_bytes(bytes(100))
    kept = tmp_path / "box-a.2026-01-01T000000Z.db"
    budget = DiskBudget(tmp_path, 350)
    budget.settled(lambda: Kept(kept))
    with pytest.raises(DiskBudgetSpent):
        budget.make_room(100)
    budget.release(kept)
    assert [each.path for each in budget.make_room(100)] == [kept]


def known_copy(folder: Path) -> tuple[Path, FoundBox]:
    """A copy that is up to date, and its box."""
    path = copy(folder / "into").path
    (found,) = boxes(folder / "replicas", "box-a")
    standing = Standing(
        location=str(found.location), txid=Txid(1), witnesses=(), results=1, newest_at=1, head=None,
        head_version="v1", restored_at=1, restored_txid=Txid(1),
        not_forgotten=("box-a.2026-01-01T000000Z.db",),
    )  # fmt: skip
    keep_standing(path, standing)
    head = Entry(key="heads/box-a.json", size=1, written_at=1, version="v1")
    return path, msgspec.structs.replace(found, head=head)


async def unchanged(path: Path, found: FoundBox) -> BoxReport:
    (report,) = (await pull(plan(path.parent), [found])).reports
    assert (report.how, report.error) == (How.UNCHANGED, None)
    return report


async def test_what_could_not_be_forgotten_is_tried_again_by_each_pull(tmp_path: Path) -> None:
    path, found = known_copy(tmp_path)
    older = path.with_name("box-a.2026-01-01T000000Z.db")
    older.write_bytes(b"damaged" * 1000)
    assert [(await unchanged(path, found)).not_forgotten for _ in range(2)] == [(older,)] * 2
    older.write_bytes(path.read_bytes())
    assert (await unchanged(path, found)).not_forgotten == ()
    older.write_bytes(b"damaged" * 1000)
    assert (await unchanged(path, found)).not_forgotten == (), "that was done"


class Killed(BaseException):
    pass


async def test_index_beside_the_newest_copy_is_tried_again_by_each_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pull that has made the copy is killed; and an index that is locked then holds up no older
    copy.
    """

    async def nothing(*_: object) -> list[object]:
        return []

    async def restored(*_: object, **__: object) -> SimpleNamespace:
        with closing(open_writer(path)) as connection:
            assert delete_results(connection, [1], Reason.FORGET) == 1
            connection.execute("PRAGMA journal_mode = DELETE")
        return SimpleNamespace(txid="01", downloaded_bytes=1, results=1, newest_at=1)

    def killed(*_: object) -> None:
        raise Killed

    def locked(_newest: Path) -> None:
        raise StoreError("the search index: database is locked")

    path, found = known_copy(tmp_path)
    older, index = path.with_name("box-a.2026-01-01T000000Z.db"), index_of_copy(path)
    older.write_bytes(path.read_bytes())
    with closing(open_reader(path)) as reader:
        catch_up(index, reader, lambda *_: None).close()
    with monkeypatch.context() as patched:
        patched.setattr(box_module, "list_files", nothing)
        patched.setattr(box_module, "restore", restored)
        patched.setattr(box_module, "forget_in_all", killed)
        no_head = msgspec.structs.replace(found, head=None)
        objects, manner = Objects(found.location, None), plan(path.parent).manner
        with pytest.raises(Killed):
            await BoxPull(no_head, manner, None, objects, None, [older]).pull()
    assert index.exists()
    standing = last_standing(path)
    assert standing is not None
    keep_standing(path, msgspec.structs.replace(standing, head_version="v1"))
    with monkeypatch.context() as patched:
        patched.setattr(forget_module, "forget_in_index", locked)
        report = await unchanged(path, found)
        assert (report.forgotten, report.not_forgotten) == (1, (index,))
        assert (await unchanged(path, found)).not_forgotten == (index,)
    assert (await unchanged(path, found)).not_forgotten == ()
    assert not index.exists()


async def test_good_pull_removes_the_copy_that_was_found_damaged(tmp_path: Path) -> None:
    path, found = known_copy(tmp_path)
    damaged = path.with_name("box-a.db.damaged")
    damaged.write_bytes(b"forgotten")
    assert (await unchanged(path, found)).removed == damaged
    assert not damaged.exists()
    assert (await unchanged(path, found)).removed is None


def test_watch_waits_longer_and_longer_for_what_is_restored_in_vain(tmp_path: Path) -> None:
    now = 0.0
    waits = Waits(lambda: now)
    (box,) = boxes(tmp_path, "box-a")
    headless = BoxReport(device_id=box.device_id, how=How.RESTORED, downloaded_bytes=9)
    tried = []
    for now in range(0, 20_000, 60):
        still = waits.still(box)
        if still is None:
            tried.append(now)
            assert waits.note(box, headless).next_at
        else:
            assert (still.how, still.downloaded_bytes) == (How.UNCHANGED, 0)
    assert [after - before for before, after in pairwise(tried)] == [
        60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600,
    ]  # fmt: skip


def test_wait_ends_with_a_new_head_and_needs_a_reason(tmp_path: Path) -> None:
    waits = Waits(lambda: 0.0)
    (none,) = boxes(tmp_path, "box-a")
    entry = Entry(key="heads/box-a.json", size=1, written_at=1, version="v1")
    box = msgspec.structs.replace(none, head=entry)
    good = BoxReport(device_id=box.device_id, how=How.RESTORED)
    behind = msgspec.structs.replace(good, error="it ends before", code="replica_behind")
    away = msgspec.structs.replace(good, error="no answer", code="replication_error")
    odd = msgspec.structs.replace(good, flags=(Flag.HEAD_UNREADABLE,))
    for report, waits_for in ((good, False), (behind, True), (odd, True), (good, False)):
        waits.note(box, report)
        still = waits.still(box)
        assert (still is not None) == waits_for
        assert still is None or (still.error, still.flags) == (report.error, report.flags)
    waits.note(box, away)
    assert waits.still(box) is None
    waits.note(box, behind)
    newer = msgspec.structs.replace(entry, version="v2")
    assert waits.still(msgspec.structs.replace(box, head=newer)) is None


async def test_box_that_waits_is_not_pulled_and_its_failure_is_told(tmp_path: Path) -> None:
    found = boxes(tmp_path / "replicas", "box-a")
    watching = msgspec.structs.replace(plan(tmp_path / "into"), waits=Waits())
    (first,) = (await pull(watching, found)).reports
    (second,) = (await pull(watching, found)).reports
    assert first.code is not None
    assert (second.code, second.next_at, second.attempts) == (first.code, first.next_at, 0)


async def test_head_that_is_none_is_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> list[object]:
        return []

    async def restored(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(txid="01", downloaded_bytes=1, results=1, newest_at=1)

    path, found = known_copy(tmp_path)
    head = tmp_path / "replicas" / "heads" / "box-a.json"
    head.parent.mkdir()
    head.write_text("{}")
    monkeypatch.setattr(box_module, "list_files", nothing)
    monkeypatch.setattr(box_module, "restore", restored)
    entry = Entry(key="heads/box-a.json", size=2, written_at=1, version="v2")
    found = msgspec.structs.replace(found, head=entry)
    (report,) = (await pull(plan(path.parent), [found])).reports
    assert (report.error, report.flags) == (None, (Flag.HEAD_UNREADABLE,))


def test_damaged_copy_is_kept_under_a_name_that_is_no_copys(tmp_path: Path) -> None:
    old, new = tmp_path / "box-a.db", copy(tmp_path / "new").path
    old.write_bytes(b"damaged" * 1000)
    kept = settle(old, new)
    assert kept is not None
    assert kept.path.name.endswith("Z.db.damaged")
    assert find_copies(tmp_path) == [old]
    assert all_older_copies(tmp_path) == {}
