"""Which lines may run beside others' requests."""

import asyncio

import pytest

import edge_store.queue.places
from edge_store.config import QueueSection, RecorderSection
from edge_store.errors import AdmissionClosed
from edge_store.queue.places import Place, Places
from edge_store.recorder.slots import Slots

KIB = 1024


@pytest.fixture(autouse=True)
def others_are_gone_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.queue.places, "QUIET_S", 0.0)
    monkeypatch.setattr(edge_store.queue.places, "LOOK_S", 0.001)


def new(slots: int = 16, bytes_max: int = 64 * KIB, **queue: int) -> tuple[Slots, Places]:
    recorder = RecorderSection(slots=slots, bytes_max=bytes_max)
    handed_out = Slots(recorder)
    handed_out.open()
    return handed_out, Places(handed_out, QueueSection(**queue), recorder)


async def started(places: Places, number: int, size: int = 1) -> list[asyncio.Task[None]]:
    """So many lines that want to run; each that may has its place."""
    tasks = [asyncio.create_task(places.take(size)) for _ in range(number)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_no_more_run_than_may() -> None:
    _, places = new(slots_max=3)
    tasks = await started(places, 5)
    assert places.running == 3
    places.give(1, was_admitted=True)
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True] * 4 + [False]
    await ended(tasks)


async def test_the_last_quarter_of_the_slots_is_never_theirs() -> None:
    _, places = new(slots=16, slots_max=64)
    tasks = await started(places, 20)
    assert places.running == 12
    await ended(tasks)


async def test_few_run_while_others_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.queue.places, "QUIET_S", 60.0)
    slots, places = new(slots_max=8, slots_beside=2)
    slot = await slots.reserve()
    tasks = await started(places, 5)
    async with asyncio.timeout(60):
        await asyncio.wait(tasks[:2])
    assert places.running == 2
    slots.release(slot)  # they may come again: it stays so for a while
    await asyncio.sleep(0)
    assert places.running == 2
    await ended(tasks)


async def test_all_may_run_once_others_are_gone() -> None:
    slots, places = new(slots_max=8, slots_beside=0)
    slot = await slots.reserve()
    tasks = await started(places, 5)
    assert places.running == 0
    slots.release(slot)
    async with asyncio.timeout(60):
        await asyncio.wait(tasks)
    assert places.running == 5


async def test_none_starts_while_another_waits_for_a_slot() -> None:
    slots, places = new(slots=1, slots_max=8, slots_beside=8)
    slot = await slots.reserve()
    waiting = asyncio.create_task(slots.reserve())
    await asyncio.sleep(0)
    assert slots.waiting == 1
    tasks = await started(places, 1)
    assert places.running == 0
    slots.release(slot)
    slots.release(await waiting)
    async with asyncio.timeout(60):
        await asyncio.wait(tasks)


async def test_none_starts_while_closed_or_paused() -> None:
    slots, places = new()
    slots.close(AdmissionClosed("the daemon is stopping"))
    tasks = await started(places, 1)
    assert places.running == 0
    slots.open()
    places.open(is_open=False)
    await asyncio.sleep(0.01)
    assert places.running == 0
    places.open(is_open=True)
    async with asyncio.timeout(60):
        await asyncio.wait(tasks)


async def test_large_bodies_run_one_after_the_other() -> None:
    _, places = new(bytes_max=64 * KIB, slots_max=8)
    tasks = await started(places, 3, size=8 * KIB)
    assert places.running == 1
    places.give(8 * KIB, was_admitted=True)
    await asyncio.sleep(0)
    assert places.running == 1
    await ended(tasks)


async def test_a_line_that_is_cut_gives_its_place_back() -> None:
    _, places = new(slots_max=1)
    first, second, third = await started(places, 3)
    second.cancel()
    await asyncio.sleep(0)
    places.give(1, was_admitted=True)
    third.cancel()  # it has its place, and has not run since
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert places.running == 0


async def test_a_queued_request_comes_before_lines() -> None:
    _, places = new(slots_max=1)
    tasks = await started(places, 2)
    first = asyncio.create_task(places.take(1, first=True))
    await asyncio.sleep(0)
    places.give(1, was_admitted=True)
    await asyncio.sleep(0)
    assert first.done()
    assert not tasks[1].done()
    await ended(tasks)


async def test_a_place_is_given_back_once() -> None:
    _, places = new(slots_max=2)
    place = Place(places, 1)
    place.give()
    await place.take()
    assert places.running == 1
    place.give(was_admitted=True)
    place.give()
    assert places.running == 0
    await place.take()
    assert places.running == 1


async def test_a_place_given_back_while_one_that_waits_is_cancelled_goes_to_the_next() -> None:
    _, places = new(slots_max=1)
    running, cancelled, following = await started(places, 3)
    assert running.done()
    cancelled.cancel()  # its future is over at once; it leaves the line a turn of the loop later
    places.give(1, was_admitted=True)
    await asyncio.gather(cancelled, return_exceptions=True)
    await following
    assert places.running == 1


async def test_tenants_take_turns() -> None:
    _, places = new(slots_max=1)
    (running,) = await started(places, 1)
    much = [asyncio.create_task(places.take(1, "much")) for _ in range(3)]
    await asyncio.sleep(0)
    little = asyncio.create_task(places.take(1, "little"))
    for expected in (much[0], little, much[1]):
        await asyncio.sleep(0)
        places.give(1, was_admitted=True)
        await asyncio.sleep(0)
        assert expected.done()
    await ended([running, *much, little])
