"""Which lines of the queue may be in flight: only so many that others find slots free.

Others are all requests that the recorder has admitted and the queue did not ask. While there are
any, and for a moment after, few lines run, and one starts at a time, so that a fast engine's
processor is left to the others too; while one of them has to wait for a slot, no new line starts.
Runs on the event loop. Nothing in the line of a request knows of it: it looks by itself, when a
line ends, and every ``LOOK_S`` while lines are held back.
"""

import asyncio
import time
from typing import NamedTuple

from edge_store.config import QueueSection, RecorderSection
from edge_store.recorder.sharing import InTurn
from edge_store.recorder.slots import Slots

__all__ = ["Place", "Places"]

RESERVE = 4  # one slot of so many is never the queue's
BYTES_SHARE = 8  # and of the bytes of all bodies it holds one of so many
QUIET_S = 0.5  # how long nobody else has asked before the queue takes all it may
LOOK_S = 0.02  # and beside others, a line starts no sooner after another


class Waiter(NamedTuple):
    """A line that would run."""

    future: asyncio.Future[None]
    size: int


class Place:
    """What a line of ``size`` bytes holds while it is asked; it may take and give it many times."""

    def __init__(self, places: "Places", size: int, tenant: str | None = None) -> None:
        self._places = places
        self._size = size
        self._tenant = tenant
        self._is_held = False

    async def take(self, *, first: bool = False) -> None:
        """Wait for it. Safe to cancel."""
        assert not self._is_held
        await self._places.take(self._size, self._tenant, first=first)
        self._is_held = True

    def give(self, *, was_admitted: bool = False) -> None:
        """Give it back, if it is held."""
        if self._is_held:
            self._is_held = False
            self._places.give(self._size, was_admitted=was_admitted)


class Places:
    """Hands out places to one tenant after the other; within a tenant in order, queued requests,
    for which somebody waits, before lines.
    """

    def __init__(self, slots: Slots, config: QueueSection, recorder: RecorderSection) -> None:
        self._slots = slots
        self._config = config
        self._reserve = recorder.slots // RESERVE
        self._total = recorder.slots
        self._bytes_max = recorder.bytes_max // BYTES_SHARE
        self._waiting: InTurn[Waiter] = InTurn()
        self._bytes = 0
        self._admitted = 0  # of the queue's own
        self._others_admitted = 0
        self._others_at = -QUIET_S
        self._others_are_here = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self.running = 0

    @property
    def waiting(self) -> int:
        """Lines that wait for a place."""
        return len(self._waiting)

    def open(self, *, is_open: bool) -> None:
        """Whether any line may start."""
        self._is_open = is_open
        self._let_in()

    async def take(self, size: int, tenant: str | None = None, *, first: bool = False) -> None:
        """Wait for a place for a body of ``size`` bytes. Safe to cancel."""
        waiter = Waiter(asyncio.get_running_loop().create_future(), size)
        self._waiting.add(tenant, waiter, urgent=first)
        self._let_in()
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.future.cancelled():
                self._waiting.remove(tenant, waiter)
            else:
                self.give(size, was_admitted=False)
            raise

    def give(self, size: int, *, was_admitted: bool) -> None:
        """Give a place back."""
        self.running -= 1
        self._bytes -= size
        self._admitted -= not was_admitted
        assert self.running >= 0
        self._let_in()

    def _let_in(self, *, is_look: bool = False) -> None:
        while self._waiting and self._has_room(self._waiting.first().size):
            if self._others_are_here and not is_look:
                break
            is_look = False
            waiter = self._waiting.pop()
            if waiter.future.done():  # cancelled, and has not left yet: it takes no place
                continue
            self.running += 1
            self._bytes += waiter.size
            self._admitted += 1
            waiter.future.set_result(None)
        if self._waiting and self._is_open and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._let_in(is_look=True)

    def _has_room(self, size: int) -> bool:
        slots = self._slots
        if not self._is_open or slots.closed is not None or slots.waiting:
            return False
        if self.running and self._bytes + size > self._bytes_max:
            return False
        taken = max(slots.in_flight, self.running)  # a line takes its slot a moment later
        self._look_for_others(taken)
        bound = self._config.slots_beside if self._others_are_here else self._config.slots_max
        return self.running < bound and self._total - taken > self._reserve

    def _look_for_others(self, taken: int) -> None:
        admitted = self._slots.admitted_upto - self._admitted
        is_here = taken > self.running or admitted > self._others_admitted
        now = time.monotonic()
        if is_here:
            self._others_at = now
        self._others_admitted = max(admitted, self._others_admitted)
        self._others_are_here = is_here or now - self._others_at < QUIET_S
