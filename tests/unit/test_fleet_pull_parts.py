"""Parts of a pull: which boxes it is of, how fast, how much disk, and when all is restored."""

import asyncio
import errno
import os
import shutil
from collections import Counter
from pathlib import Path

import click
import msgspec
import pytest

from edge_store.cli.values import SIZE
from edge_store.errors import ConfigError, DiskBudgetSpent, ReplicationError, StoreError
from edge_store.fleet import find, headless
from edge_store.fleet.budget import DiskBudget, copies_bytes
from edge_store.fleet.copies import Standing, copy_path, is_restore_due
from edge_store.fleet.find import Choice, Found, Place, find_boxes, places_of
from edge_store.fleet.history import Kept, drop_twin
from edge_store.fleet.met import read_met
from edge_store.fleet.pace import Pace
from edge_store.fleet.passes import PassReport, keep_report, watch
from edge_store.fleet.pull import PullPlan, pull
from edge_store.fleet.registry import Registry, Store
from edge_store.fleet.report import Manner
from edge_store.ids import DeviceId
from edge_store.replica.extent import Devices, list_devices
from edge_store.replica.location import parse_location
from edge_store.replica.points import Txid

DAY_MS, DAY_S = 86_400_000, 86_400.0
NOW = 1_800_000_000_000


def store(folder: Path, name: str, *boxes: str, head_at_s: float = 1e9) -> Store:
    """A folder of replicas; the boxes in capitals have no head."""
    for box in boxes:
        (folder / name / box.lower() / "results.db").mkdir(parents=True)
        if box.islower():
            head = folder / name / "heads" / f"{box}.json"
            head.parent.mkdir(exist_ok=True)
            head.write_text("{}")
            os.utime(head, (head_at_s, head_at_s))
    return Store(name=name, url=str(folder / name), exclude=("test-*",))


async def found(*stores: Store, since: int | None = None, **group: str) -> Found:
    labels = {DeviceId("box-a"): {"site": "berlin"}, DeviceId("box-x"): {"site": "berlin"}}
    registry = Registry(stores=stores, labels=labels)
    choice = Choice(registry=registry, group=group, since=since)
    return await find_boxes(places_of(registry), choice)


def names(found: Found) -> list[str]:
    return [box.device_id for box in found.boxes]


async def test_boxes_of_all_stores_are_found_but_those_excluded(tmp_path: Path) -> None:
    berlin = store(tmp_path, "berlin", "box-a", "BOX-B", "test-1")
    both = await found(berlin, store(tmp_path, "paris", "box-c"))
    assert names(both) == ["box-a", "box-b", "box-c"]
    assert [box.head is None for box in both.boxes] == [False, True, False]
    assert (both.others, both.unlisted, both.twice) == (1, (), {})


async def test_group_and_since_choose_among_them(tmp_path: Path) -> None:
    berlin = store(tmp_path, "berlin", "box-a", "BOX-B", head_at_s=2e9)
    paris = store(tmp_path, "paris", "box-c", head_at_s=1e9)
    assert names(await found(berlin, paris, site="berlin")) == ["box-a"]
    recent = await found(berlin, paris, since=1_500_000_000_000)
    assert (names(recent), recent.others) == (["box-a"], 1)


async def test_box_in_two_stores_is_nobodys_guess(tmp_path: Path) -> None:
    berlin, paris = store(tmp_path, "berlin", "box-a"), store(tmp_path, "paris", "box-a", "box-b")
    both = await found(berlin, paris)
    assert names(both) == ["box-b"]
    assert "box-a is in berlin and paris" in str(both.twice[DeviceId("box-a")])


async def test_store_that_is_away_does_not_keep_the_others(tmp_path: Path) -> None:
    gone = Store(name="gone", url=str(tmp_path / "nothing"))
    both = await found(gone, store(tmp_path, "paris", "box-b"))
    assert names(both) == ["box-b"]
    assert [(each.store, each.code) for each in both.unlisted] == [("gone", "replica_not_found")]


async def test_a_box_with_a_head_and_no_replica_fails_until_it_has_one(tmp_path: Path) -> None:
    replicas = store(tmp_path, "berlin", "box-a", "box-b")
    for box in ("box-a", "box-b"):
        shutil.rmtree(tmp_path / "berlin" / box)
    plan = PullPlan(manner=Manner(into=tmp_path / "into", timeout_s=60.0), attempts=1)
    both = await found(replicas)
    assert [box.is_alone for box in both.boxes] == [True, True], "and no error of the store"
    done = await pull(plan, both.boxes)
    assert [(each.device_id, each.code) for each in done.reports] == [
        ("box-a", "replica_not_found"), ("box-b", "replica_not_found"),
    ]  # fmt: skip
    assert "its head is in" in (done.reports[0].error or "")
    assert {*read_met(tmp_path / "into")} == {"box-a", "box-b"}
    ltx = tmp_path / "berlin" / "box-b" / "results.db" / "ltx" / "0" / f"{1:016x}-{1:016x}.ltx"
    ltx.parent.mkdir(parents=True)
    ltx.touch()
    done = await pull(plan, both.boxes)
    assert "its head is in" not in (done.reports[1].error or ""), "it is looked at again"


async def test_store_without_keys_is_the_operators_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    place = Place(location=parse_location("s3://edge/fleet?endpoint=http://127.0.0.1:9"))
    with pytest.raises(ConfigError, match="needs a key"):
        await find_boxes([place], Choice(registry=Registry(), group={}))
    with pytest.raises(ConfigError, match="no store to pull from"):
        places_of(Registry())


def kept(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    return path


def test_oldest_of_the_copies_kept_beside_go_first(tmp_path: Path) -> None:
    for name in ("box-a.db", "box-b.db"):
        kept(tmp_path, name, 100)
    new = kept(tmp_path, "box-a.2026-03-01T000000Z.db", 100)
    oldest = kept(tmp_path, "box-b.2026-01-01T000000Z.db", 60)
    middle = kept(tmp_path, "box-a.2026-02-01T000000Z-2.db", 60)
    assert copies_bytes(tmp_path) == 420
    budget = DiskBudget(tmp_path, 420)
    assert budget.make_room(0) == []
    assert [each.path for each in budget.make_room(61)] == [oldest, middle]
    assert (oldest.exists(), middle.exists(), new.exists()) == (False, False, True)
    assert [each.bytes for each in budget.make_room(100)] == [100]


def test_copy_that_goes_takes_its_search_index_with_it(tmp_path: Path) -> None:
    kept(tmp_path, "box-a.db", 100)
    older = kept(tmp_path, "box-a.2026-01-01T000000Z.db", 60)
    for end in ("", "-wal", "-shm"):
        kept(tmp_path, f"{older.name}.search.db{end}", 20)
    budget = DiskBudget(tmp_path, 220)
    assert [(each.path, each.bytes) for each in budget.make_room(1)] == [(older, 120)]
    assert [path.name for path in tmp_path.iterdir()] == ["box-a.db"]
    assert budget.make_room(119) == []


def test_twin_that_goes_takes_its_search_index_with_it(tmp_path: Path) -> None:
    newest = kept(tmp_path, "box-a.db", 100)
    twin = kept(tmp_path, "box-a.2026-01-01T000000Z.db", 100)
    index = kept(tmp_path, f"{twin.name}.search.db", 20)
    assert drop_twin(twin, newest)
    assert not index.exists()


def test_newest_copies_stay_whatever_the_budget_is(tmp_path: Path) -> None:
    newest = kept(tmp_path, "box-a.db", 100)
    older = kept(tmp_path, "box-a.2026-03-01T000000Z.db", 100)
    budget = DiskBudget(tmp_path, 150)
    with pytest.raises(DiskBudgetSpent, match=r"more do not fit"):
        budget.make_room(51)
    assert older.exists(), "nothing is deleted in vain"
    budget.settled(lambda: Kept(older))
    with pytest.raises(DiskBudgetSpent):
        budget.make_room(1)
    budget.release(older)
    assert [each.path for each in budget.make_room(0)] == [older]
    assert newest.exists()


def test_copy_that_is_kept_meanwhile_is_an_older_one_as_the_others(tmp_path: Path) -> None:
    kept(tmp_path, "box-a.db", 100)
    stays = kept(tmp_path, "box-a.2026-01-01T000000Z.db", 100)
    later = kept(tmp_path, "box-a.2026-04-01T000000Z.db", 100)
    asked: list[Path] = []

    def may_go(path: Path) -> bool:
        asked.append(path)
        return path != stays

    budget = DiskBudget(tmp_path, 300, may_go)
    sooner = kept(tmp_path, "box-b.2026-02-01T000000Z.db", 100)
    budget.settled(lambda: Kept(sooner))
    budget.release(sooner)
    assert [each.path for each in budget.make_room(100)] == [sooner]
    assert [each.path for each in budget.make_room(100)] == [later]
    assert asked == [stays, sooner, later]


def test_older_copy_that_others_have_removed_makes_no_room(tmp_path: Path) -> None:
    first = kept(tmp_path, "box-a.2026-01-01T000000Z.db", 100)
    second = kept(tmp_path, "box-a.2026-02-01T000000Z.db", 100)
    budget = DiskBudget(tmp_path, 200)
    first.unlink()
    assert [each.path for each in budget.make_room(50)] == [second]


async def test_folder_that_stays_over_its_bound_is_told_of(tmp_path: Path) -> None:
    kept(tmp_path, "box-a.db", 3_000_000)
    kept(tmp_path, "box-a.2026-03-01T000000Z.db", 2_000_000)
    kept(tmp_path, "box-a.2026-04-01T000000Z.db.damaged", 1_000_000)
    plan = PullPlan(manner=Manner(into=tmp_path, timeout_s=1.0), disk_max=4_000_000)
    held = msgspec.structs.replace(plan, may_go=lambda _path: False)
    said = (await pull(held, [])).over or ""
    assert "6.0 MB, over --disk-max 4.0 MB: the newest copy of a box never goes; 1 older" in said
    assert "1 damaged ones" in said
    assert (await pull(plan, [])).over is None


def standing(*, restored_at: int, is_advanced: bool = True) -> Standing:
    return Standing(
        location="file:///x", txid=Txid(2), witnesses=(), results=1, newest_at=1, head=None,
        head_version=None, restored_at=restored_at, restored_txid=Txid(1 if is_advanced else 2),
    )  # fmt: skip


def test_restores_are_spread_over_the_second_half_of_the_time(tmp_path: Path) -> None:
    boxes = [copy_path(tmp_path, DeviceId(f"box-{number}")) for number in range(800)]
    here = standing(restored_at=NOW)

    def due(days: float) -> int:
        now = NOW + round(days * DAY_MS)
        return sum(is_restore_due(here, box, now, 8 * DAY_S) for box in boxes)

    assert (due(3.99), due(8)) == (0, 800)
    by_day = Counter({day: due(day) - due(day - 1) for day in (5, 6, 7, 8)})
    assert all(120 < count < 280 for count in by_day.values()), by_day


def test_copy_that_is_as_it_was_restored_is_not_restored_again(tmp_path: Path) -> None:
    here = standing(restored_at=0, is_advanced=False)
    assert not is_restore_due(here, tmp_path / "box-a.db", NOW, DAY_S)


def test_pace_is_kept_over_all_who_download() -> None:
    now = 100.0
    pace = Pace(1000, clock=lambda: now)
    assert pace.due_s(500) == pytest.approx(0.5)
    assert pace.due_s(500) == pytest.approx(1.0)
    now = 100.9
    assert pace.due_s(100) == pytest.approx(0.2)
    now = 200.0
    assert pace.due_s(1) == pytest.approx(0.001), "what was not used is not saved up"
    pace.end()
    pace.wait(10**9)  # returns at once


async def test_watch_goes_on_after_an_error_but_not_after_a_first_one() -> None:
    full = OSError(errno.ENOSPC, "no space left", "report.json")
    outcomes: list[Exception | None] = [None, ReplicationError("the store is away"), full, None]
    told: list[str] = []

    async def one_pass() -> None:
        if not outcomes:
            raise asyncio.CancelledError
        if outcome := outcomes.pop(0):
            raise outcome

    with pytest.raises(asyncio.CancelledError):
        await watch(1e-9, one_pass, lambda error: told.append(str(error)))
    assert (told, outcomes) == (["the store is away", "report.json: no space left"], [])

    outcomes.append(ConfigError("fleet.toml is wrong"))
    with pytest.raises(ConfigError):
        await watch(1e-9, one_pass, lambda error: told.append(str(error)))


def test_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    report = PassReport(
        began_at=0, seconds=0.0, boxes=(), others=0, unlisted=(), evicted=(), copies_bytes=0
    )
    (tmp_path / "report.json").mkdir()
    with pytest.raises(StoreError, match=r"report\.json: ") as caught:
        keep_report(report, tmp_path / "report.json")
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("500B", 500), ("64kB", 64_000), ("1.5MB", 1_500_000), ("2GiB", 2 << 30), ("1 TB", 10**12)],
)
def test_size_has_its_unit(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["500", "-1MB", "1mb", "MB", "1e3MB"])
def test_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


async def test_folders_of_a_store_are_listed_once_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, asked, now = ["box-a", "box-b"], 0, 1_000_000

    async def look_for_devices(*_: object) -> Devices:
        nonlocal asked
        asked += 1
        return Devices([*map(DeviceId, there)], {})

    monkeypatch.setattr(headless, "look_for_devices", look_for_devices)
    monkeypatch.setattr(headless, "now_ms", lambda: now)
    place = parse_location("s3://edge/fleet?endpoint=http://127.0.0.1:9")

    async def boxes(*heads: str) -> tuple[list[DeviceId], int]:
        found = await headless.boxes_of(place, None, {*map(DeviceId, heads)}, tmp_path / "into")
        assert found.alone == {"box-gone"} & {*heads}
        return found.devices, asked

    assert await boxes("box-a", "box-gone") == (["box-a", "box-b", "box-gone"], 1)
    assert await boxes("box-a", "box-gone", "box-new") == (
        ["box-a", "box-b", "box-gone", "box-new"], 1,
    )  # fmt: skip
    other = parse_location("s3://edge/other?endpoint=http://127.0.0.1:9")
    await headless.boxes_of(other, None, {DeviceId("box-a")}, tmp_path / "into")
    assert asked == 2
    there = ["box-a", "box-c"]
    now += headless.FRESH_MS
    assert await boxes("box-a") == (["box-a", "box-c"], 3)
    now -= 1  # a clock that was set back proves nothing
    assert await boxes("box-a") == (["box-a", "box-c"], 4)


async def test_a_box_is_in_its_store_no_more_only_by_a_listing_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, now = {"box-a": None, "box-b": None}, 1_000_000

    async def list_heads(_objects: object) -> dict[DeviceId, None]:
        return {DeviceId(name): head for name, head in heads.items()}

    async def look_for_devices(*_: object) -> Devices:
        return Devices([DeviceId("box-a"), DeviceId("box-b")], {})

    monkeypatch.setattr(find, "list_heads", list_heads)
    monkeypatch.setattr(find, "read_credentials", lambda _location: None)
    monkeypatch.setattr(headless, "look_for_devices", look_for_devices)
    monkeypatch.setattr(headless, "now_ms", lambda: now)
    url = "s3://edge/fleet?endpoint=http://127.0.0.1:9"
    registry = Registry(stores=(Store(name="one", url=url),))
    places = places_of(registry)

    async def there() -> list[list[str]]:
        choice = Choice(registry=registry, group={})
        found = await find_boxes(places, choice, tmp_path / "into")
        return [sorted(boxes) for boxes in found.there.values()]

    assert await there() == [["box-a", "box-b"]]
    del heads["box-b"]  # its replica is there
    assert await there() == [], "nobody has looked"
    now += headless.FRESH_MS
    assert await there() == [["box-a", "box-b"]]


async def test_folders_of_boxes_are_looked_into_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {DeviceId(f"box-{n}") for n in range(5)}
    empty: set[DeviceId] = set()
    looked: list[set[DeviceId]] = []
    now = 1_000_000

    async def look_for_devices(_place: object, _keys: object, known: set[DeviceId]) -> Devices:
        looked.append({*heads} - {*known})
        return Devices(sorted({*heads} - (looked[-1] & empty)), {})

    monkeypatch.setattr(headless, "look_for_devices", look_for_devices)
    monkeypatch.setattr(headless, "now_ms", lambda: now)
    monkeypatch.setattr(headless, "LOOKED_INTO_MAX", 2)
    place = parse_location("s3://edge/fleet?endpoint=http://127.0.0.1:9")

    async def alone() -> set[DeviceId]:
        nonlocal now
        found = await headless.boxes_of(place, None, heads, tmp_path / "into")
        assert {*found.devices} == heads
        now += headless.FRESH_MS
        return {*found.alone}

    assert await alone() == set()
    empty = {DeviceId("box-2")}
    assert await alone() == {"box-2"}
    assert await alone() == {"box-2"}
    assert looked == [
        {"box-0", "box-1"}, {"box-2", "box-3"}, {"box-4", "box-0", "box-2"},
    ]  # fmt: skip
    empty = set()
    assert await alone() == set(), "it is there again"


async def test_of_a_folder_that_is_not_looked_into_stays_known_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {DeviceId("box-a"), DeviceId("box-gone")}
    away = ReplicationError("it does not answer")
    answers = [
        Devices([DeviceId("box-a"), DeviceId("box-new")], {}),
        Devices([DeviceId("box-a")], dict.fromkeys(map(DeviceId, ("box-gone", "box-new")), away)),
        Devices([DeviceId("box-gone")], {DeviceId("box-a"): away}),
    ]

    async def look_for_devices(*_: object) -> Devices:
        return answers.pop(0)

    now = 1_000_000
    monkeypatch.setattr(headless, "look_for_devices", look_for_devices)
    monkeypatch.setattr(headless, "now_ms", lambda: now)
    place = parse_location("s3://edge/fleet?endpoint=http://127.0.0.1:9")

    async def boxes() -> tuple[set[str], set[str], set[str]]:
        nonlocal now
        found = await headless.boxes_of(place, None, heads, tmp_path / "into")
        now += headless.FRESH_MS
        return {*map(str, {*found.devices} - heads)}, {*found.alone}, {*found.unseen}

    assert await boxes() == ({"box-new"}, {"box-gone"}, set())
    assert await boxes() == ({"box-new"}, {"box-gone"}, {"box-gone", "box-new"})
    assert await boxes() == (set(), set(), {"box-a"})


async def test_a_pull_names_the_box_that_is_not_looked_into_and_goes_on(tmp_path: Path) -> None:
    replicas = store(tmp_path, "berlin", "box-a", "box-b")
    (tmp_path / "berlin" / "box-a" / "loop").symlink_to("loop")  # a file system that gives up
    done = await found(replicas)
    assert [(box.device_id, box.is_alone) for box in done.boxes] == [
        ("box-a", False), ("box-b", False),
    ]  # fmt: skip
    assert {*done.unseen} == {"box-a"}
    assert "cannot be reached: " in done.unseen[DeviceId("box-a")]
    with pytest.raises(ReplicationError, match="cannot be reached: "):
        await list_devices(done.boxes[0].location, None)


async def test_a_folder_with_nothing_but_its_owner_is_a_replica_that_is_gone(
    tmp_path: Path,
) -> None:
    replicas = store(tmp_path, "berlin", "box-a", "box-b")
    owner = tmp_path / "berlin" / "box-a" / "owner.json"
    shutil.rmtree(owner.parent)
    owner.parent.mkdir()
    owner.write_text("{}")
    assert [box.is_alone for box in (await found(replicas)).boxes] == [True, False]
