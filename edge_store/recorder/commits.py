"""Tells whoever follows the results that there are more: at each COMMIT, and nothing in between."""

import asyncio
from collections.abc import Callable

__all__ = ["Commits"]


class Commits:
    """The newest committed ``seq``, and a way to wait for the next one."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.at_each: Callable[[], object] = lambda: None  # COMMIT of results, before the next one
        self.is_over = False  # the daemon stops: whoever follows is to end
        self._next: asyncio.Future[None] | None = None  # there is one while somebody waits

    def advance(self, seq: int) -> None:
        """A COMMIT has reached ``seq``; a mark alone reaches no further."""
        if seq > self.seq:
            self.seq = seq
            self.at_each()
            self._tell()

    def end(self) -> None:
        """Wake all who wait, for the last time."""
        self.is_over = True
        self._tell()

    async def past(self, seq: int) -> None:
        """Wait until there is a result after ``seq``, or the end. Safe to cancel."""
        while self.seq <= seq and not self.is_over:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._next)  # others wait for it too

    def _tell(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None
