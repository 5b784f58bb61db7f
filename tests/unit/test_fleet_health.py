"""Each thing that can be wrong with a box is found by what shows it, and by nothing less."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from support.fleet_health import DAY, MINUTE, NOW, Centre, found, make_copy, names

from edge_store.alerts import AlarmName
from edge_store.cli.fleet_health import health
from edge_store.errors import (
    DiskFull,
    ReplicationError,
    RestoreTimedOut,
    StoreError,
    VerifyFailed,
)
from edge_store.fleet.copies import is_same
from edge_store.fleet.find import FoundBox
from edge_store.fleet.heads import DEAD_AFTER_S, LATE_AFTER_S, HeadState
from edge_store.fleet.health.facts import Facts, Gap, HeadHere, facts_of
from edge_store.fleet.health.findings import Bounds, BoxHealth, Evidence, Finding, judge_box
from edge_store.fleet.health.summary import NAMES
from edge_store.fleet.met import note_met
from edge_store.fleet.report import BoxReport
from edge_store.ids import DeviceId
from edge_store.replica.heads import Head, Proven
from edge_store.replica.location import parse_location
from edge_store.replica.machine import MachineState

GB = 10**9
BOUNDS = Bounds(late_after_s=LATE_AFTER_S, dead_after_s=DEAD_AFTER_S)
MACHINE = MachineState(disk_bytes=100 * GB, disk_free_bytes=50 * GB, clock_synced=True)


def head(**changes: object) -> Head:
    made = Head(
        device_id=DeviceId("box-1"),
        timeline="one",
        txid=7,
        seq=5,
        rows=5,
        deletion_id=0,
        commit_id=3,
        digest="ab" * 32,
        schema_version=1,
        version="1.2.0",
        proven=Proven(txid="7", seq=5),
        machine=MACHINE,
    )
    return msgspec.structs.replace(made, **changes)


def facts(**changes: object) -> Facts:
    made = Facts(
        size=1,
        modified_ns=1,
        timeline="one",
        seq=5,
        began_at=NOW - 30 * DAY,
        drilled_at=NOW - DAY,
        drilled_seq=5,
        here=HeadHere(seq=5, commit_id=3, at=NOW - 10 * DAY, digest="ab" * 32),
    )
    return msgspec.structs.replace(made, **changes)


def box(
    head_here: Head | None = None,
    facts_here: Facts | None = None,
    *,
    age_ms: int = MINUTE,
    behind_since: int | None = None,
    others: tuple[str, ...] = (),
    bounds: Bounds = BOUNDS,
) -> BoxHealth:
    evidence = Evidence(
        device_id=DeviceId("box-1"),
        store="s",
        head_at=NOW - age_ms,
        head=head_here or head(),
        facts=facts_here,
        behind_since=behind_since,
        others=others,
    )
    return judge_box(evidence, bounds, NOW)


def test_a_box_with_nothing_wrong_is_well() -> None:
    for each in (box(), box(facts_here=facts())):
        assert (each.ok, each.findings) == (True, ())
    assert (each.state, each.results_behind, each.missing) == (HeadState.IDLE, 0, 0)


def test_two_missed_heads_are_late_and_a_day_of_them_is_dead() -> None:
    assert names(box(age_ms=9 * MINUTE)) == []
    assert names(box(age_ms=12 * MINUTE)) == ["late"]
    assert names(box(age_ms=2 * DAY)) == ["dead"]


def test_a_dead_box_is_not_blamed_for_its_old_drill() -> None:
    old = facts(drilled_at=NOW - 9 * DAY)
    assert names(box(facts_here=old, age_ms=2 * DAY)) == ["dead"]
    assert names(box(facts_here=old)) == ["drill_old"]


def test_a_head_that_is_none_and_one_that_is_gone_are_found() -> None:
    unreadable = Evidence(
        device_id=DeviceId("box-1"), store="s", head_at=NOW, head=None, facts=facts()
    )
    assert names(judge_box(unreadable, BOUNDS, NOW)) == ["head_unreadable"]
    gone = msgspec.structs.replace(unreadable, head_at=None)
    judged = judge_box(gone, BOUNDS, NOW)
    assert (names(judged), judged.state) == (["head_gone"], None)


def test_somebody_else_under_the_id_is_found() -> None:
    assert found(box(others=("so",)), "duplicate") == "so"


def test_requests_without_a_row_are_found_while_their_boots_are_young() -> None:
    gaps = (Gap(at=NOW - DAY, missing=2), Gap(at=NOW - 9 * DAY, missing=5))
    judged = box(facts_here=facts(gaps=gaps))
    assert found(judged, "incomplete").startswith("2 admitted")
    assert judged.missing == 2
    assert names(box(facts_here=facts(gaps=gaps[1:]))) == []


def test_a_drill_that_failed_is_found_by_the_head_or_by_the_copy() -> None:
    failed = head(machine=msgspec.structs.replace(MACHINE, drill_failed=True))
    assert names(box(failed)) == ["drill_failed"]
    assert "no copy here" in found(box(failed), "drill_failed")
    assert "the copy here is from before" in found(box(failed, facts()), "drill_failed")
    assert found(box(failed, facts(drill_failure="two rows")), "drill_failed") == "two rows"
    told_by_copy = facts(drill_failure="two rows")
    assert names(box(head(machine=None), told_by_copy)) == ["drill_failed"]
    assert names(box(head(), told_by_copy)) == [], "the head is newer: one has passed since"


def test_an_old_drill_is_found_unless_the_head_knows_a_newer_one() -> None:
    old = facts(drilled_at=NOW - 9 * DAY)
    assert "2027-01-06" in found(box(facts_here=old), "drill_old")
    never = facts(drilled_at=None, drilled_seq=0)
    assert "ever" in found(box(head(proven=None), never), "drill_old")
    young = facts(drilled_at=None, drilled_seq=0, began_at=NOW - DAY)
    assert names(box(head(proven=None), young)) == [], "its first is not due"
    assert names(box(head(proven=Proven(txid="9", seq=6)), old)) == []
    assert names(box(facts_here=old, bounds=msgspec.structs.replace(BOUNDS, drill_after_s=0))) == []


def test_a_full_disk_is_found() -> None:
    full = msgspec.structs.replace(MACHINE, disk_free_bytes=9 * GB)
    assert found(box(head(machine=full)), "disk_low") == "9.0 of 100.0 GB are free"
    just = msgspec.structs.replace(MACHINE, disk_free_bytes=10 * GB)
    assert names(box(head(machine=just))) == []


@pytest.mark.parametrize(("offset_s", "way"), [(70, "ahead of"), (-70, "behind")])
def test_a_wrong_clock_is_found_by_what_the_box_tells(offset_s: int, way: str) -> None:
    told = msgspec.structs.replace(MACHINE, clock_offset_s=offset_s)
    assert f"70 s {way}" in found(box(head(machine=told)), "clock_off")
    told = msgspec.structs.replace(MACHINE, clock_offset_s=offset_s // 2)
    assert names(box(head(machine=told))) == []


def test_a_commit_just_before_its_head_does_not_hide_a_clock_that_is_behind() -> None:
    told = msgspec.structs.replace(MACHINE, clock_offset_s=-70)
    just_before = facts(here=HeadHere(seq=5, commit_id=3, at=NOW - MINUTE - 5000, digest="ab" * 32))
    assert "70 s behind" in found(box(head(machine=told), just_before), "clock_off")


def test_an_older_version_than_the_least_is_found() -> None:
    bounds = msgspec.structs.replace(BOUNDS, version_min="1.10.0")
    assert "1.2.0" in found(box(bounds=bounds), "outdated")
    assert names(box(head(version="1.10.0"), bounds=bounds)) == []


def test_a_copy_that_stays_behind_its_head_is_found_after_a_while() -> None:
    behind = facts(seq=2)
    assert names(box(facts_here=behind, behind_since=NOW - DAY + MINUTE)) == []
    judged = box(facts_here=behind, behind_since=NOW - DAY - MINUTE)
    assert found(judged, "copy_old").startswith("3 results are")
    assert (judged.state, judged.results_behind) == (HeadState.ALIVE, 3)


def test_a_copy_that_cannot_be_read_is_found() -> None:
    broken = Facts(size=1, modified_ns=1, error="it is no database")
    assert found(box(facts_here=broken), "copy_unreadable") == "it is no database"


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre(tmp_path)


@pytest.fixture
def copy(tmp_path: Path) -> tuple[Path, Head]:
    return make_copy(tmp_path, "box-1", 3)


def test_a_copy_says_what_it_holds(copy: tuple[Path, Head]) -> None:
    path, told = copy
    read = facts_of(path, told, None)
    assert read is not None
    assert read.here is not None
    assert (read.timeline, read.seq, read.gaps, read.error) == (told.timeline, 3, (), None)
    assert (read.here.commit_id, read.here.digest) == (told.commit_id, told.digest)
    assert facts_of(path.with_name("none.db"), told, None) is None


def test_what_is_known_of_a_copy_holds_while_the_file_does(copy: tuple[Path, Head]) -> None:
    path, told = copy
    read = facts_of(path, told, None)
    assert read is not None
    known = msgspec.structs.replace(read, drilled_at=17)
    assert facts_of(path, told, known) is known
    earlier = msgspec.structs.replace(told, seq=2)
    again = facts_of(path, earlier, known)
    assert again is not None
    assert again.here is not None
    assert (again.here.seq, again.drilled_at) == (2, 17), "the head is another: that is looked up"
    path.write_bytes(b"no database")
    broken = facts_of(path, told, known)
    assert broken is not None
    assert broken.error is not None
    assert str(path) in broken.error


def test_copy_that_can_be_read_again_is_read_though_its_file_is_the_same(
    copy: tuple[Path, Head],
) -> None:
    path, told = copy
    state = path.stat()
    broken = Facts(size=state.st_size, modified_ns=state.st_mtime_ns, error="permission denied")
    read = facts_of(path, told, broken)
    assert read is not None
    assert (read.error, read.seq) == (None, 3)


def test_a_commit_from_the_future_tells_of_the_clock(copy: tuple[Path, Head]) -> None:
    path, told = copy
    read = facts_of(path, told, None)
    assert read is not None
    assert read.here is not None

    def judged(ahead_ms: int) -> BoxHealth:
        head_at = read.here.at - ahead_ms if read.here else 0
        evidence = Evidence(
            device_id=DeviceId("box-1"), store="s", head_at=head_at, head=told, facts=read
        )
        return judge_box(evidence, BOUNDS, head_at)

    assert "100 s ahead" in found(judged(100_000), "clock_off")
    assert names(judged(-100_000)) == [], "a head may be put long after its commit"


def test_a_copy_that_contradicts_its_head_is_tampered_with(copy: tuple[Path, Head]) -> None:
    path, told = copy
    other = msgspec.structs.replace(told, digest="00" * 32)
    evidence = Evidence(
        device_id=DeviceId("box-1"),
        store="s",
        head_at=NOW,
        head=other,
        facts=facts_of(path, other, None),
    )
    assert names(judge_box(evidence, BOUNDS, NOW))[0] == "tampered"


def test_gaps_drills_and_clocks_are_read_from_the_copy(tmp_path: Path) -> None:
    path, told = make_copy(
        tmp_path,
        "box-1",
        1,
        """
        INSERT INTO losses (at, boot_id, boot_seq, id, code, message)
        SELECT 1, boot_id, 9, 'x', 'disk_full', '' FROM boots;
        INSERT INTO drills (at, timeline, seq_to, rows, duration_ms, passed, failure)
        VALUES (11, 't', 1, 1, 1, 1, NULL), (12, 't', 1, 1, 1, 0, 'two rows');
        """,
    )
    read = facts_of(path, told, None)
    assert read is not None
    assert [gap.missing for gap in read.gaps] == [1]
    assert (read.drilled_at, read.drilled_seq, read.drill_failure) == (11, 1, "two rows")
    assert read.clock_synced in (True, False)


@pytest.mark.parametrize(
    ("listed", "known", "same"),
    [("a", "a", True), ("a", '"a"', True), ("a", "b", False), (None, None, False)],
)
def test_an_object_is_as_it_was_whatever_quotes_its_etag_has(
    listed: str | None,
    known: str | None,
    same: bool,  # noqa: FBT001  (a table)
) -> None:
    assert is_same(listed, known) is same


async def test_heads_that_are_as_they_were_are_not_read_again(centre: Centre) -> None:
    for name in ("box-1", "box-2"):
        await centre.put_head(name, seq=1)
    assert (await centre.summary()).heads_read == 2
    assert (await centre.summary()).heads_read == 0
    await centre.put_head("box-2", seq=2)
    swept = await centre.look()
    assert [(each.was_read, each.box.seq) for each in swept] == [(False, 1), (True, 2)]


async def test_a_box_that_was_refused_its_path_is_a_duplicate_for_a_while(centre: Centre) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.refuse("box-1")
    (swept,) = await centre.look()
    said = found(swept.box, "duplicate")
    assert "boot another" in said
    assert "written by nobody" in said
    (swept,) = await centre.look(later_s=660 + 5)
    assert names(swept.box) == ["late"], "it gives no sign any more"


async def test_one_id_in_two_stores_is_a_duplicate(centre: Centre) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.put_head("box-1", seq=9, store="two")
    for older, seq in (("one", 9), ("two", 1)):
        centre.age("box-1", 100, older)
        (swept,) = await centre.look()
        assert "two" in found(swept.box, "duplicate")
        assert swept.box.seq == seq, "the younger head counts"
        centre.age("box-1", -100, older)


async def test_boxes_that_are_not_ours_or_not_chosen_are_passed_over(centre: Centre) -> None:
    for name in ("box-1", "test-1", "test-2"):
        await centre.put_head(name, seq=1)

    async def looked_at(**options: Any) -> list[str]:
        return [each.box.device_id for each in await centre.look(**options)]

    assert await looked_at(exclude=("test-*",)) == ["box-1"]
    assert await looked_at(chooses=lambda name: name == "test-2") == ["test-2"]


async def test_boxes_that_are_not_looked_at_stay_as_they_are_known(centre: Centre) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.put_head("box-2", seq=1, store="two")
    await centre.look(later_s=3600, is_telling=True)

    def first(name: DeviceId) -> bool:
        return name == "box-1"

    for stores, chooses in (((), first), (("one",), lambda _name: True)):
        (swept,) = await centre.look(*stores, chooses=chooses, later_s=3600, is_telling=True)
        assert centre.others_told == {"late"}, "so that is not over"
        assert (swept.was_read, swept.new) == (False, frozenset())
    both = await centre.look(later_s=3600, is_telling=True)
    assert [(each.was_read, each.new) for each in both] == [(False, frozenset())] * 2
    assert centre.others_told == set()


async def test_a_box_that_moved_to_another_store_is_known_once(centre: Centre) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.look()
    await centre.put_head("box-1", seq=2, store="two")
    await centre.look("two")
    (line,) = (centre.folder / ".pulled" / "health.jsonl").read_bytes().splitlines()
    assert b"/two" in line


async def test_a_store_that_is_away_keeps_no_other_from_being_looked_at(
    centre: Centre, tmp_path: Path
) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.put_head("box-2", seq=1, store="two")
    await centre.look()
    (tmp_path / "one").rename(tmp_path / "away")
    (tmp_path / "one").write_text("no folder")
    (swept,) = await centre.look()
    assert (swept.box.device_id, centre.unlisted) == ("box-2", ["one"])
    (tmp_path / "one").unlink()
    (tmp_path / "away").rename(tmp_path / "one")
    assert [each.was_read for each in await centre.look()] == [False, False]


async def test_a_copy_is_old_from_when_the_head_went_ahead_of_it(
    centre: Centre, copy: tuple[Path, Head]
) -> None:
    path, told = copy
    path.rename(centre.folder / "box-1.db")
    await centre.put(told)
    assert [names(each.box) for each in await centre.look(later_s=0)] == [[]]
    further = msgspec.structs.replace(told, seq=9)

    async def at(later_s: float) -> list[str]:
        await centre.put(further)
        (swept,) = await centre.look(later_s=later_s)
        return [name for name in names(swept.box) if name == "copy_old"]

    assert await at(10 * 86_400) == [], "it was level until now"
    assert await at(10.5 * 86_400) == []
    assert await at(11.5 * 86_400) == ["copy_old"]
    (centre.folder / "box-1.db").touch()
    assert await at(12 * 86_400) == [], "it was pulled, and the box has gone on"


async def test_a_copy_whose_head_is_gone_is_shown(centre: Centre, copy: tuple[Path, Head]) -> None:
    path, told = copy
    centre.pulled(path)
    full = msgspec.structs.replace(MACHINE, disk_free_bytes=0)
    await centre.put(msgspec.structs.replace(told, machine=full))
    assert [names(each.box) for each in await centre.look()] == [["disk_low"]]
    centre.remove_head("box-1")
    (gone,) = await centre.look()
    assert names(gone.box) == ["head_gone"], "and no more of what it said"
    assert await centre.look("two") == [], "it is from the other store"


async def test_a_head_without_a_replica_is_found_with_a_folder_to_remember_in(
    centre: Centre,
) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.put_head("box-2", seq=1, store="two")
    assert [names(each.box) for each in await centre.look()] == [[], []]
    centre.remove_replica("box-1")
    gone, other = await centre.look()
    assert (names(gone.box), names(other.box)) == (["replica_gone"], [])
    assert gone.box.findings[0].alarm.is_urgent


async def test_what_a_pull_has_met_is_found_until_one_is_good(centre: Centre) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.put_head("box-2", seq=1)

    where = parse_location(f"file://{centre.folder.parent}/one")

    def pulled(error: str | None, code: str | None) -> None:
        box = FoundBox(device_id=DeviceId("box-1"), location=where)
        report = BoxReport(device_id=box.device_id, error=error, code=code)
        assert note_met(centre.folder, [(box, report)], {str(where): {box.device_id}}) == []

    async def said(name: str = "pull_failed") -> list[str]:
        box, other = await centre.look()
        assert names(other.box) == []
        return [each.message for each in box.box.findings if each.name == name]

    pulled("its store is away", ReplicationError.code)
    assert await said() == []
    pulled("it is damaged", VerifyFailed.code)
    (first,) = await said()
    assert first.endswith("it is damaged")
    pulled("its store is away", ReplicationError.code)
    assert await said() == [first], "nothing is known that is newer"
    pulled("it is damaged", VerifyFailed.code)
    assert await said() == [first]
    for hindered in (RestoreTimedOut, DiskFull, StoreError):
        pulled("not within 60 s", hindered.code)
        assert await said() == [first], "that it was slow does not make it whole"
        assert await said("pull_hindered") == []
    pulled(None, None)
    assert await said() == []
    pulled("not within 60 s", RestoreTimedOut.code)
    (slow,) = await said("pull_hindered")
    assert slow.endswith("as the way to its store, or this machine, is too slow: not within 60 s")
    pulled("copies cannot be written", StoreError.code)
    (here,) = await said("pull_hindered")
    assert "as this machine cannot write or read" in here
    pulled("it is damaged", VerifyFailed.code)
    assert (len(await said()), await said("pull_hindered")) == (1, [])
    pulled(None, None)
    assert await said() == await said("pull_hindered") == []

    pulled("it is damaged", VerifyFailed.code)
    assert note_met(centre.folder, [], {"s3://another": set()}) == []
    assert len(await said()) == 1, "that store says nothing of it"
    assert note_met(centre.folder, [], {str(where): set()}) == ["box-1"]
    assert await said() == []
    assert note_met(centre.folder, [], {str(where): set()}) == [], "it was said"


async def test_what_another_version_remembered_is_found_out_again(centre: Centre) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.look()
    memory = centre.folder / ".pulled" / "health.jsonl"
    memory.write_bytes(b'{"of": "another version"}\n' + memory.read_bytes())
    assert (await centre.summary()).heads_read == 0, "the other lines still count"
    memory.write_bytes(b"no line")
    assert (await centre.summary()).heads_read == 1


async def test_a_look_that_fails_leaves_what_was_remembered(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    await centre.put_head("box-1", seq=1)
    await centre.look()
    before = (centre.folder / ".pulled" / "health.jsonl").read_bytes()

    def fail(*_arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("edge_store.fleet.health.sweep.judge_box", fail)
    with pytest.raises(RuntimeError):
        await centre.look()
    assert (centre.folder / ".pulled" / "health.jsonl").read_bytes() == before


def test_every_finding_has_an_alarm_and_every_alarm_of_the_fleet_a_finding() -> None:
    assert {Finding(name=name, message="").alarm for name in NAMES} == {
        name for name in AlarmName if name.is_of_fleet
    }


def test_textfile_that_cannot_be_written_is_said_as_all_errors_are(tmp_path: Path) -> None:
    arguments = ["--from", str(tmp_path), "--textfile", str(tmp_path / "nowhere" / "x.prom")]
    done = CliRunner().invoke(health, arguments)
    assert (done.exit_code, done.stderr.count("edge-store: ")) == (1, 1), done.stderr
    assert "x.prom cannot be written: No such file" in done.stderr
