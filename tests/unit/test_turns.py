"""First tokens pass those that wait; later ones share every other turn of the loop."""

import asyncio
from types import SimpleNamespace

from edge_store.engine.sglang_private import Requests
from edge_store.engine.turns import Turns


async def awake(events: list[asyncio.Event]) -> list[int]:
    """Which are set, after one turn of the loop."""
    await asyncio.sleep(0)
    return [at for at, event in enumerate(events) if event.is_set()]


def begun(turns: Turns, number: int) -> list[asyncio.Event]:
    """Streams whose first token has been delivered."""
    events = [turns.event() for _ in range(number)]
    for event in events:
        event.set()
        event.clear()
    return events


async def test_first_wake_is_at_once_while_others_wait_their_turn() -> None:
    turns = Turns()
    running = begun(turns, 10)
    for event in running:
        event.set()
    first = turns.event()
    first.set()
    assert first.is_set()
    assert [event.is_set() for event in running] == [True] + 9 * [False]


async def test_later_wakes_are_one_every_other_turn_in_their_order() -> None:
    turns = Turns()
    events = begun(turns, 3)
    for at in (2, 0, 1):
        events[at].set()
    seen = [await awake(events) for _ in range(5)]
    assert seen == [[2], [0, 2], [0, 2], [0, 1, 2], [0, 1, 2]]


async def test_stream_that_waits_is_woken_once_for_all_that_came() -> None:
    turns = Turns()
    other, event = begun(turns, 2)
    other.set()
    for _ in range(2):
        event.set()
    assert not event.is_set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert event.is_set()
    event.clear()
    for _ in range(6):
        assert await awake([event]) == []
    event.set()
    assert event.is_set()


async def test_every_waiter_of_many_streams_is_woken() -> None:
    turns = Turns()
    events = begun(turns, 100)
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.sleep(0)
    for event in events:
        event.set()
    async with asyncio.timeout(60):
        await asyncio.gather(*waiters)


async def test_runs_of_sglang_take_turns() -> None:
    requests = Requests({})
    running, first = (SimpleNamespace(event=asyncio.Event()) for _ in range(2))
    requests["running"] = running
    requests["first"] = first
    for _ in range(3):
        running.event.set()
        was_set = running.event.is_set()
        running.event.clear()
    first.event.set()
    assert (was_set, first.event.is_set()) == (False, True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert running.event.is_set()
