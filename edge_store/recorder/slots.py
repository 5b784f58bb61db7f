"""Admission: a request takes a slot before any GPU work starts and holds it until its row is
committed.

Two numbers bound everything behind them (requests in flight, results waiting for a COMMIT, memory):
the slots, and the bytes of all requests and answers that are here, from the first byte of a body
that arrives to the last of an answer that its caller has taken. Both are shared fairly by tenants.
Freed slots go round the tenants that wait, one each; where all waiting places are taken, a newcomer
gets that of the tenant that waits most; and no tenant may hold more than ``HOLD_FACTOR`` times the
bytes that are left, so that there is always room for another's body.

Each admission takes the next ``boot_seq``; no number is skipped. Runs on the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Self

from edge_store.config import RecorderSection
from edge_store.errors import (
    AdmissionClosed,
    EdgeStoreError,
    Overloaded,
    RecorderFull,
    TenantOverShare,
)

__all__ = ["Hold", "Slot", "Slots"]

# One tenant alone holds 8/9 of the bytes at most, each of two 8/17, each of n 8/(8n + 1).
HOLD_FACTOR = 8
FEWER = "send fewer requests at once"


class Party:
    """A tenant that is here: its holds, those that are slots by now included."""

    __slots__ = ("held_bytes", "holds", "tenant", "waiting")

    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.holds = 0
        self.held_bytes = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class Hold:
    """What one request holds, from the first byte of its body on: its tenant's name, and the bytes
    of the body and the answer. They are given back once it is left and its slot, if it took one, is
    free: its caller may still read when the row is committed, or have gone long before.
    """

    __slots__ = ("_slots", "held_bytes", "party", "users")

    def __init__(self, slots: "Slots", party: Party) -> None:
        self._slots = slots
        self.party = party
        self.held_bytes = 0
        self.users = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._slots.withdraw(self)


class Slot:
    """One place. ``boot_seq`` is the admission number; ``queue_ms`` how long admission took."""

    __slots__ = ("admitted_monotonic", "boot_seq", "hold", "queue_ms")

    def __init__(self, boot_seq: int, queue_ms: float, hold: Hold) -> None:
        self.boot_seq = boot_seq
        self.queue_ms = queue_ms
        self.hold = hold
        self.admitted_monotonic = time.monotonic()


class Slots:
    """Hands out ``config.slots`` places; within a tenant in order of arrival."""

    def __init__(self, config: RecorderSection) -> None:
        self._config = config
        self._free = config.slots
        self._parties: dict[str | None, Party] = {}
        self._turns: deque[Party] = deque()  # those with somebody waiting, the next one first
        self._waiting = 0
        self._closed: EdgeStoreError | None = AdmissionClosed("the daemon is starting")
        self._drained = asyncio.Event()
        self._drained.set()
        self.admitted_upto = 0
        self.held_bytes = 0

    def is_crowded(self) -> bool:
        """Whether requests and answers take more than half of the memory that they may."""
        return 2 * self.held_bytes > self._config.bytes_max

    @property
    def total(self) -> int:
        """Slots that there are."""
        return self._config.slots

    @property
    def in_flight(self) -> int:
        """Slots taken now."""
        return self._config.slots - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return self._waiting

    def busy_since_asked(self) -> Callable[[], bool]:
        """A question: is a slot taken, or was one since it was asked the last time?"""
        before = self.admitted_upto

        def is_busy() -> bool:
            nonlocal before
            admitted, before = self.admitted_upto - before, self.admitted_upto
            return bool(admitted or self.in_flight)

        return is_busy

    @property
    def closed(self) -> EdgeStoreError | None:
        """Why nothing is admitted, or None while requests are."""
        return self._closed

    def open(self) -> None:
        """Admit requests."""
        self._closed = None

    def close(self, reason: EdgeStoreError) -> None:
        """Refuse every later request, and those that wait, with ``reason``."""
        self._closed = reason
        for party in self._turns:
            for waiter in party.waiting:
                if not waiter.done():
                    waiter.set_exception(reason)
            party.waiting.clear()
        self._turns.clear()
        self._waiting = 0

    def hold(self, tenant: str | None = None) -> Hold:
        """Begin a request of ``tenant``; to be left when it is answered."""
        party = self._parties.get(tenant)
        if party is None:
            party = self._parties[tenant] = Party(tenant)
        party.holds += 1
        return Hold(self, party)

    def grow(self, hold: Hold, size: int) -> None:
        """Count ``size`` more bytes of the hold's request or answer.

        Raises:
            RecorderFull: there is no room for them (retryable).
            TenantOverShare: there is none for this tenant (retryable).
        """
        party = hold.party
        held = party.held_bytes + size
        if held > HOLD_FACTOR * (self._config.bytes_max - self.held_bytes - size):
            raise self._no_room(held)
        party.held_bytes = held
        hold.held_bytes += size
        self.held_bytes += size

    def _no_room(self, held: int) -> Overloaded:
        bound, parties = self._config.bytes_max, len(self._parties)
        if parties > 1 and held > bound // parties:
            return TenantOverShare(
                f"the requests and answers of this tenant would be {held} bytes; there are "
                f"{parties} tenants, and recorder.bytes_max = {bound}",
                hint=f"{FEWER} or smaller ones",
            )
        return RecorderFull(
            f"the requests and answers that are held have {self.held_bytes} bytes; "
            f"recorder.bytes_max = {bound}",
            hint=f"{FEWER} or smaller ones, or raise recorder.bytes_max",
        )

    def shrink(self, hold: Hold, size: int) -> None:
        """Give ``size`` bytes back."""
        assert 0 <= size <= hold.held_bytes
        hold.party.held_bytes -= size
        hold.held_bytes -= size
        self.held_bytes -= size

    def withdraw(self, hold: Hold) -> None:
        """The hold is left, or its slot is free; the last of them gives back what it holds."""
        assert hold.users > 0
        hold.users -= 1
        if hold.users:
            return
        self.shrink(hold, hold.held_bytes)
        party = hold.party
        party.holds -= 1
        if not party.holds:
            assert not party.held_bytes
            assert not party.waiting
            del self._parties[party.tenant]

    async def reserve(self, hold: Hold | None = None) -> Slot:
        """Hold one place until it is released; the hold goes with it.

        Waits at most ``admission_timeout_s``. Safe to cancel: no place is lost.

        Raises:
            RecorderFull: no place came free in time (retryable).
            TenantOverShare: others wait for fewer, and their place comes first (retryable).
            EdgeStoreError: admission is closed; the error is the reason.
        """
        if hold is None:
            with self.hold() as its_own:
                return await self.reserve(its_own)
        started = time.monotonic()
        if self._closed is not None:
            # one error for every refusal: with its old traceback it would keep each request alive
            raise self._closed.with_traceback(None)
        if self._free == 0:
            await self._wait(hold.party)
        else:
            self._free -= 1
            self._drained.clear()
        self.admitted_upto += 1
        hold.users += 1
        return Slot(self.admitted_upto, (time.monotonic() - started) * 1000, hold)

    async def _wait(self, party: Party) -> None:
        if self._waiting >= self._config.slots:
            self._make_way(party)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not party.waiting:
            self._turns.append(party)
        party.waiting.append(waiter)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._config.admission_timeout_s):
                await waiter
        except TimeoutError:
            self._leave(party, waiter)
            raise RecorderFull(
                f"all {self._config.slots} recorder slots stayed taken for "
                f"{self._config.admission_timeout_s} s",
                hint=f"{FEWER}, or raise recorder.slots",
            ) from None
        except asyncio.CancelledError:
            self._leave(party, waiter)
            raise

    def _make_way(self, newcomer: Party) -> None:
        """Take the newest place of the tenant that waits most, if that makes it fairer.

        Raises:
            TenantOverShare: that is the newcomer's own, and others would get in.
            RecorderFull: nobody would.
        """
        over_share = TenantOverShare(
            f"all {self._config.slots} recorder slots are taken, and this tenant waits for more of "
            "them than others do",
            hint=FEWER,
        )
        number = len(newcomer.waiting)
        longest = max(self._turns, key=lambda party: len(party.waiting))
        if number + 1 < len(longest.waiting):
            waiter = longest.waiting.pop()  # it waits for two or more: one stays
            self._waiting -= 1
            if not waiter.done():
                waiter.set_exception(over_share)
            return
        fewest = min(len(party.waiting) for party in self._turns)
        if len(self._parties) > len(self._turns):
            fewest = 0  # somebody who is here waits for nothing
        if fewest + 1 < number:
            raise over_share
        raise RecorderFull(
            f"all {self._config.slots} recorder slots are taken and as many requests wait",
            hint=f"{FEWER}, or raise recorder.slots",
        )

    def _leave(self, party: Party, waiter: asyncio.Future[None]) -> None:
        """Stop waiting; a place that came at the same moment goes to the next in line."""
        if waiter.cancelled():
            if waiter in party.waiting:  # else release(), close() or a newcomer took it out already
                party.waiting.remove(waiter)
                self._waiting -= 1
                if not party.waiting:
                    self._turns.remove(party)
        elif waiter.exception() is None:
            self._pass_on()

    def release(self, slot: Slot) -> None:
        """Give the place to the next in line, and the bytes back if its request has been left."""
        assert slot.boot_seq <= self.admitted_upto
        self.withdraw(slot.hold)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._turns:
            party = self._turns.popleft()
            waiter = party.waiting.popleft()
            self._waiting -= 1
            is_over = waiter.done()  # cancelled, and has not left yet: it costs no turn
            if party.waiting:
                (self._turns.appendleft if is_over else self._turns.append)(party)
            if not is_over:
                waiter.set_result(None)
                return
        self._free += 1
        assert self._free <= self._config.slots
        if self._free == self._config.slots:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until no slot is taken."""
        await self._drained.wait()
