"""Admission: in order, bounded in time, and nothing is lost on the way."""

import asyncio
import time
import traceback

import pytest

from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, DiskFull, RecorderFull
from edge_store.recorder.slots import Slots

DEADLINE_S = 10.0


def opened(slots: int = 1, timeout_s: float = DEADLINE_S) -> Slots:
    found = Slots(RecorderSection(slots=slots, admission_timeout_s=timeout_s))
    found.open()
    return found


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_nothing_is_admitted_before_the_start() -> None:
    slots = Slots(RecorderSection())
    with pytest.raises(AdmissionClosed, match="starting"):
        await slots.reserve()
    assert slots.admitted_upto == 0


async def test_those_that_wait_are_admitted_in_their_order() -> None:
    order: list[str] = []

    async def wait(name: str) -> None:
        slot = await slots.reserve()
        order.append(f"{name}{slot.boot_seq}")
        assert slot.queue_ms > 0
        slots.release(slot)

    slots = opened(slots=2)
    held = [await slots.reserve(), await slots.reserve()]
    waiting = [asyncio.create_task(wait("a")), asyncio.create_task(wait("b"))]
    await settle()
    for slot in held:
        slots.release(slot)
    await asyncio.gather(*waiting)
    assert order == ["a3", "b4"]
    assert slots.in_flight == 0


async def test_a_wait_ends_at_its_deadline_and_takes_no_number() -> None:
    slots = opened(timeout_s=0.02)
    first = await slots.reserve()
    with pytest.raises(RecorderFull, match=r"stayed taken for 0\.02 s"):
        await slots.reserve()
    slots.release(first)
    assert (await slots.reserve()).boot_seq == 2


async def test_those_that_gave_up_do_not_count_as_waiting() -> None:
    slots = opened(timeout_s=0.02)
    first = await slots.reserve()
    for _ in range(3):  # more than may wait at once
        with pytest.raises(RecorderFull, match="stayed taken"):
            await slots.reserve()
    slots.release(first)
    assert slots.in_flight == 0


async def test_more_than_may_wait_are_refused_at_once() -> None:
    slots = opened()
    first = await slots.reserve()
    waiting = asyncio.create_task(slots.reserve())
    await settle()
    with pytest.raises(RecorderFull, match="as many requests wait"):
        await slots.reserve()
    slots.release(first)
    slots.release(await waiting)


async def test_a_place_that_comes_with_the_cancellation_goes_on() -> None:
    slots = opened()
    first = await slots.reserve()
    waiting = asyncio.create_task(slots.reserve())
    await settle()
    slots.release(first)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.in_flight == 0
    assert (await slots.reserve()).boot_seq == 2


async def test_closing_wakes_those_that_wait_with_the_reason() -> None:
    slots = opened()
    first = await slots.reserve()
    waiting = asyncio.create_task(slots.reserve())
    await settle()
    reason = DiskFull("no space")
    slots.close(reason)
    with pytest.raises(DiskFull, match="no space"):
        await waiting
    assert slots.closed is reason
    slots.release(first)
    assert slots.in_flight == 0


async def test_a_refusal_in_the_moment_of_the_deadline_gives_no_place_back() -> None:
    slots = opened(timeout_s=0.02)
    first = await slots.reserve()
    waiting = asyncio.create_task(slots.reserve())
    await settle()
    loop = asyncio.get_running_loop()
    # Both timers fall due while the loop is held, so they run in one turn: the refusal is set, and
    # the deadline cancels the waiter before it has woken.
    loop.call_at(loop.time() + 0.001, lambda: slots.close(AdmissionClosed("stopping")))
    loop.call_soon(lambda: time.sleep(0.04))
    with pytest.raises((RecorderFull, AdmissionClosed)):
        await waiting
    assert slots.in_flight == 1
    slots.release(first)
    assert slots.in_flight == 0


async def test_refusals_keep_no_request_alive() -> None:
    slots = opened()
    slots.close(AdmissionClosed("stopping"))
    lengths = set()
    for _ in range(20):
        with pytest.raises(AdmissionClosed) as refused:
            await slots.reserve()
        lengths.add(len(traceback.extract_tb(refused.value.__traceback__)))
    assert len(lengths) == 1, "the one error must not gather the frames of every refusal"


async def test_drained_is_when_nothing_is_held() -> None:
    slots = opened(slots=2)
    await slots.drained()
    one, two = await slots.reserve(), await slots.reserve()
    drained = asyncio.create_task(slots.drained())
    slots.release(one)
    await settle()
    assert not drained.done()
    slots.release(two)
    async with asyncio.timeout(DEADLINE_S):
        await drained
