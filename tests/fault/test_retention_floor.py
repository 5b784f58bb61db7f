"""The floor of a disk that others fill, too: no more results go for it than come."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import small_disk_at
from support.retaining import Box, room_of

from edge_store.alerts import AlarmName
from edge_store.config import RetentionSection
from edge_store.recorder.deletions import What
from edge_store.result import Content, Output
from edge_store.retention.choice import Size, measure
from edge_store.retention.floor import Floor, find_unmet
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


def test_floor_costs_no_result_by_itself(box: Box, disk: Path) -> None:
    floor = room_inside(box) + 100_000
    plan = box.plan(disk_floor_bytes=floor)
    assert plan.steps == ()
    assert plan.floor_missing_bytes >= 100_000
    assert box.run(disk_floor_bytes=floor).contents == 0
    write(disk, MIB)
    assert box.run(disk_floor_bytes=floor).contents == 0
    bound = measure(box.connection, box.path).used - 50_000
    assert box.run(disk_floor_bytes=floor, keep_bytes=bound).contents > 0  # another rule


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
    assert "no more go than come" in alarm.message


async def test_no_more_results_go_than_come_whatever_they_free(box: Box, disk: Path) -> None:
    around = room_of(box, disk_floor_bytes=room_inside(box) - MIB)
    known = Room(around)
    await known.work(by_size=False)
    write(disk, 3 * MIB)
    assert not await asyncio.to_thread(known.may_make_room)
    box.connection.execute("CREATE TABLE queue_of_others (body BLOB)")
    box.connection.execute("INSERT INTO queue_of_others VALUES (zeroblob(1000000))")
    assert not await asyncio.to_thread(known.may_make_room)  # no result has come
    box.add([0.0] * 5, content=BODIES)
    for _ in range(3):
        await asyncio.to_thread(known.may_make_room)
        await known.work(by_size=True)
    assert len(box.seqs("requests")) == NUMBER
    assert len(box.seqs()) == NUMBER  # and 5 whole results besides, as their bodies were too little
    assert not await asyncio.to_thread(known.may_make_room)


async def test_where_no_body_is_left_a_pass_waits_for_a_change(box: Box, disk: Path) -> None:
    assert box.run(content_days=0.5).contents == NUMBER
    around = room_of(box, disk_floor_bytes=room_inside(box) - MIB)
    known = Room(around)
    await known.work(by_size=False)
    write(disk, 3 * MIB)
    assert not await asyncio.to_thread(known.may_make_room)
    large = (Output(choice_index=0, output_text="x" * 40_000, finish_reason="stop"),)

    for _ in range(2):
        before = box.seqs()
        box.add([0.01] * 5, outputs=large)
        assert box.run(content_days=0.001).contents == 5  # they are without bodies, too
        assert await asyncio.to_thread(known.may_make_room)
        await known.work(by_size=True)
        assert box.seqs() == [*before[5:], *range(before[-1] + 1, before[-1] + 6)]
        assert not await asyncio.to_thread(known.may_make_room)  # no more may go than came
    box.add([0.0], content=BODIES)
    assert await asyncio.to_thread(known.may_make_room)
    await known.work(by_size=True)
    assert box.seqs("requests") == []


async def both_rules_missed(box: Box, disk: Path) -> tuple[Room, int]:
    """The floor by others' files, and keep_bytes, which is given back, by what is no result."""
    bound = measure(box.connection, box.path).used + 700_000
    around = room_of(box, disk_floor_bytes=room_inside(box) - MIB, keep_bytes=bound)
    known = Room(around)
    await known.work(by_size=False)
    write(disk, 3 * MIB)
    assert not await asyncio.to_thread(known.may_make_room)
    box.connection.execute("CREATE TABLE queue_of_others (body BLOB)")
    box.connection.execute("INSERT INTO queue_of_others VALUES (zeroblob(1000000))")
    return known, bound


async def test_smaller_rule_acts_where_no_more_may_go_for_the_floor(box: Box, disk: Path) -> None:
    large = (Output(choice_index=0, output_text="x" * 20_000, finish_reason="stop"),)
    box.add([1.0] * 50, outputs=large)
    assert box.run(content_days=0.5).contents == NUMBER + 50  # so no body may go
    known, bound = await both_rules_missed(box, disk)
    box.add([0.01] * 5)
    assert box.run(content_days=0.001).contents == 5
    over = measure(box.connection, box.path).used - bound
    assert over > 250_000  # and for the floor a million: 5 results

    assert await asyncio.to_thread(known.may_make_room)
    await known.work(by_size=True)
    assert bound - 100_000 < measure(box.connection, box.path).used <= bound
    assert len(box.seqs()) < NUMBER + 50
    assert not await asyncio.to_thread(known.may_make_room)


async def test_rule_of_size_takes_what_a_part_for_the_floor_left_and_no_more(
    box: Box, disk: Path
) -> None:
    known, bound = await both_rules_missed(box, disk)
    box.add([0.01] * 5, content=BODIES)
    bodies = box.seqs("requests")
    await known.work(by_size=True)
    assert bound - 100_000 < measure(box.connection, box.path).used <= bound
    left = box.seqs("requests")
    assert left == bodies[-len(left) :], "the oldest went, and none was passed over"
    assert len(box.seqs()) == NUMBER  # as many results as came went for the floor


FLOOR = RetentionSection(disk_floor_bytes=1000)


def sized(used: int, free: int, newest: int) -> Size:
    return Size(used, 0, free, newest=newest)


def test_what_may_be_held_is_what_was_held_when_the_floor_was_last_met() -> None:
    floor = Floor(FLOOR)
    floor.look(sized(5000, 2000, 10))
    floor.look(sized(6000, 1000, 11))
    floor.look(sized(6000, 400, 11))  # others
    assert floor.over(sized(6000, 400, 11)) == 0
    more = sized(6100, 300, 13)
    assert floor.over(more) == 100
    assert [floor.rows(what, more) for what in What] == [2, 2]
    floor.took(What.CONTENT, 2)
    assert (floor.over(more), floor.rows(What.CONTENT, more)) == (100, 0)
    floor.took(What.RESULT, 2)
    assert floor.over(more) == 0
    floor.look(sized(5900, 1000, 13))
    assert floor.over(sized(6000, 900, 14)) == 100
    started = Floor(FLOOR)  # again, while it is missed
    started.look(sized(6200, 0, 20))
    assert started.over(sized(6200, 0, 20)) == 0
    assert started.over(sized(6300, 0, 21)) == 100


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
