"""A clock that moves only when everybody waits, and the event loop that moves it.

``time.monotonic`` and ``time.perf_counter`` follow the loop; ``time.time`` and ``time.time_ns`` do
too, but for steps. A loop on which nobody can ever wake again is an error, not a hang.
"""

import asyncio
import random
import secrets
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from edge_store import ids

__all__ = ["Clock", "VirtualLoop", "on_virtual_time"]

BEGIN_NS = 1_760_000_000 * 10**9  # 2025-10-09
LATE_S = 1e-6  # no timer of a real loop is ever on time: equal floats would be a world of its own
IDLE_TURNS_MAX = 100_000  # of the loop without any time going by: it would never end


class Clock:
    """Seconds since its start, and a wall clock that may be set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.step_s = 0.0  # by how much the wall clock is off

    def time_ns(self) -> int:
        return BEGIN_NS + round((self.now + self.step_s) * 1e9)


class JumpingSelector(selectors.SelectSelector):
    """Where a loop waits: this one does not, it moves the clock to the end of the wait."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._idle_turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing will ever wake them"
        if timeout > 0:
            self._clock.now += timeout + LATE_S
            self._idle_turns = 0
        self._idle_turns += 1
        assert self._idle_turns < IDLE_TURNS_MAX, "the loop turns for ever without waiting"
        return []  # nothing comes from outside


class VirtualLoop(asyncio.SelectorEventLoop):
    """The standard loop on that clock. What nobody caught is kept in ``unseen``."""

    def __init__(self, clock: Clock) -> None:
        self._virtual = clock
        self.unseen: list[str] = []
        super().__init__(JumpingSelector(clock))
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        return self._virtual.now

    def _keep(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.unseen.append(f"{context['message']}: {context.get('exception')!r}")


@contextmanager
def on_virtual_time(clock: Clock, chance: random.Random) -> Iterator[None]:
    """All clocks of this process are ``clock``; ids take their random bits from ``chance``."""
    with (
        patch.object(time, "monotonic", lambda: clock.now),
        patch.object(time, "perf_counter", lambda: clock.now),
        patch.object(time, "time_ns", clock.time_ns),
        patch.object(time, "time", lambda: clock.time_ns() / 1e9),
        patch.object(secrets, "randbits", chance.getrandbits),
        patch.object(ids, "_uuid7", ids.Uuid7()),
    ):
        yield
