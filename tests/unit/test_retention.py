"""What is old or too much goes, oldest first; what is pinned, held or needed stays; all counts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.retaining import Box, room_of

from edge_store.alerts import AlarmName
from edge_store.chain import verify_chain
from edge_store.clock import now_ms
from edge_store.errors import AlreadyRunning, InvalidRequest, NotFound, ResultHeld, StoreError
from edge_store.recorder.caller import EVERYBODY
from edge_store.recorder.holds import AddHold, EndHold, read_holds, require_free
from edge_store.responses.store import remove
from edge_store.retention import passes, room
from edge_store.retention.alone import alone_at_it
from edge_store.retention.choice import Rule, measure, pages
from edge_store.retention.compact import compact
from edge_store.retention.room import Room, retain
from edge_store.selection import Selection
from edge_store.stored import delete_completion

AGES = (9, 8, 7, 3, 2, 1)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path, AGES)
    yield box
    box.close()


def is_whole(box: Box) -> bool:
    return verify_chain(box.connection).faults == ()


def test_nothing_goes_unless_the_owner_says_so(box: Box) -> None:
    assert box.run().results == 0
    assert box.seqs() == [1, 2, 3, 4, 5, 6]
    assert box.plan().steps == ()


def test_what_is_older_than_keep_days_goes_and_stays_counted(box: Box) -> None:
    plan = box.plan(keep_days=5)
    done = box.run(keep_days=5)
    assert box.seqs() == box.seqs("requests") == [4, 5, 6]
    assert (done.results, plan.steps[0].rows, plan.steps[0].rule) == (3, 3, Rule.KEEP_DAYS)
    assert plan.steps[0].bytes > 3 * 600
    assert box.account() == {
        "admitted": 6, "completed": 3, "deleted_forget": 0, "deleted_retention": 3, "archived": 0,
        "in_flight": 0, "percent": 100.0,
    }  # fmt: skip
    assert is_whole(box)


def test_bodies_go_before_their_results(box: Box) -> None:
    done = box.run(content_days=5)
    assert (done.contents, done.results) == (3, 0)
    assert (box.seqs(), box.seqs("requests")) == ([1, 2, 3, 4, 5, 6], [4, 5, 6])
    assert is_whole(box)
    assert box.run(keep_days=5).results == 3
    assert is_whole(box)


def test_pinned_and_held_results_stay_until_they_are_not(box: Box) -> None:
    box.pin(1)
    params = AddHold(name="case", selection=Selection(until=now_ms() - 7 * 86_400_000))
    box.make("retention.hold", params)
    plan = box.plan(keep_days=5)
    assert (plan.steps[0].rows, plan.steps[0].pinned, plan.steps[0].held) == (0, 1, 3)
    assert box.run(keep_days=5).results == 0
    box.make("retention.unhold", EndHold(name="case"))
    assert box.run(keep_days=5).results == 2
    assert box.seqs() == [1, 4, 5, 6]
    box.pin(1, "false")
    box.run(keep_days=5)
    assert box.seqs() == [4, 5, 6]


def test_hold_that_begins_during_a_pass_keeps_what_was_chosen(box: Box) -> None:
    def make(name: str, params: Any) -> Any:
        if not read_holds(box.connection):
            box.make("retention.hold", AddHold(name="late", selection=Selection()))
        return box.make(name, params)

    assert box.run(make=make, keep_days=5).kept_meanwhile == 3
    assert box.seqs() == [1, 2, 3, 4, 5, 6]


def test_a_name_holds_once_and_ends_once(box: Box) -> None:
    box.make("retention.hold", AddHold(name="a", selection=Selection(tenant="t")))
    with pytest.raises(InvalidRequest, match="already"):
        box.make("retention.hold", AddHold(name="a", selection=Selection()))
    box.make("retention.unhold", EndHold(name="a"))
    with pytest.raises(NotFound):
        box.make("retention.unhold", EndHold(name="a"))
    box.make("retention.hold", AddHold(name="a", selection=Selection()))
    assert len(read_holds(box.connection)) == 1
    assert len(read_holds(box.connection, ended=True)) == 2


def test_lines_of_a_batch_that_has_not_ended_stay(box: Box, tmp_path: Path) -> None:
    box.add([0], batch_id="batch_1", custom_id="a")
    box.connection.execute(
        "INSERT INTO batches (batch_id, created_at, tenant, caller, endpoint, input_file_id, "
        "input_sha256, completion_window) "
        "VALUES ('batch_1', 0, NULL, '{}', '', '', '', '24h')"
    )
    box.connection.execute("INSERT INTO open_batches SELECT batch_no FROM batches")
    assert box.run(keep_bytes=1).results == 6
    assert box.seqs() == [7]
    assert box.plan(keep_bytes=1).steps[-1].needed == 1


def test_a_clock_that_was_wrong_deletes_nothing_early(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 1, 8, -4000, 9])
    assert box.run(keep_days=5).results == 1
    assert box.seqs() == [2, 3, 4, 5]
    box.close()


def test_results_not_in_the_replica_yet_stay(box: Box) -> None:
    assert box.run(keep_days=5, upto=2).results == 2
    assert box.plan(keep_days=5, upto=2).steps[0].rows == 0
    assert box.seqs() == [3, 4, 5, 6]


def test_too_large_a_file_loses_its_oldest_bodies_first(tmp_path: Path) -> None:
    box = Box(tmp_path, [1.0] * 300)
    large = box.plan(keep_bytes=1).used_bytes
    kept = large - 100_000
    plan = box.plan(keep_bytes=kept)
    done = box.run(keep_bytes=kept)
    assert (done.results, plan.steps[0].rule) == (0, Rule.KEEP_BYTES)
    assert 0 < done.contents < 300
    assert box.seqs("requests") == list(range(done.contents + 1, 301))
    assert box.plan(keep_bytes=1).used_bytes <= kept
    done = box.run(keep_bytes=large // 2)
    assert (done.results > 0, box.seqs("requests")) == (True, [])
    assert is_whole(box)
    box.close()


class Looks:
    """From which seq on each look for what may go began."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.after: list[int] = []

        def looking(connection: Any, step: Any, limits: Any, after: int) -> Any:
            self.after.append(after)
            return pages(connection, step, limits, after)

        patch.setattr(passes, "pages", looking)

    def taken(self) -> list[int]:
        found, self.after = self.after, []
        return found


async def test_what_was_looked_through_in_vain_is_so_again_when_something_has_changed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, around = Looks(monkeypatch), room_of(box, keep_bytes=1)
    known = Room(around)

    async def run() -> int:
        before = len(box.seqs())
        await known.work(by_size=True)
        return before - len(box.seqs())

    def said() -> str:
        (alarm,) = around.alarms.active
        assert alarm.name is AlarmName.RETENTION_FAILING
        return str(alarm.message).partition("stay: ")[2]

    box.make("retention.hold", AddHold(name="all", selection=Selection(until=now_ms() - 1)))
    assert (await run(), looks.taken()) == (0, [0, 0])
    assert said() == "of the results are 6 held"
    assert not known.may_make_room()
    assert (await run(), looks.taken()) == (0, [6, 6])
    assert said() == "of the results are 6 held"
    box.add([-0.1])  # one that is not held
    assert known.may_make_room()
    assert (await run(), looks.taken()) == (1, [6, 6])
    assert not known.may_make_room()
    box.pin(1)
    assert known.may_make_room()
    assert (await run(), looks.taken()) == (0, [0, 0])
    assert said() == "of the results are 1 pinned, 6 held"
    box.make("retention.unhold", EndHold(name="all"))
    assert known.may_make_room()
    assert (await run(), looks.taken()) == (5, [0, 0])
    assert box.seqs() == [1]
    box.pin(1, "false")
    assert (await run(), known.may_make_room()) == (1, False)
    assert "all results that may go have gone" in around.alarms.active[0].message


async def test_defect_in_a_pass_raises_the_alarm(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async def change(*_given: Any) -> Any:
        raise ZeroDivisionError("words of a result")

    monkeypatch.setattr(room, "FIRST_S", 0.0)
    around = room_of(box, keep_days=5)
    around.change = change
    with pytest.raises(ZeroDivisionError):
        await retain(around)
    (alarm,) = around.alarms.active
    assert alarm.name is AlarmName.RETENTION_FAILING
    assert alarm.message == "a pass met ZeroDivisionError, a defect: see the log"


def test_one_pass_at_a_time(box: Box) -> None:
    with alone_at_it(box.path), pytest.raises(AlreadyRunning):
        box.run(keep_days=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_lock_that_root_makes_is_the_databases_owners(box: Box) -> None:
    os.chown(box.path, 1234, 4321)
    with alone_at_it(box.path):
        made = box.path.with_name("retention.lock").stat()
    assert (made.st_uid, made.st_gid) == (1234, 4321)


def test_lock_that_cannot_be_opened_is_told_in_words(box: Box) -> None:
    box.path.with_name("retention.lock").mkdir()
    with pytest.raises(StoreError, match=r"retention\.lock cannot be opened: Is a directory"):
        box.run(keep_days=5)


def test_what_is_pinned_or_held_is_deleted_by_nobody(box: Box) -> None:
    box.pin(1)
    box.make("retention.hold", AddHold(name="all", selection=Selection(user="u")))
    box.add([0.0], user_id="u")
    require_free(box.connection, [2])
    for seq in (1, 7):
        with pytest.raises(ResultHeld):
            require_free(box.connection, [seq])
    with pytest.raises(ResultHeld):
        delete_completion(box.connection, EVERYBODY, box.id_of(7))
    with pytest.raises(ResultHeld):
        remove(box.connection, box.id_of(1))
    assert len(box.seqs()) == 7


def test_compacting_gives_back_what_is_free_inside(tmp_path: Path) -> None:
    box = Box(tmp_path, [9.0] * 200 + [0.0] * 3)
    box.run(keep_days=5)
    before = measure(box.connection, box.path)
    compact(box.connection, box.path)
    after = measure(box.connection, box.path)
    assert before.inside > 20_000
    assert after.inside == 0
    assert after.used < before.used + before.inside // 2
    assert is_whole(box)
    box.close()
