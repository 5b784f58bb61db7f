"""Keeps Litestream running as our child while the daemon runs, and says how far the replica is.

Entering the context checks program, keys and configuration; ``start`` starts the child and waits
until its control socket answers; whatever is wrong by then is the operator's to mend and is raised.
Later it is started again when it ends, with growing pauses. Leaving waits, bounded, until the last
commits are in the replica, then stops it: so whoever writes must have ended first, and must neither
close the last connection nor checkpoint, before or after. Runs on the main thread's loop.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_store.config import ReplicaSection
from edge_store.errors import ConfigError, EdgeStoreError, LitestreamUnavailable, ReplicationError
from edge_store.ids import DeviceId
from edge_store.loggers import get_logger
from edge_store.replica.childlog import ChildLog
from edge_store.replica.control import Control, Synced
from edge_store.replica.litestream import (
    SHUTDOWN_TIMEOUT_S,
    Program,
    check_config,
    find_litestream,
    is_asked,
    render_config,
    require_safe_path,
    spawn,
    upload_snapshot,
    write_private,
)
from edge_store.replica.local import remove_dropped
from edge_store.replica.location import Credentials, Scheme, parse_location, read_credentials
from edge_store.replica.positions import Positions, watch_positions
from edge_store.replica.reached import Reached
from edge_store.replica.status import Cause, Confirmed, ReplicaStatus, Tracker, numbers
from edge_store.replica.traffic import Reports

__all__ = ["Litestream"]

log = get_logger(__name__)

SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7); a longer one litestream ignores with a warning
READY_TIMEOUT_S = 10.0  # it answers 40 to 80 ms after its start, whatever the store does
READY_POLL_S = 0.05
RESTART_MIN_S, RESTART_MAX_S = 0.5, 30.0
STEADY_AFTER_S = 60.0  # after this long a run counts as good, and the next pause is short again
HEALTH_INTERVAL_S = 5.0
PAUSE_TRIES, PAUSE_TRY_S = 5, 1.0
TERM_GRACE_S = 2.0  # beyond litestream's own last replica sync


class Litestream:
    """The supervised child. ``status``, ``sync`` and ``stop`` are for the daemon."""

    def __init__(
        self,
        section: ReplicaSection,
        database: Path,
        device_id: DeviceId,
        *,
        lock_descriptor: int | None = None,
        health_interval_s: float | None = None,
        count: Callable[[str, int, int], None] = lambda _verb, _requests, _bytes: None,
    ) -> None:
        self._section = section
        self._database = database
        self._device_id = device_id
        self._inherited = () if lock_descriptor is None else (lock_descriptor,)
        self.ltx = database.parent / "litestream" / "ltx"  # what it keeps on this disk
        asked_every_s = section.pace.monitor_interval_s if is_asked(section.pace) else 0.0
        self._health_interval_s = health_interval_s or max(HEALTH_INTERVAL_S, asked_every_s)
        self._tracker = Tracker(asked_every_s)
        self._count = count
        self._reports = Reports(counts_requests=parse_location(section.url).scheme is Scheme.S3)
        self.positions = Positions(self._tracker, Reached(database, self.ltx))
        self._stack = AsyncExitStack()
        self._process: asyncio.subprocess.Process | None = None
        self._running = asyncio.Lock()  # held while there is a child
        self._is_pausing = False
        self._one_pause = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._allowed = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        self._supervising: asyncio.Task[None] | None = None
        self._program: Program
        self._credentials: Credentials | None = None
        self._control: Control
        self._config: Path
        self.is_replicated = False  # after ``stop``: whether the last commit is in the replica

    @property
    def status(self) -> ReplicaStatus:
        """How far the replica is, as last seen."""
        return self._tracker.status

    @property
    def stalled_after_s(self) -> float:
        """How long it may be behind and get no further before it is called stalled."""
        return self._tracker.stalled_after_s

    def follow(self, newest_seq: Callable[[], int]) -> None:
        """Know from now on which results it reaches; ``newest_seq``: the newest committed one."""
        self.positions.newest_seq = newest_seq

    def remember(self, confirmed: Confirmed | None) -> None:
        """See ``Tracker.remember``."""
        self._tracker.remember(confirmed)

    @property
    def process_id(self) -> int | None:
        """Of the child; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def __aenter__(self) -> Self:
        """Check all that can be checked before it runs.

        Raises:
            LitestreamUnavailable: there is no usable program, or it refuses its configuration.
            ConfigError: replica.url or its keys are wrong, or its folder cannot be made.
        """
        async with AsyncExitStack() as stack:
            self._prepare(stack)
            # The program is run twice for a moment; the loop is not held up meanwhile.
            self._program = await asyncio.to_thread(find_litestream)
            await asyncio.to_thread(check_config, self._program, self._config, self._database)
            stack.push_async_callback(self._control.close)
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._stack = stack.pop_all()
        return self

    async def start(self) -> None:
        """Start the child, and wait until it answers. One that was started already, or is held by
        ``hold``, goes on.

        Raises:
            LitestreamUnavailable: it does not stay up.
        """
        if self._supervising is None or self._supervising.done():
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._supervising = self._tasks.create_task(self._supervise(ready))
            self._allowed.set()
            await ready
        self._allowed.set()

    async def hold(self) -> None:
        """End the child, by force, and start none until ``start`` is called."""
        self._allowed.clear()
        async with self._ended():
            self._tracker.ended(Cause.STOPPED)

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            await self.stop(self._section.stop_timeout_s)
        finally:
            self._stopping.set()
            # without the error: the task group would wrap it in a group of its own
            await self._stack.aclose()

    def _prepare(self, stack: AsyncExitStack) -> None:
        """Make the folders and write the configuration."""
        require_safe_path(self._database)
        location = parse_location(self._section.url)
        self._credentials = read_credentials(location)
        meta_path = self.ltx.parent
        remove_dropped(self.ltx)
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        folder = Path(runtime) if runtime else meta_path
        socket = folder / "litestream.sock"
        try:
            meta_path.mkdir(mode=0o750, exist_ok=True)
            if len(os.fsencode(socket)) > SOCKET_PATH_BYTES_MAX:
                short = Path(tempfile.mkdtemp(prefix="edge-store-"))
                stack.callback(shutil.rmtree, short, ignore_errors=True)
                socket = short / "litestream.sock"
            self._config = folder / "litestream.yml"
            content = render_config(
                database=self._database,
                meta_path=meta_path,
                socket=socket,
                replica=location.litestream_replica(self._device_id),
                section=self._section,
            )
            write_private(self._config, content)
        except OSError as exc:
            raise ConfigError(
                f"{exc.filename}: litestream's files cannot be written: {exc.strerror}",
                hint="check the owner, the mode and the free space of the database's folder",
            ) from exc
        self._control = Control(socket, self._database)

    async def sync(self, timeout_s: float) -> Synced:
        """Wait until everything committed before this call is in the replica. Safe to cancel.

        Raises:
            ReplicationError: it is not, within about ``timeout_s``.
        """
        if self.process_id is None:
            raise ReplicationError("litestream is not running", hint="it is being started again")
        return await self.positions.sync(self._control, timeout_s)

    async def stop(self, timeout_s: float) -> bool:
        """Replicate the last commits within ``timeout_s``, then end the child, by force if need be.

        Returns whether the last commit is in the replica. A second call does nothing.
        """
        if self._stopping.is_set():
            return self.is_replicated
        try:
            await self.sync(timeout_s)
            self.is_replicated = True
        except EdgeStoreError as exc:
            log.error("replica_left_behind", error=str(exc), **numbers(self.status))
        finally:
            self._stopping.set()
        await self._end_child(self._process)
        self._tracker.stopped(is_replicated=self.is_replicated)
        log.info("litestream_stopped", is_replicated=self.is_replicated)
        return self.is_replicated

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Without a child, so that the WAL may be emptied. It is killed, and started again after:
        then it takes the whole database anew.

        One pause at a time: another waits for its end.

        Raises:
            ReplicationError: it does not end.
        """
        async with self._ended():
            yield
            self.positions.anew()

    @asynccontextmanager
    async def _ended(self) -> AsyncIterator[None]:
        async with self._one_pause:
            await self._end_for_pause()
            try:
                yield
            finally:
                self._running.release()

    async def snapshot(self) -> None:
        """While ``paused``: upload the whole database. A restore begins with the newest snapshot.

        Raises:
            ReplicationError: it is not uploaded.
        """
        await upload_snapshot(self._program, self._config, self._credentials, self._inherited)

    async def _end_for_pause(self) -> None:
        """Kill the child and take the place that it has."""
        self._is_pausing = True
        for _ in range(PAUSE_TRIES):
            process = self._process
            if process is not None and process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()  # safe: the next start continues from its own files
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_TRY_S):  # one that was being started is next
                    await self._running.acquire()
                break
        else:
            self._is_pausing = False
            raise ReplicationError("litestream does not end", hint="see its process")
        self._is_pausing = False  # there may have been no child that ended by it

    async def _end_child(self, process: asyncio.subprocess.Process | None) -> None:
        """SIGTERM, and SIGKILL when it has not ended in time."""
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S + TERM_GRACE_S):
                await process.wait()
        except TimeoutError:
            # SIGKILL is safe: the next start continues from its own files
            log.warning("litestream_killed", after_s=SHUTDOWN_TIMEOUT_S + TERM_GRACE_S)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _supervise(self, ready: asyncio.Future[None]) -> None:
        """Run the child again and again until ``stop``."""
        pause_s = RESTART_MIN_S
        while not self._stopping.is_set():
            if not await self._may_run():
                break
            began = time.monotonic()
            reason = ""
            try:
                async with self._running:
                    reason = await self._run_once(ready)
            except LitestreamUnavailable as exc:
                reason = str(exc)
            if not ready.done():
                ready.set_exception(
                    LitestreamUnavailable(
                        f"litestream ended as soon as it was started: {reason}",
                        hint=f"it was run with {self._config}",
                    )
                )
                return
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= STEADY_AFTER_S:
                pause_s = RESTART_MIN_S
            self._tracker.ended(Cause.RESTARTING)
            if self._is_pausing:  # no failure: the next waits for the lock only
                self._is_pausing = False
                continue
            self._tracker.failed(reason)
            log.error("litestream_ended", reason=reason, restart_in_s=pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, RESTART_MAX_S)
        if not ready.done():
            ready.set_exception(LitestreamUnavailable("the daemon stops before litestream is up"))

    async def _may_run(self) -> bool:
        """Wait while it is held; false when it is to stop."""
        waiting = [asyncio.ensure_future(each.wait()) for each in (self._allowed, self._stopping)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        return not self._stopping.is_set()

    async def _run_once(self, ready: asyncio.Future[None]) -> str:
        """One run of the child, from its start to its end. Returns why it ended."""
        process = await spawn(
            self._program,
            *("replicate", "-no-expand-env", "-config", str(self._config)),
            credentials=self._credentials,
            stderr=asyncio.subprocess.STDOUT,
            inherited=self._inherited,
        )
        self._process = process
        assert process.stdout is not None
        child_log = ChildLog(process.stdout, on_error=self._tracker.failed, on_entry=self._reported)
        log.info("litestream_started", process_id=process.pid, version=self._program.version)
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(ready))
                if self._stopping.is_set():  # while it was started: ``stop`` has not seen it
                    tasks.create_task(self._end_child(process))
                await child_log.run()
                await process.wait()
                watching.cancel()  # and with it what it has asked
        finally:
            if process.returncode is None:  # we are being cancelled
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return child_log.last_error or f"exit status {process.returncode}"

    def _reported(self, entry: dict[str, Any]) -> None:
        if (report := self._reports.read(entry)) is None:
            return
        self._count(report.verb, report.requests, report.bytes)
        if report.replicated_txid is not None:
            self._tracker.uploaded(report.replicated_txid)

    async def _watch(self, ready: asyncio.Future[None]) -> None:
        """Wait for the control socket, then look at the positions until cancelled."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not await self._control.is_up():  # noqa: ASYNC110  (another process's socket)
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            log.error("litestream_unresponsive", after_s=READY_TIMEOUT_S)
            assert self._process is not None
            with suppress(ProcessLookupError):
                self._process.kill()
            return
        if not ready.done():
            ready.set_result(None)
        await watch_positions(
            self._control.positions,
            self._tracker,
            self.positions,
            interval_s=self._health_interval_s,
        )
