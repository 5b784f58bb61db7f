"""What else is written: changes that are no results, in transactions of their own.

A change is a plain function of the connection. It runs on the writer's thread, so nothing
interleaves with it; whoever asks for it learns that it is committed, or why it is not. Those that
wait share one COMMIT; if that cannot be, because one of them fails, each gets its own.

A change in pieces is one that nobody is in a hurry for. While results come, a piece goes when so
many of them have, or a second has passed: callers wait behind its COMMIT, so few of them are to.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from edge_store.errors import EdgeStoreError, StoreError, WriterStopped
from edge_store.recorder.batch import Suspect, is_untrustworthy
from edge_store.recorder.failure import is_damage
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, driver, translated

__all__ = ["COMING_S", "InPieces", "Progress", "Transactions", "in_transaction"]

P = ParamSpec("P")
T = TypeVar("T")

WAITING_MAX = 4096  # each holds its parameters in memory
TOGETHER_MAX = 64  # share one COMMIT
PIECE_S = 0.0015  # of a transaction beside results, before its COMMIT
PIECE_EVERY = 40  # results, or
PIECE_EVERY_S = 1.0  # what comes first
ALONE_S = 0.003  # of a transaction while no results come: the next one may wait for it
COMING_S = 1.0  # after results, more are expected


class Progress(Protocol):
    """How far a change in pieces is."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        ...


S = TypeVar("S", bound=Progress)
Q = TypeVar("Q")


class InPieces(Generic[Q, S]):
    """``step(connection, params, before, seconds)`` goes on from ``before``, None at first, for
    about so long, and says how far it is then. Called as it is, it is all of it at once.
    """

    def __init__(self, step: Callable[[Connection, Q, S | None, float], S]) -> None:
        self.step = step
        self.__name__ = step.__name__  # of what could not be committed

    def __call__(self, connection: Connection, params: Q) -> S:
        """All of it."""
        return self.step(connection, params, None, math.inf)


class Asked(NamedTuple):
    """A change that waits."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: asyncio.Future[Any]


class Transactions:
    """The queue of changes. ``wake`` is called when one comes; ``are_in_flight``: requests whose
    results will come.
    """

    def __init__(self, wake: Callable[[], None], are_in_flight: Callable[[], bool]) -> None:
        self._wake = wake
        self._are_in_flight = are_in_flight
        self._results_at = self._piece_at = -math.inf  # when the last of each went
        self._passed = 0  # results since the last piece
        self._is_due = asyncio.Event()  # the next piece
        self._asked: deque[Asked] = deque()
        self._ended = False

    def __len__(self) -> int:
        return len(self._asked)

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function(connection, *args)`` in a transaction, and wait for its COMMIT; one that
        is ``InPieces`` in as many as it takes.

        Cancelling does not take the change back.

        Raises:
            StoreError: it is not committed, or, after an I/O error, not known to be. Pieces before
                it are.
            EdgeStoreError: what ``function`` raises; nothing of it is committed.
        """
        if isinstance(function, InPieces):
            return cast("T", await self._ask_in_pieces(function, *args))
        if self._ended:
            raise WriterStopped("the writer has stopped")
        if len(self._asked) >= WAITING_MAX:
            raise StoreError(f"{WAITING_MAX} changes wait for the database", hint="try again later")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append(Asked(function, args, done))
        self._wake()
        return cast("T", await done)

    async def _ask_in_pieces(self, change: InPieces[Q, S], params: Q) -> S:
        so_far: S | None = None
        while so_far is None or not so_far.is_done:
            began = time.monotonic()
            if self._are_in_flight() or began - self._results_at < COMING_S:
                await self._turn_of_results()
                so_far = await self.ask(change.step, params, so_far, PIECE_S)
            else:
                so_far = await self.ask(change.step, params, so_far, ALONE_S)
                await asyncio.sleep(time.monotonic() - began)  # half of the time is the others'
        return so_far

    async def _turn_of_results(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._piece_at + PIECE_EVERY_S - time.monotonic()):
                await self._is_due.wait()
        self._is_due.clear()
        self._passed, self._piece_at = 0, time.monotonic()

    def note_results(self, count: int) -> None:
        """So many have gone."""
        self._results_at = time.monotonic()
        self._passed += count
        if self._passed >= PIECE_EVERY:
            self._is_due.set()

    async def carry_out_next(self, connection: DatabaseThread) -> None:
        """Run those that wait, as many as share a COMMIT.

        Raises:
            Suspect: the disk failed; who asked has been told that the change may be in or not.
            StoreError: the file is damaged (``is_damage``); who asked has been told.
        """
        together = [self._asked.popleft() for _ in range(min(len(self._asked), TOGETHER_MAX))]
        if len(together) > 1:
            try:
                outcomes = await connection.run(in_transaction, all_of_them, together)
                connection.require_in_place()
            except Exception as exc:
                if _is_of_the_file(exc):
                    for asked in together:
                        _refuse(asked, exc)
                    raise
                # else the one whose fault it is meets it again
            else:
                for asked, outcome in zip(together, outcomes, strict=True):
                    if not asked.done.done():
                        asked.done.set_result(outcome)
                return
        self._asked.extendleft(reversed(together))
        for _ in together:
            await self._carry_out_one(connection)

    async def _carry_out_one(self, connection: DatabaseThread) -> None:
        asked = self._asked.popleft()
        try:
            outcome = await connection.run(in_transaction, asked.function, *asked.args)
            connection.require_in_place()
        except Exception as exc:  # who asked is told
            _refuse(asked, exc)
            if _is_of_the_file(exc):
                raise
        else:
            if not asked.done.done():
                asked.done.set_result(outcome)

    def refuse_all(self, error: EdgeStoreError) -> None:
        """Tell all that wait that nothing more is written."""
        self._ended = True
        self._is_due.set()
        while self._asked:
            _refuse(self._asked.popleft(), error)


def _is_of_the_file(exc: Exception) -> bool:
    """Whether it concerns more than the change that met it."""
    return isinstance(exc, StoreError) and (isinstance(exc, Suspect) or is_damage(exc))


def _refuse(asked: Asked, error: Exception) -> None:
    if not asked.done.done():
        asked.done.set_exception(error)
        asked.done.exception()  # one that has left is not an unseen error


def all_of_them(connection: Connection, together: Sequence[Asked]) -> list[Any]:
    """The values of several changes."""
    return [asked.function(connection, *asked.args) for asked in together]


def in_transaction(
    connection: Connection,
    function: Callable[Concatenate[Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """``function(connection, …)`` between BEGIN IMMEDIATE and COMMIT.

    Raises:
        Suspect: an I/O error. Whether it is committed only the file itself can tell.
        StoreError: nothing was committed.
    """
    try:
        with translated(f"{function.__name__.lstrip('_')} could not be committed"):
            try:
                connection.execute(sql("begin"))
                outcome = function(connection, *args, **kwargs)
                connection.execute(sql("commit"))
            except BaseException:
                with suppress(driver.Error):  # the failure may have ended the transaction by itself
                    connection.execute(sql("rollback"))
                raise
    except StoreError as exc:
        if is_untrustworthy(exc):
            raise Suspect(exc, None, is_unknown=True) from exc
        raise
    return outcome
