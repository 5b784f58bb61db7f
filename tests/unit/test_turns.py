"""First tokens pass those that wait; later ones share the turns of the loop."""

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
    assert not any(event.is_set() for event in running)


async def test_later_wakes_are_one_a_turn_in_their_order() -> None:
    turns = Turns()
    events = begun(turns, 3)
    for at in (2, 0, 1):
        events[at].set()
    assert await awake(events) == [2]
    assert await awake(events) == [0, 2]
    assert await awake(events) == [0, 1, 2]


async def test_stream_that_waits_is_woken_once_for_all_that_came() -> None:
    turns = Turns()
    (event,) = begun(turns, 1)
    event.set()
    event.set()
    assert await awake([event]) == [0]
    event.clear()
    assert await awake([event]) == []
    event.set()
    assert await awake([event]) == [0]


async def test_every_waiter_of_many_streams_is_woken() -> None:
    turns = Turns()
    events = begun(turns, 100)
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.sleep(0)
    for event in events:
        event.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiters)


async def test_runs_of_sglang_take_turns() -> None:
    requests = Requests({})
    running, first = (SimpleNamespace(event=asyncio.Event()) for _ in range(2))
    requests["running"] = running
    requests["first"] = first
    running.event.set()
    running.event.clear()
    running.event.set()
    first.event.set()
    assert (running.event.is_set(), first.event.is_set()) == (False, True)
    assert await awake([running.event]) == [0]
