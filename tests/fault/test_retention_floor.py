"""The floor of a disk that others fill, too: results go for it as far as they can bring it about,
and as far as they have grown; never for what others write.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.disks import small_disk_at
from support.retaining import Box, room_of

from edge_store.alerts import AlarmName
from edge_store.chain import verify_chain
from edge_store.config import RetentionSection
from edge_store.errors import StoreError
from edge_store.result import Content
from edge_store.retention.choice import Size, measure
from edge_store.retention.floor import Floor, find_unmet
from edge_store.retention.plan import Plan
from edge_store.retention.room import Room

MIB = 1024 * 1024
NUMBER = 200
BODIES = Content(input_text="", request_body=b"q" * 5000, response_body=b"a" * 5000)  # 2 MB in all


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    with small_disk_at(tmp_path / "disk", "16m") as folder:
        yield folder


@pytest.fixture
def box(disk: Path) -> Iterator[Box]:
    box = Box(disk, [1.0] * NUMBER, content=BODIES)
    assert box.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    yield box
    box.close()


def write(disk: Path, size: int) -> Path:
    """What another program writes."""
    path = disk / f"others-{len(list(disk.iterdir()))}"
    path.write_bytes(bytes(size))
    return path


def room_inside(box: Box) -> int:
    size = measure(box.connection, box.path)
    return size.disk_free + size.inside


def planned(plan: Plan) -> int:
    return sum(step.rows for step in plan.steps)


def test_pass_deletes_what_was_planned_whatever_others_write_meanwhile(
    box: Box, disk: Path
) -> None:
    floor = room_inside(box) + 100_000

    def make(name: str, params: Any) -> Any:
        write(disk, 256 * 1024)
        return box.make(name, params)

    before = planned(box.plan(disk_floor_bytes=floor))
    done = box.run(make=make, disk_floor_bytes=floor)
    assert 0 < done.contents <= before < NUMBER // 10
    plan = box.plan(disk_floor_bytes=floor)
    assert plan.floor_missing_bytes > 200_000
    assert verify_chain(box.connection).faults == ()


def test_floor_that_deleting_does_not_reach_costs_no_result(box: Box, disk: Path) -> None:
    floor = room_inside(box) + 3 * MIB  # the database holds less
    plan = box.plan(disk_floor_bytes=floor)
    assert (plan.steps, plan.floor_in_vain) == ((), True)
    assert plan.floor_missing_bytes > 2 * MIB
    assert box.run(disk_floor_bytes=floor).contents == 0
    assert box.run(disk_floor_bytes=floor, keep_bytes=measure(box.connection, box.path).used -
                   50_000).contents > 0  # another rule  # fmt: skip
    write(disk, MIB)
    assert box.run(disk_floor_bytes=floor).contents == 0


async def test_daemon_keeps_results_and_says_who_fills_the_disk(box: Box, disk: Path) -> None:
    floor = room_inside(box) - MIB
    around = room_of(box, disk_floor_bytes=floor)
    known = Room(around)
    assert not await asyncio.to_thread(known.may_make_room)
    others = write(disk, 3 * MIB)
    assert not await asyncio.to_thread(known.may_make_room)
    await known.work(by_size=False)
    assert len(box.seqs("requests")) == NUMBER
    (alarm,) = around.alarms.active
    assert alarm.name is AlarmName.RETENTION_FAILING
    unmet = find_unmet(around.config, measure(box.connection, box.path))
    assert unmet is not None
    assert alarm.message == str(unmet)
    assert abs(unmet.others - 3 * MIB) < MIB // 8
    assert unmet.database <= unmet.ours < 2 * unmet.database
    again = Room(around)  # after a restart
    await again.work(by_size=False)
    assert len(box.seqs("requests")) == NUMBER
    others.unlink()
    await asyncio.to_thread(again.may_make_room)
    assert around.alarms.active == ()


async def test_results_go_as_far_as_they_have_grown_while_the_floor_is_missed(
    box: Box, disk: Path
) -> None:
    around = room_of(box, disk_floor_bytes=room_inside(box) - MIB)
    known = Room(around)
    await known.work(by_size=False)
    write(disk, 3 * MIB)
    held = measure(box.connection, box.path).used
    for _ in range(3):
        box.add([0.0] * 30, content=BODIES)
        assert await asyncio.to_thread(known.may_make_room)
        await known.work(by_size=True)
        used = measure(box.connection, box.path).used
        assert abs(used - held) < 100_000
    assert NUMBER - 20 < len(box.seqs("requests")) < NUMBER + 20
    (alarm,) = around.alarms.active
    assert "Results stay" in alarm.message


async def test_pass_that_was_cut_goes_on_with_its_own_plan(box: Box, disk: Path) -> None:
    floor = room_inside(box) + 400_000
    before = planned(box.plan(disk_floor_bytes=floor))
    around = room_of(box, disk_floor_bytes=floor)
    change = around.change

    async def cut(*_given: Any) -> Any:
        raise StoreError("cut")

    around.change = cut
    await Room(around).work(by_size=False)
    write(disk, 2 * MIB)
    around.change = change
    await Room(around).work(by_size=False)
    assert 0 < NUMBER - len(box.seqs("requests")) <= before + 2  # in whole pages


FLOOR = RetentionSection(disk_floor_bytes=1000)


def sized(used: int, free: int) -> Size:
    return Size(used, 0, free)


def test_what_may_be_held_is_what_was_held_when_the_floor_was_last_met(tmp_path: Path) -> None:
    floor = Floor(tmp_path / "results.db", FLOOR)
    floor.look(sized(5000, 2000))
    floor.look(sized(6000, 1000))
    floor.look(sized(6000, 400))  # others
    assert floor.over(sized(6000, 400)) == 0
    assert floor.over(sized(6100, 300)) == 100
    floor.keep(sized(6000, 400))
    other = Floor(tmp_path / "results.db", FLOOR)
    other.look(sized(6200, 0))
    assert other.over(sized(6200, 0)) == 200
    changed = Floor(tmp_path / "results.db", RetentionSection(disk_floor_bytes=2000))
    assert changed.is_open(sized(6200, 0))
    changed.decide(sized(6200, 0), lambda most: most)
    assert changed.over(sized(6200, 0)) == 2000


def test_order_decides_anew_and_nothing_goes_in_vain(tmp_path: Path) -> None:
    floor = Floor(tmp_path / "results.db", FLOOR)
    floor.decide(sized(6000, 400), lambda most: most - 1)
    assert floor.over(sized(6000, 400)) == 0
    ordered = Floor(tmp_path / "results.db", FLOOR, afresh=True)
    ordered.decide(sized(6000, 400), lambda most: most)
    assert ordered.over(sized(6000, 400)) == 600
    assert ordered.over(sized(6000, 0)) == 600
    floor.reread()
    floor.look(sized(6000, 400))
    assert floor.over(sized(6000, 400)) == 600


def test_what_cannot_be_written_down_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "retention-floor.json.new").mkdir()
    floor = Floor(tmp_path / "results.db", FLOOR)
    with pytest.raises(StoreError, match=r"retention-floor\.json cannot be written"):
        floor.decide(sized(6000, 400), lambda most: most)


def test_what_the_wal_will_take_of_the_disk_is_not_free(disk: Path) -> None:
    box = Box(disk, [1.0] * NUMBER, content=BODIES)
    before = measure(box.connection, box.path)
    assert before.unmoved > 2 * MIB
    box.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    after = measure(box.connection, box.path)
    assert after.unmoved == 0
    floor = after.disk_free + MIB
    assert abs(before.missing(floor) - after.missing(floor)) < MIB // 8
    box.close()
