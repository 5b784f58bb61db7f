"""Group commit: results that wait while one COMMIT runs share the next one.

One task, one connection. A batch is one plain function on the writer's thread (``batch.py``). A
result is acknowledged only by the future that its COMMIT resolves. A lock or an I/O error costs the
batch another try, for as long as its callers wait; after an I/O error the file is opened again and
read back first (``reopen.py``). What is given up is a loss: an alarm and a row (``losses.py``). The
queue needs no bound of its own: a result holds its slot until it is settled, whatever its caller
does. The task ends by ``close``, never by cancellation.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from edge_store.config import RecorderSection
from edge_store.errors import (
    AdmissionClosed,
    DiskFull,
    EdgeStoreError,
    StoreError,
    WriterStopped,
)
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.recorder.batch import ChainHead, Suspect, Written, without_content, write_batch
from edge_store.recorder.commits import Commits
from edge_store.recorder.disk import Disk, DiskLevel
from edge_store.recorder.failure import is_damage, may_pass, refusal, stalled, unknown
from edge_store.recorder.losses import Losses
from edge_store.recorder.reopen import reopened
from edge_store.recorder.slots import Slot, Slots
from edge_store.recorder.transactions import Transactions
from edge_store.recorder.waiting import Attempt, Settled, Waiting, first_of
from edge_store.result import Boot, Receipt, Result, Status
from edge_store.sqlite import DatabaseThread

__all__ = ["Writer"]

log = get_logger(__name__)

T = TypeVar("T")

PACING_S = 1.0  # longest time over which committed streams are released
GATHER_S = 0.005  # longest wait for results that the loop is busy bringing
QUIET_TURNS = 4  # of the loop, without a new result: it has none at hand
RETRY_PAUSE_S = 0.05  # doubled at each failure
RETRY_PAUSE_MAX_S = 1.0  # or beat_s, if that is shorter
STOPPING_PATIENCE_S = 3.0  # what waits longer at a stop is given up at the next failure


class Writer:
    """The only one that writes results. ``run`` is its task; ``submit`` hands it one."""

    def __init__(  # noqa: PLR0913  (its world: nothing here is optional)
        self,
        connection: DatabaseThread,
        boot: Boot,
        head: ChainHead,
        slots: Slots,
        disk: Disk,
        config: RecorderSection,
        metrics: Metrics,
        forget_wal: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``forget_wal`` empties the WAL, for a replica that may have read from it a commit that
        the file does not have. It raises ``StoreError`` when it cannot.
        """
        # what a COMMIT found wrong with the file: from then on nothing is written
        self.damaged: asyncio.Future[EdgeStoreError] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self.commits = Commits(head.seq)
        self._boot = boot
        self._head = head
        self._slots = slots
        self._disk = disk
        self._config = config
        self._metrics = metrics
        self._forget_wal = forget_wal
        self._losses = Losses(metrics)
        self._doubt: tuple[Suspect, Attempt] | None = None
        self._retry_pause_s = RETRY_PAUSE_S
        self._queue: deque[Waiting] = deque()
        self._pacing: deque[tuple[Waiting, Receipt, float]] = deque()
        self._expiry: asyncio.TimerHandle
        self._wake = asyncio.Event()
        self._changes = Transactions(self._wake.set, lambda: slots.in_flight > 0)
        self._closing = False
        self._ended = False
        self._marked_upto, self._marked_at, self._beat_at = 0, 0.0, 0.0
        metrics.watch("queue_depth", "Results waiting for a COMMIT", lambda: len(self._queue))
        metrics.watch("queue_age_seconds", "Age of the oldest of them", self._oldest_s)

    @property
    def head(self) -> ChainHead:
        """The newest committed seq and digest."""
        return self._head

    @property
    def is_sound(self) -> bool:
        """False from an I/O error until the database has been opened again and read back, and for
        good once a COMMIT has met damage.
        """
        return self._doubt is None and not self.damaged.done()

    @property
    def _brought(self) -> int:
        """Requests admitted and results queued: it changes with each step of new work."""
        return self._slots.admitted_upto + len(self._queue)

    def _oldest_s(self) -> float:
        return time.monotonic() - self._queue[0].since if self._queue else 0.0

    def enqueue(
        self, result: Result, slot: Slot | None = None, settled: Settled | None = None
    ) -> asyncio.Future[Receipt]:
        """Take ``result`` for the next COMMIT, at once: what happens to the caller cannot lose it.

        ``slot`` is the writer's from here on; a caller that gives none bounds its results itself.
        The future raises ``StoreError`` when the result was not committed, or when that is not
        known within ``commit_timeout_s``. ``settled`` is called with what became of it in the end.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        waiting = Waiting(result, slot, future, time.monotonic(), settled)
        if self._ended:
            self._lose(waiting, WriterStopped("the writer has stopped"))
        else:
            self._queue.append(waiting)
            self._wake.set()
        return future

    async def submit(self, result: Result, slot: Slot | None = None) -> Receipt:
        """Wait for ``enqueue``'s future. Cancelling does not take the result back."""
        return await self.enqueue(result, slot)

    async def change(self, function: Callable[..., T], *args: Any) -> T:
        """``function(connection, *args)`` in a transaction of its own: ``Transactions.ask``."""
        return await self._changes.ask(function, *args)

    def _settle(self, waiting: Waiting, outcome: Receipt | EdgeStoreError) -> None:
        waiting.answer(outcome)
        if waiting.settled is not None:
            waiting.settled(outcome)
        if waiting.slot is not None:
            self._slots.release(waiting.slot)

    def _expire(self) -> None:
        """Answer who has waited too long; one timer for all, as a timer each costs more."""
        self._expiry = asyncio.get_running_loop().call_later(self._config.beat_s, self._expire)
        bound_s = self._config.commit_timeout_s
        oldest = time.monotonic() - bound_s
        for waiting in self._queue:
            if waiting.since >= oldest:
                return
            if waiting.result.batch_id is None:  # the queue waits on: it would ask once more
                waiting.answer(unknown(waiting.result.id, bound_s))
            if self._slots.closed is None:
                log.error("commit_stalled", waiting=len(self._queue))
                self._slots.close(stalled(bound_s))

    async def run(self) -> None:
        """Commit until closed and nothing waits; then leave the last mark."""
        self._expire()
        while self._queue or self._changes or not self._closing:
            if self._queue:
                await self._commit_waiting()
            if self._changes:
                await self._change_next()
            elif not self._queue:
                await self._pause()
            if time.monotonic() - self._beat_at >= self._config.beat_s:
                await self._beat()
        self._ended = True
        self._changes.refuse_all(WriterStopped("the writer has stopped"))
        self._expiry.cancel()
        await self._leave_last_mark()

    def close(self) -> None:
        """Let ``run`` end once everything that waits is committed."""
        self._closing = True
        self._wake.set()

    async def _pause(self) -> None:
        """Until a result waits, ``close`` is called, or a beat has passed."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.beat_s):
                await self._wake.wait()

    async def _change_next(self) -> None:
        if self.damaged.done():  # nothing more is written to a damaged file
            self._changes.refuse_all(self.damaged.result())
            return
        try:
            await self._recover()
            await self._changes.carry_out_next(self._connection)
        except Suspect as exc:
            self._doubt = exc, Attempt((), self._slots.admitted_upto, 0)
            self._failed(exc, 0)
        except StoreError as exc:  # it waits on, but not for a disk that fails at a stop
            if is_damage(exc) and not self.damaged.done():
                self._failed(exc, 0)
            if self._closing:
                self._changes.refuse_all(exc)
            await self._pause_after_failure()

    async def _beat(self) -> None:
        """Refuse when the disk runs low, try again what failed, and mark the admission count."""
        self._beat_at = time.monotonic()
        if self.is_sound:  # else that is what is being dealt with
            try:
                self._connection.require_in_place()
            except StoreError as exc:
                self._failed(exc, 0)
        shortage = self._disk.shortage()
        if shortage is not None and self._slots.closed is None:
            self._slots.close(shortage)
        failing = shortage is None and isinstance(self._slots.closed, StoreError)
        stale = self._beat_at - self._marked_at >= self._config.beat_s
        unmarked = stale and (self._slots.in_flight > 0 or self._is_unmarked)
        if not self._queue and (failing or unmarked):  # a result carries a mark itself
            with suppress(StoreError):  # logged, and admission is closed until a write succeeds
                await self._mark()

    @property
    def _is_unmarked(self) -> bool:
        return self._marked_upto < self._slots.admitted_upto or len(self._losses) > 0

    async def _mark(self) -> None:
        await self._recover()
        await self._write(())

    async def _leave_last_mark(self) -> None:
        until = time.monotonic() + STOPPING_PATIENCE_S
        while self._is_unmarked:
            try:
                await self._mark()
            except StoreError as exc:
                if not may_pass(exc) or time.monotonic() > until:
                    return
                await self._pause_after_failure()

    async def _gather(self) -> None:
        """Let the loop bring the results that it has at hand: a COMMIT starts once it brings none.

        The loop and the writer take turns with one interpreter. A COMMIT that starts while requests
        wait for the loop gains no time: both stop for each other at every row, and it carries less.
        """
        until = time.monotonic() + GATHER_S
        quiet = 0
        while (
            quiet < QUIET_TURNS
            and len(self._queue) < self._config.batch_rows_max
            and time.monotonic() < until
        ):
            before = self._brought
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._brought == before else 0

    async def _commit_waiting(self) -> None:
        try:
            await self._recover()
            await self._gather()
            batch = first_of(self._queue, self._config)
            outcomes: Sequence[Receipt | EdgeStoreError] = await self._write(batch)
        except StoreError as exc:
            if may_pass(exc):
                self._give_up_overdue(exc)
                await self._pause_after_failure()
                return
            batch = first_of(self._queue, self._config)
            outcomes = [exc] * len(batch)
        self._settle_all(batch, outcomes)

    def _settle_all(
        self, batch: Sequence[Waiting], outcomes: Sequence[Receipt | EdgeStoreError]
    ) -> None:
        stored: Counter[Status] = Counter()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not self._queue or self._queue[0] is not waiting:
                continue  # given up while it was not known whether it got in
            self._queue.popleft()
            if isinstance(outcome, Receipt):
                stored[waiting.result.status] += 1
                if waiting.result.stream:
                    self._pace(waiting, outcome)
                else:
                    self._settle(waiting, outcome)
            else:
                self._lose(waiting, outcome)
        for status, count in stored.items():
            self._metrics.committed.labels(status.value).inc(count)

    def _lose(self, waiting: Waiting, error: EdgeStoreError) -> None:
        self._losses.add(waiting.result, error)
        self._settle(waiting, error)

    async def _pause_after_failure(self) -> None:
        await asyncio.sleep(min(self._retry_pause_s, self._config.beat_s))
        self._retry_pause_s = min(2 * self._retry_pause_s, RETRY_PAUSE_MAX_S)

    def _pace(self, waiting: Waiting, outcome: Receipt) -> None:
        """Settle one stream a turn of the loop: released all at once, the callers of a batch would
        come back at once too, and each would wait for its first token behind the intake of all.
        """
        self._pacing.append((waiting, outcome, time.monotonic() + PACING_S))
        if len(self._pacing) == 1:
            asyncio.get_running_loop().call_soon(self._settle_next)

    def _settle_next(self) -> None:
        try:
            self._settle(*self._pacing.popleft()[:2])
            while self._pacing and self._pacing[0][-1] < time.monotonic():
                self._settle(*self._pacing.popleft()[:2])
        finally:  # the others wait for their turn, whatever became of one
            if self._pacing:
                asyncio.get_running_loop().call_soon(self._settle_next)

    def _give_up_overdue(self, reason: StoreError) -> None:
        """After a failure: no further try for what has waited too long."""
        patience_s = self._config.commit_timeout_s
        if self._closing or isinstance(self._slots.closed, AdmissionClosed):
            patience_s = min(patience_s, STOPPING_PATIENCE_S)
        oldest = time.monotonic() - patience_s
        while self._queue and self._queue[0].since < oldest:
            self._lose(self._queue.popleft(), reason)

    async def _write(self, batch: tuple[Waiting, ...]) -> list[Receipt | EdgeStoreError]:
        """One transaction: ``batch`` and the losses that wait, or the mark alone."""
        if self.damaged.done():
            raise self.damaged.result().with_traceback(None)
        assert self._doubt is None
        losses = self._losses.first()
        attempt = Attempt(batch, self._slots.admitted_upto, len(losses))
        results = [waiting.result for waiting in batch]
        if self._disk.level >= DiskLevel.NO_BODIES:
            results = [without_content(result) for result in results]
        try:
            written = await self._connection.run(
                write_batch, self._boot, self._head, attempt.admitted_upto, results, losses
            )
            self._connection.require_in_place()
        except StoreError as exc:
            if isinstance(exc, Suspect):
                self._doubt = exc, attempt
            self._failed(exc, len(batch))
            raise
        self._committed(attempt, written)
        return written.outcomes

    async def _recover(self) -> None:
        """After an I/O error: what the file holds decides what became of the last attempt."""
        if self._doubt is None:
            return
        if self.damaged.done():
            raise self.damaged.result().with_traceback(None)
        suspect, attempt = self._doubt
        written = suspect.written
        try:
            uncertain = None if written is None else written.head
            is_in = await reopened(self._connection, self._head, uncertain)
            if suspect.is_unknown and not is_in and self._forget_wal is not None:
                await self._forget_wal()
        except StoreError as exc:
            self._failed(exc, len(self._queue))
            raise
        self._doubt = None
        if is_in:
            assert written is not None
            self._committed(attempt, written)
            self._settle_all(attempt.batch, written.outcomes)

    def _failed(self, exc: StoreError, rows: int) -> None:
        if is_damage(exc) and not self.damaged.done():
            self.damaged.set_result(exc)
        if isinstance(exc, DiskFull):
            self._disk.check()  # so that the level tells it too
        log.error("commit_failed", code=exc.code, rows=rows, error=str(exc))
        closed = self._slots.closed
        if closed is None or isinstance(closed, StoreError):  # a drain must not be opened again
            self._slots.close(refusal(exc))

    def _committed(self, attempt: Attempt, written: Written) -> None:
        self._head = written.head
        self.commits.advance(written.head.seq)
        self._marked_upto, self._marked_at = attempt.admitted_upto, time.monotonic()
        self._losses.carried(attempt.losses)
        if attempt.batch:
            self._changes.note_results(len(attempt.batch))
        self._retry_pause_s = RETRY_PAUSE_S
        self._metrics.commits.inc()
        self._metrics.commit_seconds.observe(written.seconds)
        if isinstance(self._slots.closed, StoreError) and self._disk.shortage() is None:
            log.info("admission_opened")
            self._slots.open()
