"""Whose token the event loop delivers next, where it cannot deliver all at once.

An engine in this process answers one step of its model for all that run: up to hundreds of streams
have a token at one moment, and each costs the loop some 100 µs to write. A request that comes then,
and the first token of one that came before, would wait for them all at every turn that they need.
"""

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Makes the events by which an engine wakes its streams. The first wake of each is at once;
    of later ones every other turn of the loop has one, in the order in which they came.

    A stream that is woken late finds all that has come for it meanwhile, and writes it as one.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Wake] = deque()
        self._is_taken = False

    def event(self) -> asyncio.Event:
        """That of one stream."""
        return _Wake(self)

    def add(self, wake: "_Wake") -> None:
        """Let it pass, or wait for its turn."""
        if self._is_taken:
            self._waiting.append(wake)
            return
        self._is_taken = True
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._next)  # the turn between is for those that have none
        wake.now()

    def _next(self) -> None:
        self._is_taken = False
        if self._waiting:
            self.add(self._waiting.popleft())


class _Wake(asyncio.Event):
    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._is_first = True
        self._is_waiting = False

    def set(self) -> None:
        if self._is_first:
            self._is_first = False
            super().set()
        elif not (self._is_waiting or self.is_set()):
            self._is_waiting = True
            self._turns.add(self)

    def now(self) -> None:
        """Its turn has come."""
        self._is_waiting = False
        super().set()
