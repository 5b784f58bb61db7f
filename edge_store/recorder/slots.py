"""Admission: a request takes a slot before any GPU work starts and holds it until its row is
committed.

The number of slots bounds everything behind them: requests in flight, results waiting for a COMMIT,
memory. Each admission takes the next ``boot_seq``; no number is skipped. Runs on the event loop.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress

from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, EdgeStoreError, RecorderFull

__all__ = ["Slot", "Slots"]


class Slot:
    """One place. ``boot_seq`` is the admission number; ``queue_ms`` how long admission took."""

    __slots__ = ("admitted_monotonic", "boot_seq", "queue_ms")

    def __init__(self, boot_seq: int, queue_ms: float) -> None:
        self.boot_seq = boot_seq
        self.queue_ms = queue_ms
        self.admitted_monotonic = time.monotonic()


class Slots:
    """Hands out ``config.slots`` places, in order of arrival."""

    def __init__(self, config: RecorderSection) -> None:
        self._config = config
        self._free = config.slots
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed: EdgeStoreError | None = AdmissionClosed("the daemon is starting")
        self._drained = asyncio.Event()
        self._drained.set()
        self.admitted_upto = 0

    @property
    def in_flight(self) -> int:
        """Slots taken now."""
        return self._config.slots - self._free

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
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(reason)

    async def reserve(self) -> Slot:
        """Hold one place until it is released.

        Waits at most ``admission_timeout_s``. Safe to cancel: no place is lost.

        Raises:
            RecorderFull: no place came free in time (retryable).
            EdgeStoreError: admission is closed; the error is the reason.
        """
        started = time.monotonic()
        if self._closed is not None:
            # one error for every refusal: with its old traceback it would keep each request alive
            raise self._closed.with_traceback(None)
        if self._free == 0:
            await self._wait()
        else:
            self._free -= 1
            self._drained.clear()
        self.admitted_upto += 1
        return Slot(self.admitted_upto, (time.monotonic() - started) * 1000)

    async def _wait(self) -> None:
        if len(self._waiting) >= self._config.slots:
            raise RecorderFull(
                f"all {self._config.slots} recorder slots are taken and as many requests wait",
                hint="send fewer requests at once, or raise recorder.slots",
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._config.admission_timeout_s):
                await waiter
        except TimeoutError:
            self._leave(waiter)
            raise RecorderFull(
                f"all {self._config.slots} recorder slots stayed taken for "
                f"{self._config.admission_timeout_s} s",
                hint="send fewer requests at once, or raise recorder.slots",
            ) from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        """Stop waiting; a place that came at the same moment goes to the next in line."""
        if waiter.cancelled():
            with suppress(ValueError):  # release() or close() has taken it out already
                self._waiting.remove(waiter)
        elif waiter.exception() is None:
            self._pass_on()

    def release(self, slot: Slot) -> None:
        """Give the place to the next in line."""
        assert slot.boot_seq <= self.admitted_upto
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
        assert self._free <= self._config.slots
        if self._free == self._config.slots:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until no slot is taken."""
        await self._drained.wait()
