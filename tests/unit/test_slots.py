"""Admission: in order, bounded in time, and nothing is lost on the way."""

import asyncio
import time
import traceback

import pytest

from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, DiskFull, RecorderFull, TenantOverShare
from edge_store.recorder.slots import Slot, Slots

DEADLINE_S = 60.0


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


def asking(slots: Slots, tenant: str) -> asyncio.Task[Slot]:
    async def ask() -> Slot:
        with slots.hold(tenant) as hold:
            return await slots.reserve(hold)

    return asyncio.create_task(ask())


def tenant_of(slot: Slot) -> str | None:
    return slot.hold.party.tenant


async def test_freed_places_go_round_the_tenants_that_wait() -> None:
    slots = opened(slots=4)
    held = [await asking(slots, "greedy") for _ in range(4)]
    waiting = [asking(slots, tenant) for tenant in ("greedy", "greedy", "greedy", "small")]
    await settle()
    for slot in held:
        slots.release(slot)
    await settle()
    admitted = [await task for task in waiting]
    by_number = sorted(admitted, key=lambda slot: slot.boot_seq)
    assert [tenant_of(slot) for slot in by_number] == ["greedy", "small", "greedy", "greedy"]


async def test_a_newcomer_takes_the_newest_place_of_the_tenant_that_waits_most() -> None:
    slots = opened(slots=3)
    held = [await asking(slots, "greedy") for _ in range(3)]
    first, second, third = (asking(slots, "greedy") for _ in range(3))
    await settle()
    newcomer = asking(slots, "small")
    await settle()
    with pytest.raises(TenantOverShare, match="this tenant waits for more"):
        await third
    assert not any(task.done() for task in (first, second, newcomer))
    for slot in held:
        slots.release(slot)
    assert [tenant_of(await task) for task in (first, newcomer, second)] == [
        "greedy",
        "small",
        "greedy",
    ]


async def test_who_waits_most_is_over_its_share_only_beside_others() -> None:
    slots = opened(slots=2)
    held = [await asking(slots, "greedy") for _ in range(2)]
    waiting = [asking(slots, "greedy") for _ in range(2)]
    await settle()
    with pytest.raises(RecorderFull, match="as many requests wait"):
        await asking(slots, "greedy")
    slots.release(held[0])
    await settle()
    other = asking(slots, "small")  # takes the place that is left
    await settle()
    with pytest.raises(RecorderFull):  # one waits for each: nobody would get in
        await asking(slots, "greedy")
    other.cancel()
    await settle()
    asking_again = asking(slots, "greedy")
    await settle()
    with slots.hold("small"), pytest.raises(TenantOverShare):  # it is here, and would get in
        await asking(slots, "greedy")
    for task in (*waiting, asking_again):
        task.cancel()


async def test_bytes_of_a_request_that_is_left_are_held_until_its_slot_is_free() -> None:
    slots = Slots(RecorderSection(bytes_max=9000))
    slots.open()
    with slots.hold("a") as hold:
        slots.grow(hold, 8000)
        with pytest.raises(RecorderFull, match="have 8000 bytes"):
            slots.grow(hold, 1)  # a ninth is left for others
        slot = await slots.reserve(hold)
    assert slots.held_bytes == 8000
    slots.release(slot)
    assert slots.held_bytes == 0


async def test_a_tenant_leaves_room_for_the_bodies_of_others() -> None:
    slots = Slots(RecorderSection(bytes_max=9000))
    with slots.hold("greedy") as greedy, slots.hold("small") as small:
        slots.grow(greedy, 8000)
        slots.grow(small, 800)
        with pytest.raises(TenantOverShare, match="2 tenants"):
            slots.grow(greedy, 1)
        with pytest.raises(RecorderFull):  # not its fault
            slots.grow(small, 800)
    assert slots.held_bytes == 0


async def test_a_request_that_is_not_admitted_gives_its_bytes_back() -> None:
    slots = opened(timeout_s=0.02)
    held = await slots.reserve()
    with pytest.raises(RecorderFull), slots.hold() as hold:  # noqa: PT012
        slots.grow(hold, 5000)
        await slots.reserve(hold)
    assert slots.held_bytes == 0
    slots.release(held)


async def test_the_row_may_be_settled_before_its_request_is_left() -> None:
    slots = opened()
    with slots.hold("a") as hold:
        slots.grow(hold, 5000)
        slots.release(await slots.reserve(hold))
        assert slots.held_bytes == 5000, "its caller may still read the answer"
    assert slots.held_bytes == 0


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


async def test_it_was_busy_while_a_slot_is_taken_and_when_one_was_since_it_was_asked() -> None:
    slots = opened()
    is_busy = slots.busy_since_asked()
    assert not is_busy()
    slot = await slots.reserve()
    assert is_busy()
    assert is_busy()
    slots.release(slot)
    assert not is_busy()
    slots.release(await slots.reserve())
    assert is_busy()
    assert not is_busy()
