"""Who may write to a path, asked of a real folder; what a database knows is given."""

import os
from pathlib import Path

import msgspec
import pytest

from edge_store.errors import PathTaken
from edge_store.ids import BootId, DeviceId
from edge_store.replica import ownership as module
from edge_store.replica.heads import Head, Heads
from edge_store.replica.lineage import Lineage
from edge_store.replica.location import parse_location
from edge_store.replica.objects import Objects
from edge_store.replica.owner import Owner, owner_key, read_owner
from edge_store.replica.ownership import Asking, Ownership

DEVICE = DeviceId("box-1")
KNOWS = Lineage(
    knows_boot=True, has_ended=False, knows_timeline=True, holds_head=True, was_restored=False
)
STRANGE = msgspec.structs.replace(KNOWS, knows_boot=False, knows_timeline=False)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(parse_location(f"file://{tmp_path}/replica"), None)


def of_boot(objects: Objects, boot: str, lineage: Lineage = KNOWS) -> Ownership:
    async def known(_owner: Owner | None, _head: Head | None) -> Lineage:
        return lineage

    async def was_ours(*, had_it: bool) -> bool:
        return True

    claim = Owner(
        device_id=DEVICE,
        boot_id=BootId(boot),
        timeline="t",
        host=boot,
        since=0,
        place=f"place of {boot}",
        every_s=30.0,
    )
    return Ownership(objects, claim, Heads(objects, DEVICE), known, was_ours)


async def owner(objects: Objects) -> Owner:
    _, found = await read_owner(objects, owner_key(DEVICE))
    assert found is not None
    return found


async def test_an_owner_that_runs_answers_and_keeps_the_path(
    objects: Objects, clock: Clock
) -> None:
    first, clone = of_boot(objects, "first"), of_boot(objects, "clone")
    assert await first.claim() is None
    with pytest.raises(Asking):
        await clone.claim()
    assert await first.check()
    clock.now += 91
    with pytest.raises(PathTaken, match="clone of the other"):
        await clone.claim()
    assert (await owner(objects)).boot_id == "first"


async def test_an_owner_that_does_not_answer_in_three_looks_is_gone(
    objects: Objects, clock: Clock
) -> None:
    await of_boot(objects, "first").claim()
    next_one = of_boot(objects, "next")
    with pytest.raises(Asking):
        await next_one.claim()
    clock.now += 89
    with pytest.raises(Asking) as asking:
        await next_one.claim()
    assert asking.value.again_s == pytest.approx(1)
    clock.now += 1
    assert await next_one.claim() == "first"


async def test_of_two_that_ask_one_waits_for_the_other(objects: Objects, clock: Clock) -> None:
    await of_boot(objects, "first").claim()
    one, two = of_boot(objects, "one"), of_boot(objects, "two")
    for asker in (one, two):
        with pytest.raises(Asking):
            await asker.claim()
    clock.now += 90
    assert await one.claim() == "first"
    with pytest.raises(Asking):
        await two.claim()
    strange = of_boot(objects, "two", STRANGE)
    with pytest.raises(PathTaken, match="knows nothing of"):
        await strange.claim()


async def test_an_asker_that_is_gone_is_not_waited_for_for_ever(
    objects: Objects, clock: Clock
) -> None:
    await of_boot(objects, "first").claim()
    with pytest.raises(Asking):
        await of_boot(objects, "gone").claim()
    stays = of_boot(objects, "stays")
    with pytest.raises(Asking, match="asks for this path, too"):
        await stays.claim()
    clock.now += 180
    with pytest.raises(Asking, match="is asked whether"):
        await stays.claim()
    clock.now += 90
    assert await stays.claim() == "first"


async def test_a_path_taken_by_force_is_written_only_once_its_owner_has_seen_that(
    objects: Objects, clock: Clock
) -> None:
    first, other = of_boot(objects, "first"), of_boot(objects, "other", STRANGE)
    await first.claim()
    with pytest.raises(Asking, match="90 s"):
        await other.claim(by_force=True)
    with pytest.raises(PathTaken, match="no longer this box's"):
        await of_boot(objects, "first", STRANGE).check()
    clock.now += 91
    assert await other.claim() == "first"
    other.begun()
    assert await other.claim() == "other"
    assert await other.check()
    assert (await owner(objects)).quiet_s == 0


async def test_restarts_after_a_take_over_do_not_wait_again(objects: Objects, clock: Clock) -> None:
    await of_boot(objects, "gone").claim()
    other = of_boot(objects, "other", STRANGE)
    with pytest.raises(Asking):
        await other.claim(by_force=True)
    clock.now += 91
    assert await other.claim() == "gone"
    assert (await owner(objects)).quiet_s == 90
    assert await other.check()
    assert (await owner(objects)).quiet_s == 0


async def test_an_owner_that_another_wrote_beside_begins_anew(
    objects: Objects, clock: Clock
) -> None:
    first, second = of_boot(objects, "first", STRANGE), of_boot(objects, "second")
    await first.claim()
    await objects.delete(owner_key(DEVICE))
    await second.claim()
    second.begun()
    clock.now += 10
    with pytest.raises(PathTaken):
        await first.check()  # it has replicated until now
    assert not await second.check()
    assert await second.check()


async def test_a_copy_of_a_running_machine_is_told_from_it(objects: Objects, clock: Clock) -> None:
    original, copy = of_boot(objects, "same"), of_boot(objects, "same")
    await original.claim()
    copy.__dict__ |= original.__dict__ | {"_nonces": set(original._nonces)}  # copied memory
    assert await copy.check()
    clock.now += module.RENEW_S
    assert await original.check()
    with pytest.raises(PathTaken, match="copy of this running machine"):
        await copy.check()


async def test_a_path_that_was_emptied_is_noticed(objects: Objects, clock: Clock) -> None:
    first = of_boot(objects, "first")
    await first.claim()
    assert await first.check()
    await objects.delete(owner_key(DEVICE))
    assert not await first.check()


async def test_a_look_at_the_own_claim_tells_how_far_the_clock_is_off(
    objects: Objects, tmp_path: Path
) -> None:
    mine = of_boot(objects, "mine")
    await mine.claim()
    assert mine.offset.ahead_s is None or mine.offset.ahead_s == 0
    assert await mine.check()
    assert mine.offset.ahead_s == 0
    path = tmp_path / "replica" / owner_key(DEVICE)
    stored = path.stat().st_mtime
    for by_s in (-100, 100):
        os.utime(path, (stored + by_s, stored + by_s))
        assert await mine.check()
        assert mine.offset.ahead_s == pytest.approx(-by_s, abs=2)
