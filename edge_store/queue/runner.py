"""Carries the queue out, while the daemon runs: each open batch is a task, and so is each line.

Nothing here is the only copy of anything. Whatever ends the daemon, the next one reads from the
database which batches are open and which of their lines have an outcome, and goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from edge_store.clock import now_ms
from edge_store.config import Config
from edge_store.errors import EdgeStoreError, StoreError
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.queue.asking import Ask, Asking, Change, Entry
from edge_store.queue.batches import Beginning, Ending, begin, finish
from edge_store.queue.entries import (
    drop_finished_requests,
    drop_refused_requests,
    end_request,
    find_request,
    held_ids,
    is_paused,
    queued_requests,
    standings,
)
from edge_store.queue.files import FileStore
from edge_store.queue.held import Held
from edge_store.queue.input import Limits, Line, lines_of, next_lines, reread
from edge_store.queue.lines import Counts, LineState, Standing, counted
from edge_store.queue.places import Place, Places
from edge_store.queue.records import Batch, BatchState, QueuedRequest
from edge_store.queue.store import (
    drop_expired_files,
    find_batch,
    needed_sha256s,
    open_batches,
    restored_at,
)
from edge_store.recorder.caller import Origin
from edge_store.recorder.deletions import last_tombstones
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.slots import Slots
from edge_store.sqlite import DatabaseThread

__all__ = ["Runner"]

log = get_logger(__name__)

OPEN_MAX = 16  # batches at a time; others wait, those of a tenant that has none under way least
ALIVE_MAX = 1024  # lines of one batch that run or pause between attempts
REQUESTS_PER_READ = 8
SWEEP_S = 3600.0
PAUSE_S = 5.0  # after the disk has failed
ENGINE_PAUSE_S, ENGINE_PAUSE_S_MAX = 0.5, 15.0


class OpenBatch:
    """A batch whose lines are asked."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.deadline: asyncio.Timeout | None = None
        self.is_cancelled = batch.state is BatchState.CANCELLING
        self.completed = self.failed = 0

    def note(self, state: LineState) -> None:
        """One more line has an outcome."""
        if state is LineState.COMPLETED:
            self.completed += 1
        else:
            self.failed += 1

    def cancel(self) -> None:
        """Cut its lines."""
        self.is_cancelled = True
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time())


class Runner:
    """Runs until cancelled. Cancelled, it cuts its lines; they are asked again by the next one."""

    def __init__(  # noqa: PLR0913  (its world: nothing here is optional)
        self,
        *,
        ask: Ask,
        change: Change,
        reader: DatabaseThread,
        slots: Slots,
        is_engine_ready: Callable[[], Awaitable[bool]],
        store: FileStore,
        redacting: Redacting,
        held: Held,
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._change = change
        self._reader = reader
        self._is_engine_ready = is_engine_ready
        self._store = store
        self._redacting = redacting
        self._held = held
        self._config = config.queue
        self._limits = Limits(config.queue.lines_max, config.server.body_bytes_max)
        self._places = Places(slots, config.queue, config.recorder)
        self._asking = Asking(
            ask=ask,
            change=change,
            reader=reader,
            redacting=redacting,
            config=config.queue,
            engine_failed=self._note_engine_failure,
        )
        self._open: dict[str, OpenBatch] = {}
        self._running_requests: set[str] = set()
        self._changed = asyncio.Event()
        self._accepted = asyncio.Event()
        self._engine_failed = asyncio.Event()
        self._tombstones = (0, 0)  # what is at hand from before newer ones may be forgotten
        self.is_paused = False
        self._is_engine_down = False
        metrics.watch("queue_lines_running", "Lines in flight", lambda: self._places.running)
        metrics.watch("queue_batches_open", "Batches under way", lambda: len(self._open))

    def wake(self) -> None:
        """Something of the queue has changed in the database."""
        self._changed.set()
        self._accepted.set()

    def progress(self, batch_id: str) -> Counts | None:
        """The counts of a batch that is under way; None where it is not."""
        found = self._open.get(batch_id)
        if found is None or found.batch.detail.lines is None:
            return None
        return Counts(found.completed, found.failed, found.batch.detail.lines)

    def is_running(self, request_id: str) -> bool:
        """Whether a queued request is in flight."""
        return request_id in self._running_requests

    @property
    def lines_running(self) -> int:
        """Lines in flight, queued requests included."""
        return self._places.running

    async def run(self) -> None:
        """Carry out what is there and what comes. Ends by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            tasks.create_task(self._watch_engine())
            tasks.create_task(self._run_requests())
            while True:
                self._changed.clear()
                try:
                    await self._look(tasks)
                except StoreError as exc:
                    log.error("queue_not_read", code=exc.code, error=str(exc))
                    self._changed.set()
                    await asyncio.sleep(PAUSE_S)
                await self._changed.wait()

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        """Take up what an operator or a caller has changed."""
        self._tombstones = await self._reader.run(last_tombstones)
        self.is_paused = await self._reader.run(is_paused)
        self._set_places()
        for batch in await self._reader.run(open_batches, OPEN_MAX):
            found = self._open.get(batch.batch_id)
            if found is None:
                found = self._open[batch.batch_id] = OpenBatch(batch)
                tasks.create_task(self._carry(found))
            elif batch.state is BatchState.CANCELLING:
                found.cancel()

    def _set_places(self) -> None:
        self._places.open(is_open=not (self.is_paused or self._is_engine_down))

    # the engine

    def _note_engine_failure(self) -> None:
        self._engine_failed.set()

    async def _watch_engine(self) -> None:
        """After a failure, start no line before the engine says that it is ready."""
        while True:
            await self._engine_failed.wait()
            self._is_engine_down = True
            self._set_places()
            pause_s = ENGINE_PAUSE_S
            while not await self._engine_answers():
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, ENGINE_PAUSE_S_MAX)
            self._engine_failed.clear()
            self._is_engine_down = False
            self._set_places()

    async def _engine_answers(self) -> bool:
        try:
            async with asyncio.timeout(ENGINE_PAUSE_S_MAX):
                return await self._is_engine_ready()
        except TimeoutError:
            return False

    # queued requests

    async def _run_requests(self) -> None:
        taken: set[int] = set()  # and those whose end could not be written
        alive = asyncio.Semaphore(ALIVE_MAX)
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._accepted.clear()
                since = self._tombstones
                try:
                    found = await self._reader.run(queued_requests, taken, REQUESTS_PER_READ)
                except StoreError as exc:
                    log.error("queue_not_read", code=exc.code, error=str(exc))
                    await asyncio.sleep(PAUSE_S)
                    continue
                for number, request in found:
                    taken.add(number)
                    await alive.acquire()
                    place = Place(self._places, len(request.body), request.caller.tenant)
                    await place.take(first=True)
                    ending = partial(taken.discard, number)
                    task = tasks.create_task(self._run_request(request, place, ending, since))
                    task.add_done_callback(partial(_left, place, alive))
                if not found:
                    await self._accepted.wait()

    async def _run_request(
        self,
        request: QueuedRequest,
        place: Place,
        ending: Callable[[], None],
        since: tuple[int, int],
    ) -> None:
        async def body() -> bytes:
            if self._tombstones != since:
                found = await self._reader.run(find_request, request.id, request.caller)
                if found is None:
                    return b""
            return await self._held.sent(request.id, request.body, is_held=request.is_held)

        key_hash = None if request.key is None else request.key.key_hash
        origin = Origin(result_id=request.id, batch_id=request.id, key_hash=key_hash)
        entry = Entry(request.endpoint, request.caller, origin, place, body)
        self._running_requests.add(request.id)
        try:
            standing = await self._asking.standing(entry)
            state = standing.state
            if not state.is_settled:
                state = await self._asking.settle(entry, standing.attempts, is_first=True)
            await self._held.let_go(request.id, is_held=request.is_held)
            await self._change(end_request, request.id, state)
            ending()
        except StoreError as exc:  # a later sweep takes it out of the queue
            log.error("request_interrupted", id=request.id, code=exc.code, error=str(exc))
        except Exception:  # our own defect: the box goes on, the next start tries it again
            log.exception("request_stuck", id=request.id)
        finally:
            self._running_requests.discard(request.id)

    # batches

    async def _carry(self, found: OpenBatch) -> None:
        """Bring a batch to its end, however often the disk fails."""
        batch_id = found.batch.batch_id
        try:
            while not found.batch.state.is_end:
                try:
                    await self._carry_on(found)
                except* (EdgeStoreError, OSError) as group:
                    log.error("batch_interrupted", batch_id=batch_id, error=_first_of(group))
                    await asyncio.sleep(PAUSE_S)
                    with suppress(EdgeStoreError):
                        found.batch = await self._reader.run(find_batch, batch_id)
        except Exception:  # our own defect: the box goes on, the next start tries it again
            log.exception("batch_stuck", batch_id=batch_id)
            return
        log.info("batch_ended", batch_id=batch_id, state=found.batch.state.value)
        del self._open[batch_id]
        self._changed.set()  # another may be taken up

    async def _carry_on(self, found: OpenBatch) -> None:
        end = BatchState.COMPLETED
        try:
            left_s = (found.batch.expires_at - now_ms()) / 1000
            async with asyncio.timeout(0 if found.is_cancelled else left_s) as found.deadline:
                if found.batch.state is BatchState.VALIDATING:
                    beginning = Beginning(self._store, self._limits, self._redacting)
                    found.batch = await begin(found.batch, beginning, self._change)
                if found.batch.state is BatchState.IN_PROGRESS:
                    await self._run_lines(found)
        except TimeoutError:
            end = BatchState.CANCELLED if found.is_cancelled else BatchState.EXPIRED
        finally:
            found.deadline = None
        if found.batch.state.is_end:  # its input is wrong
            return
        found.batch = await finish(
            found.batch, Ending(end, self._store, self._limits, self._reader), self._change
        )
        await self.sweep([found.batch.input_sha256])

    async def _run_lines(self, found: OpenBatch) -> None:
        """Ask every line that has no outcome; again, while an operator has some retried."""
        batch_id, bound = found.batch.batch_id, self._config.attempts_max
        known = await self._reader.run(standings, batch_id, bound)
        while True:
            counts = counted(known, found.batch.detail.lines or 0)
            found.completed, found.failed = counts.completed, counts.failed
            await self._run_waiting(found, known)
            known = await self._reader.run(standings, batch_id, bound)
            if all(standing.state.is_settled for standing in known.values()):
                return

    async def _run_waiting(self, found: OpenBatch, known: Mapping[str, Standing]) -> None:
        alive = asyncio.Semaphore(ALIVE_MAX)
        lines = lines_of(self._store.path(found.batch.input_sha256), self._limits)
        async with asyncio.TaskGroup() as tasks:
            since = self._tombstones
            while piece := await asyncio.to_thread(next_lines, lines):
                for line in piece:
                    standing = known.get(line.custom_id, Standing(LineState.WAITING))
                    if standing.state.is_settled:
                        continue
                    await alive.acquire()
                    place = Place(self._places, len(line.body), found.batch.tenant)
                    await place.take()
                    task = tasks.create_task(
                        self._run_line(found, line, standing.attempts, place, since)
                    )
                    task.add_done_callback(partial(_left, place, alive))
                since = self._tombstones

    async def _run_line(
        self, found: OpenBatch, line: Line, attempts: int, place: Place, since: tuple[int, int]
    ) -> None:
        batch = found.batch
        path = self._store.path(batch.input_sha256)
        at_hand = [line.body]  # for the first attempt; while it pauses, its body is on the disk
        brief = line._replace(body=b"")

        async def body() -> bytes:
            if at_hand and self._tombstones == since:
                return at_hand.pop()
            return await asyncio.to_thread(reread, path, brief)

        origin = Origin(batch_id=batch.batch_id, custom_id=line.custom_id)
        entry = Entry(batch.endpoint, batch.caller, origin, place, body)
        del line
        found.note(await self._asking.settle(entry, attempts, is_first=False))

    # files

    async def _sweep(self) -> None:
        while True:
            try:
                await self._held.sweep(partial(self._reader.run, held_ids))
                await self._change(drop_expired_files)
                await self._change(drop_finished_requests)
                await self._change(drop_refused_requests)
                await self.sweep()
            except EdgeStoreError as exc:
                log.error("files_not_swept", code=exc.code, error=str(exc))
            await asyncio.sleep(SWEEP_S)

    async def sweep(self, names: list[str] | None = None) -> None:
        """Remove the bytes of files that are gone: these, or all."""
        since_ms = await self._reader.run(restored_at)
        removed = await self._store.sweep(self._needed, since_ms, names)
        if removed:
            log.info("files_swept", files=removed)

    async def _needed(self, names: list[str]) -> set[str]:
        return await self._reader.run(needed_sha256s, names)


def _left(place: Place, alive: asyncio.Semaphore, _task: asyncio.Task[None]) -> None:
    """A line is over, even if it was cut before it began."""
    place.give()
    alive.release()


def _first_of(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
