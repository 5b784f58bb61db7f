"""The queue as the rest of the daemon sees it: entered, it runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edge_store.clock import now_ms
from edge_store.config import Config
from edge_store.errors import QueueFull, TenantOverShare
from edge_store.ids import ResultId, new_result_id
from edge_store.observability.metrics import Metrics
from edge_store.queue.asking import Ask, Change
from edge_store.queue.entries import accept_request, find_request, standings
from edge_store.queue.files import FileStore, Refusal
from edge_store.queue.held import Held
from edge_store.queue.lines import Counts, counted
from edge_store.queue.records import Batch, QueuedRequest
from edge_store.queue.runner import Runner
from edge_store.recorder.caller import Caller
from edge_store.recorder.entry import Key
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.slots import Slots
from edge_store.result import Record
from edge_store.sqlite import DatabaseThread, open_reader

__all__ = ["Queue", "Queued", "queue_of", "running"]

LOOK_AGAIN_S = 15.0


class Queued(Record, frozen=True, kw_only=True):
    """A queued request that has no result yet. ``failure`` is the status, code and message of one
    that will have none.
    """

    id: str
    created_at: int
    is_running: bool
    failure: tuple[int, str, str] | None


class Queue(NamedTuple):
    """What routes and the gate ask the queue for."""

    runner: Runner
    store: FileStore
    reader: DatabaseThread
    change: Change
    config: Config
    redacting: Redacting
    held: Held

    async def accept(
        self, endpoint: str, body: bytes, caller: Caller, key: Key | None = None
    ) -> ResultId:
        """Take a request that is answered later; it is on the disk when this returns its id.

        Raises:
            QueueFull, TenantOverShare, StoreError: it is not.
        """
        request_id = new_result_id()
        left, is_held = await self.held.hold(request_id, body, lambda found: found or b"{}")
        request = QueuedRequest(
            id=request_id,
            created_at=now_ms(),
            caller=caller,
            endpoint=endpoint,
            body=left,
            is_held=is_held,
            key=key,
        )
        try:
            await self.change(accept_request, request, self.config.queue.requests_max)
        except (QueueFull, TenantOverShare):
            await self.held.let_go(request_id, is_held=is_held)
            raise
        self.runner.wake()
        return request.id

    async def look_again(self) -> None:
        """Wake the runner now and then, until cancelled: who leaves while its change is committed,
        or whose COMMIT meets an I/O error and gets in all the same, wakes nobody.
        """
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            self.runner.wake()

    async def find(self, request_id: str, caller: Caller) -> Queued | None:
        """A queued request of the caller's; None where there is none, or its result is there."""
        found = await self.reader.run(find_request, request_id, caller)
        if found is None:
            return None
        created_at, failure = found
        return Queued(
            id=request_id,
            created_at=created_at,
            is_running=self.runner.is_running(request_id),
            failure=failure,
        )

    async def counts(self, batch: Batch) -> Counts:
        """How far a batch is."""
        detail = batch.detail
        if detail.lines is None:
            return Counts(0, 0, 0)
        if detail.completed is not None or detail.failed is not None:
            return Counts(detail.completed or 0, detail.failed or 0, detail.lines)
        known = self.runner.progress(batch.batch_id)
        if known is None:
            bound = self.config.queue.attempts_max
            stored = await self.reader.run(standings, batch.batch_id, bound)
            known = counted(stored, detail.lines)
        return known

    async def change_noticed(self, function: Callable[..., Any], *args: Any) -> Any:
        """Make a change that the runner must learn of."""
        value = await self.change(function, *args)
        self.runner.wake()
        return value


@asynccontextmanager
async def queue_of(  # noqa: PLR0913  (all that has come up)
    config: Config,
    *,
    ask: Ask,
    change: Change,
    redacting: Redacting,
    slots: Slots,
    is_engine_ready: Callable[[], Awaitable[bool]],
    refusal_of: Refusal,
    metrics: Metrics,
) -> AsyncIterator[Queue]:
    """The queue, not running yet: ``running`` does that. It reads over a connection of its own."""
    path = Path(config.store.path)
    reader = await DatabaseThread.open(lambda: open_reader(path))
    store = FileStore(path, refusal_of)
    held = Held(path, redacting)
    runner = Runner(
        ask=ask,
        change=change,
        reader=reader,
        slots=slots,
        is_engine_ready=is_engine_ready,
        store=store,
        redacting=redacting,
        held=held,
        config=config,
        metrics=metrics,
    )
    try:
        yield Queue(runner, store, reader, change, config, redacting, held)
    finally:
        await reader.close()


@asynccontextmanager
async def running(queue: Queue) -> AsyncIterator[None]:
    """The queue is carried out meanwhile. Left, what is in flight is cut, and recorded as cut."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work()) for work in (queue.runner.run, queue.look_again)]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
