"""Litestream as a unit of the operator's: asked and looked at through its control socket.

Nothing is started, ended or configured here, and its files are not touched. Where replication has
to stop (the path is another's, the database file was swapped, a pause) it is told to let go of the
database, and to take it up again later; if it is started anew meanwhile, it is told again. The WAL
is emptied only after it has let go; and it takes the whole database anew only after it was
started anew, which is asked for. Stands in for ``supervisor.Litestream``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_store.config import ReplicaSection
from edge_store.errors import EdgeStoreError, LitestreamUnavailable, ReplicationError
from edge_store.loggers import get_logger
from edge_store.replica.control import Control, Synced
from edge_store.replica.litestream import require_safe_path, require_version
from edge_store.replica.local import drop
from edge_store.replica.positions import Positions, watch_positions
from edge_store.replica.reached import Reached
from edge_store.replica.status import Cause, Confirmed, ReplicaStatus, Tracker, numbers

__all__ = ["External", "let_go"]

log = get_logger(__name__)

LOOK_INTERVAL_S = 5.0
RESTART = "restart the unit of Litestream: it then uploads the whole database"


class External:
    """The foreign Litestream. ``status`` and ``sync`` are for the daemon."""

    def __init__(self, section: ReplicaSection, database: Path) -> None:
        require_safe_path(database)
        self._section = section
        self._control = Control(Path(section.socket), database)
        self.ltx = database.parent / "litestream" / "ltx"  # where docs/operations.md puts it
        self._tracker = Tracker()
        self.positions = Positions(self._tracker, Reached(database, self.ltx))
        self._is_allowed = False
        self._outlived: str | None = None  # when that one was started whose folder is gone
        self._turn = asyncio.Lock()  # who tells it to stop or to start
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup
        self._watching: asyncio.Task[None] | None = None
        self.process_id: int | None = None
        self._started_at: str | None = None
        self.is_replicated = False  # after ``stop``: whether the last commit is in the replica

    @property
    def status(self) -> ReplicaStatus:
        """How far the replica is, as last seen."""
        return self._tracker.status

    @property
    def stalled_after_s(self) -> float:
        """See ``Litestream.stalled_after_s``."""
        return self._tracker.stalled_after_s

    def follow(self, newest_seq: Callable[[], int]) -> None:
        """See ``Litestream.follow``."""
        self.positions.newest_seq = newest_seq

    def remember(self, confirmed: Confirmed | None) -> None:
        """See ``Tracker.remember``."""
        self._tracker.remember(confirmed)

    async def __aenter__(self) -> Self:
        """Nothing is asked until ``start``."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._control.close)
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            await self.stop(self._section.stop_timeout_s)
        finally:
            if self._watching is not None:
                self._watching.cancel()
            await self._stack.aclose()

    async def start(self) -> None:
        """Let it replicate. One that does not answer is no error: its unit may come up later.

        Raises:
            LitestreamUnavailable: it is too old to be beside our SQLite.
        """
        self._is_allowed = True
        try:
            await self._take_up()
        except LitestreamUnavailable:
            raise
        except ReplicationError as exc:  # the next look tells it again
            self._tracker.failed(str(exc))
            log.error("litestream_refused", error=str(exc), hint=exc.hint)
        if self._watching is None:
            self._watching = self._tasks.create_task(self._watch())

    async def _watch(self) -> None:
        await watch_positions(
            self._ask,
            self._tracker,
            self.positions,
            interval_s=LOOK_INTERVAL_S,
        )

    async def hold(self) -> None:
        """Let it replicate nothing until ``start``.

        Raises:
            ReplicationError: it answers, and does not let go.
        """
        self._is_allowed = False
        async with self._turn:
            await self._let_go()
        self._tracker.ended(Cause.STOPPED)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """While it has let go of the database, so that the WAL is emptied. Then its folder is, too,
        and this Litestream may not go on: it knows where it was, and would go on from there,
        without what it may have passed over (seen). One that is started anew does not.

        Raises:
            ReplicationError: it answers, and does not let go; or its folder is not ours to empty.
        """
        async with self._turn:
            await self._let_go()
            self._tracker.ended(Cause.STOPPED)
            if self.ltx.exists():
                self._outlived = self._started_at
            try:
                yield
            finally:
                await self._begin_anew()
                if self._outlived is None and self._is_allowed:
                    with suppress(ReplicationError):  # the next look tells it again
                        await self._control.start_database()

    async def _begin_anew(self) -> None:
        try:
            await asyncio.to_thread(drop, self.ltx)
        except OSError as exc:
            raise ReplicationError(
                f"{self.ltx} cannot be emptied: {exc.strerror}",
                hint="stop the unit, remove that folder, start the unit",
            ) from exc
        self.positions.anew()

    async def snapshot(self) -> None:
        """Its own to take, when it is started anew.

        Raises:
            ReplicationError: it runs on.
        """
        if self._outlived is not None:
            raise ReplicationError("the operator's Litestream goes on as before", hint=RESTART)

    async def sync(self, timeout_s: float) -> Synced:
        """See ``Litestream.sync``."""
        return await self.positions.sync(self._control, timeout_s)

    async def stop(self, timeout_s: float) -> bool:
        """Have the last commits replicated within ``timeout_s``; it runs on."""
        try:
            if self._is_allowed:
                await self.sync(timeout_s)
                self.is_replicated = True
        except EdgeStoreError as exc:
            log.error("replica_left_behind", error=str(exc), **numbers(self.status))
        self._tracker.stopped(is_replicated=self.is_replicated)
        return self.is_replicated

    async def _take_up(self) -> Cause | None:
        """Tell it to replicate; why not, when it does not."""
        if not self._is_allowed or self._turn.locked():
            return Cause.STOPPED
        async with self._turn:
            if not await self._is_up():
                self._tracker.ended(Cause.NOT_RUNNING)
                return Cause.NOT_RUNNING
            if self._outlived is not None and self._outlived == self._started_at:
                self._tracker.failed(RESTART)
                return Cause.NOT_RUNNING
            await self._control.start_database()
        return None

    async def _is_up(self) -> bool:
        try:
            info = await self._control.info()
        except ReplicationError:
            self.process_id = self._started_at = None
            return False
        require_version(info.version, f"what answers at {self._section.socket}")
        self.process_id, self._started_at = info.pid, info.started_at
        return True

    async def _let_go(self) -> None:
        if await self._is_up():
            await self._control.stop_database()

    async def _ask(self) -> Synced | Cause:
        if not self._is_allowed and not self._turn.locked():
            async with self._turn:
                await self._let_go()  # it may have been started anew
        cause = await self._take_up()
        return cause if cause is not None else await self._control.positions()


async def let_go(section: ReplicaSection, database: Path) -> None:
    """Before the daemon opens the database: let the foreign Litestream close it. It may have been
    there when the last daemon was killed, with an index of the WAL that hides a commit (ADR 12).
    """
    control = Control(Path(section.socket), database)
    try:
        await control.stop_database()
    except ReplicationError as exc:  # it does not run, as a rule
        log.info("litestream_not_asked", error=str(exc))
    finally:
        await control.close()
