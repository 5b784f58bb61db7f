"""A response in the background, for those who follow it or cancel it. Runs on the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from edge_store.engine import ASGIMessage
from edge_store.errors import Cancelled
from edge_store.responses.ask import Ask
from edge_store.responses.objects import Numbered
from edge_store.responses.shown import opening
from edge_store.responses.store import Kept, Waiting

__all__ = ["Live", "followed"]


class Live:
    """A response that waits or runs: its events since it began, each at the place of its number.
    While it waits there are none here: a great many may wait.
    """

    def __init__(self, waiting: Waiting) -> None:
        self.id = waiting.id
        self.tenant = waiting.tenant
        self.conversation_id = waiting.conversation_id
        self.is_started = False  # or over, before it was
        self.is_unsure = False  # it may not be in the database
        self.is_asked = False  # the engine may have it
        self.is_over = False
        self._events: list[bytes] = []
        self._changed = asyncio.Event()
        self._cancelled = asyncio.Event()

    @property
    def count(self) -> int:
        """How many events it has."""
        return len(self._events)

    @property
    def is_cancelled(self) -> bool:
        """Whether it is to end."""
        return self._cancelled.is_set()

    def add(self, events: list[bytes]) -> None:
        """Let those who follow have these."""
        self._events += events
        self._tell()

    def end(self) -> None:
        """Nothing more comes."""
        self.is_over = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def cancel(self) -> None:
        """Cut it."""
        self._cancelled.set()

    async def over(self) -> None:
        """Wait for its end."""
        while not self.is_over:
            await self._changed.wait()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """The events with numbers greater than ``after``: those that came and those to come."""
        place = after + 1
        while True:
            changed = self._changed
            while place < len(self._events):
                place += 1
                yield self._events[place - 1]
            if self.is_over:
                return
            await changed.wait()

    async def receive(self) -> ASGIMessage:
        """The ``receive`` of its chat."""
        await self._cancelled.wait()
        return {"type": "http.disconnect", "cause": Cancelled("the response was cancelled")}

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until it is cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._cancelled.wait()


async def followed(live: Live, kept: Kept, ask: Ask, after: int) -> AsyncIterator[bytes]:
    """The events with numbers greater than ``after``: of one that waits, those of its place in the
    queue at once.
    """
    if not live.count and not live.is_over:
        first = opening(Numbered(), kept, ask, is_started=False)
        for event in first[after + 1 :]:
            yield event
        after = max(after, len(first) - 1)
        del first  # it may be followed for hours
    del kept, ask
    async for event in live.follow(after):
        yield event
