"""Connections that our own routes read with: a few threads, shared fairly by who asks.

Requests of one tenant wait for each other, tenants take turns, and so many may wait: one more is
told to come again. A read has a deadline. What the daemon reads for itself, and for requests that
hold a slot of the recorder, is bounded elsewhere: it takes its turn like a tenant, and is never
refused.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from edge_store.errors import Overloaded, TenantOverShare
from edge_store.sqlite import Connection, DatabaseThread, driver

__all__ = ["Asker", "Reader", "Readers", "asker"]

P = ParamSpec("P")
T = TypeVar("T")

READ_SECONDS_MAX = 10.0
STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
WAITING_MAX = 256
WAITING_OF_TENANT_MAX = WAITING_MAX // 2


class Asker(NamedTuple):
    """A request that holds no slot, and may be refused."""

    tenant: str | None


asker: ContextVar[Asker | None] = ContextVar("asker", default=None)  # the gate sets it


class Reader(Protocol):
    """What runs functions of a connection."""

    async def run(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``function(connection, …)`` on a thread."""


class Readers:
    """The threads, and who waits for one."""

    def __init__(self, threads: Sequence[DatabaseThread]) -> None:
        self._free = list(threads)
        self._waiting: dict[Asker | None, deque[asyncio.Future[DatabaseThread]]] = {}

    async def run(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``function(connection, …)`` on a thread. Cancelling does not stop the function.

        Raises:
            TenantOverShare, Overloaded: too many wait, or it took too long (retryable).
        """
        thread = await self._taken(asker.get())
        try:
            return await thread.run(_within, function, args, kwargs)
        finally:
            self._give(thread)

    async def _taken(self, who: Asker | None) -> DatabaseThread:
        if self._free:
            return self._free.pop()
        mine = self._waiting.get(who, ())
        if who is not None:
            _require_place(len(mine), sum(map(len, self._waiting.values())))
        turn: asyncio.Future[DatabaseThread] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(turn.result())
            raise

    def _give(self, thread: DatabaseThread) -> None:
        """To the next who waits; then others have their turn before the same tenant has."""
        while self._waiting:
            who = next(iter(self._waiting))
            turns = self._waiting.pop(who)
            turn = turns.popleft()
            if turns:
                self._waiting[who] = turns
            if not turn.done():  # else it has left
                turn.set_result(thread)
                return
        self._free.append(thread)


def _require_place(of_tenant: int, of_all: int) -> None:
    if of_tenant >= WAITING_OF_TENANT_MAX:
        raise TenantOverShare(
            f"{of_tenant} reads of this tenant wait, the most that may", hint="send fewer at once"
        )
    if of_all >= WAITING_MAX:
        raise Overloaded(f"{of_all} reads wait, the most that may", hint="ask again later")


def _within(
    connection: Connection,
    function: Callable[..., T],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> T:
    """``function``, as long as it may take."""
    deadline = time.monotonic() + READ_SECONDS_MAX
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
    try:
        return function(connection, *args, **kwargs)
    except Exception as exc:
        for cause in (exc, exc.__cause__):
            if getattr(cause, "sqlite_errorcode", None) == driver.SQLITE_INTERRUPT:
                raise Overloaded(
                    f"this was not read within {READ_SECONDS_MAX:g} s",
                    hint="ask for less, or again later",
                ) from exc
        raise
    finally:
        connection.set_progress_handler(None, 0)
