"""How late the loop is, on a loop that is held for a known time."""

import asyncio
import time

from edge_store.observability.looplag import PERIOD_S, measured_lag

DEADLINE_S = 60.0
HELD_S = 0.1


async def test_lag_is_how_long_a_timer_had_to_wait() -> None:
    seen: list[float] = []
    enough = asyncio.Event()

    def observe(lag_s: float) -> None:
        seen.append(lag_s)
        enough.set()

    async with measured_lag(observe):
        time.sleep(PERIOD_S + HELD_S)  # noqa: ASYNC251  (what a defect would do)
        async with asyncio.timeout(DEADLINE_S):
            await enough.wait()
    assert 0.95 * HELD_S < seen[0] < DEADLINE_S


async def test_it_is_measured_again_and_again_until_it_is_left() -> None:
    seen: list[float] = []
    thrice = asyncio.Event()

    def observe(lag_s: float) -> None:
        seen.append(lag_s)
        if len(seen) == 3:
            thrice.set()

    async with measured_lag(observe):
        async with asyncio.timeout(DEADLINE_S):
            await thrice.wait()
    number = len(seen)
    await asyncio.sleep(2 * PERIOD_S)
    assert len(seen) == number
    assert min(seen) >= 0
