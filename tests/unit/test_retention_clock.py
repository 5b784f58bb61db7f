"""Results that were made before the clock was set are not older than they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clocks import NOW, ClockedBox, Wall
from support.retaining import DAY_MS

from edge_store.clock import now_ms

EPOCH_AT = 600_000  # ten minutes after 1970 began
KEEP = 5.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


@pytest.fixture
def box(tmp_path: Path, wall: Wall) -> Iterator[ClockedBox]:
    box = ClockedBox(tmp_path, wall)
    yield box
    box.close()


def first_boot(box: ClockedBox, at: int, count: int = 3) -> None:
    box.wall.off_to(at)
    box.boot_again(is_clean=False)
    box.record(count)


@pytest.mark.parametrize("at", [EPOCH_AT, 946_684_800_000, NOW - 8 * DAY_MS, NOW + 4000 * DAY_MS])
def test_results_of_before_the_first_sync_count_from_it(
    box: ClockedBox, wall: Wall, at: int
) -> None:
    first_boot(box, at)
    wall.sync()
    box.record(2)
    is_behind = at < NOW
    assert box.plan(keep_days=KEEP).steps[0].unset == (3 if is_behind else 0)
    assert box.run(keep_days=KEEP).results == 0
    wall.wait(KEEP - 0.01)
    assert box.run(keep_days=KEEP).results == 0
    assert box.plan(content_days=KEEP).steps[0].rows == 0
    wall.wait(0.02)
    assert box.plan(keep_days=KEEP).steps[0].rows == 5
    assert box.run(content_days=KEEP).contents == 5
    assert box.run(keep_days=KEEP).results == 5


def test_idle_box_counts_from_the_next_synced_start(box: ClockedBox, wall: Wall) -> None:
    first_boot(box, EPOCH_AT)
    wall.sync()
    wall.wait(30)
    assert box.run(keep_days=KEEP).results == 0, "nothing says how long they were synced"
    box.boot_again(is_clean=False)
    wall.wait(KEEP - 0.01)
    assert box.run(keep_days=KEEP).results == 0
    wall.wait(0.02)
    assert box.run(keep_days=KEEP).results == 3


def test_sync_that_only_the_end_of_a_boot_saw_counts(box: ClockedBox, wall: Wall) -> None:
    first_boot(box, EPOCH_AT)
    wall.sync()
    box.boot_again()
    box.connection.execute("DELETE FROM boots WHERE boot_no = (SELECT max(boot_no) FROM boots)")
    wall.is_synced = False
    wall.wait(KEEP - 0.01)
    assert box.run(keep_days=KEEP).results == 0
    wall.wait(0.02)
    assert box.run(keep_days=KEEP).results == 3


def test_what_was_admitted_before_the_sync_and_ended_after_it_is_not_older(
    box: ClockedBox, wall: Wall
) -> None:
    first_boot(box, EPOCH_AT)
    said = now_ms() + 1000
    wall.sync()
    box.record()
    box.commit(said, clock_synced=False)
    box.record()
    assert box.run(keep_days=KEEP).results == 0
    wall.wait(KEEP + 0.01)
    assert box.run(keep_days=KEEP).results == 6


def test_box_that_is_never_synced_goes_by_its_clock(box: ClockedBox, wall: Wall) -> None:
    first_boot(box, NOW)
    wall.wait(40)  # a ship that lay still
    box.record()
    box.boot_again()
    assert box.run(keep_days=30).results == 3
    assert box.seqs() == [4]


@pytest.mark.parametrize("is_started_again", [False, True])
def test_clock_that_is_set_by_hand_makes_nothing_old(
    box: ClockedBox, wall: Wall, *, is_started_again: bool
) -> None:
    first_boot(box, EPOCH_AT)
    said = now_ms()
    wall.off = 0
    if is_started_again:
        box.boot_again()
    assert box.run(keep_days=KEEP).results == 0
    box.record()
    box.commit(said, clock_synced=False)  # it was asked before, and ended now
    assert box.run(keep_days=KEEP).results == 0
    assert box.plan(keep_days=KEEP).steps[0].unset == 3, "up to the first that is young"
    wall.wait(KEEP + 0.1)
    assert box.run(keep_days=KEEP).results == 5


def test_clock_that_is_set_wrong_by_hand_makes_nothing_old(box: ClockedBox, wall: Wall) -> None:
    wall.sync()
    box.boot_again()
    box.record(3)
    wall.is_synced = False
    wall.off_to(NOW + 9000 * DAY_MS)
    assert box.run(keep_days=KEEP).results == 0
    wall.off = 0
    wall.wait(KEEP + 0.01)
    assert box.run(keep_days=KEEP).results == 3


def test_times_of_an_import_are_those_of_its_source(box: ClockedBox, wall: Wall) -> None:
    box.boot_again()
    box.commit(NOW - 400 * DAY_MS, engine="import:llm", clock_synced=False)
    box.record()
    wall.sync()
    box.record()
    assert box.run(keep_days=KEEP).results == 1
    assert box.seqs() == [2, 3]


def test_size_goes_by_the_order_of_commits_whatever_the_clock_says(
    box: ClockedBox, wall: Wall
) -> None:
    first_boot(box, EPOCH_AT, count=2)
    wall.off_to(NOW + 4000 * DAY_MS)
    box.record(2)
    wall.sync()
    box.record(2)
    plan = box.plan(keep_days=KEEP, keep_bytes=1)
    assert [(step.what.value, step.rows) for step in plan.steps] == [
        ("result", 0), ("content", 6), ("result", 6)
    ]  # fmt: skip
    assert box.run(keep_days=KEEP, keep_bytes=1).results == 6
