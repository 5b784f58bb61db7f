"""How late the event loop is: what every request waits while the loop is at something else."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["measured_lag"]

PERIOD_S = 0.05


@asynccontextmanager
async def measured_lag(observe: Callable[[float], object]) -> AsyncIterator[None]:
    """While inside, 20 times a second: ``observe`` how many seconds after its time a timer ran.

    Costs a timer of some 5 µs; it is right to a millisecond, which is the clock of uvloop's timers.
    """
    loop = asyncio.get_running_loop()
    due = 0.0
    timer: asyncio.TimerHandle

    def begin() -> None:
        nonlocal due, timer
        due = time.monotonic() + PERIOD_S
        timer = loop.call_later(PERIOD_S, end)

    def end() -> None:
        observe(max(0.0, time.monotonic() - due))
        begin()

    begin()
    try:
        yield
    finally:
        timer.cancel()
