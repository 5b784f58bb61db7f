"""Group commit: results that wait while one COMMIT runs share the next one.

One task, one connection. A batch is one plain function on the writer's thread: BEGIN IMMEDIATE, the
inserts, the row of ``commits``, COMMIT. A result is acknowledged only by the future that its COMMIT
resolves. A datum that cannot be stored costs its own row a retry, not the batch. A lock or an I/O
error costs the batch another try, for as long as its callers wait. The queue needs no bound of its
own: a result holds its slot until it is settled, whatever its caller does. The task ends by
``close``, never by cancellation.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import msgspec
import structlog

from edge_store.chain import GENESIS, commit_digest
from edge_store.clock import now_ms
from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, EdgeStoreError, StoreError, WriterStopped
from edge_store.observability.metrics import Metrics
from edge_store.recorder.boot import Boot
from edge_store.recorder.disk import Disk
from edge_store.recorder.slots import Slot, Slots
from edge_store.result import Receipt, Result, Status
from edge_store.rows import Row, insert_rows, salvaged, to_row
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, driver, translated

__all__ = ["ChainHead", "Writer", "read_head", "write_batch"]

log = structlog.get_logger(__name__)

# What binding or a CHECK says of one bad value; everything else is the file's or the disk's fault.
DATA_ERRORS = (
    UnicodeEncodeError,
    OverflowError,
    driver.IntegrityError,
    driver.DataError,
    driver.InterfaceError,
    driver.ProgrammingError,
)

PACING_S = 0.05  # longest time over which committed streams are released
GATHER_S = 0.005  # longest wait for results that the loop is busy bringing
QUIET_TURNS = 4  # of the loop, without a new result: it has none at hand
RETRY_PAUSE_S = 0.25  # or beat_s, if that is shorter
STOPPING_PATIENCE_S = 3.0  # what waits longer at a stop is given up at the next failure


class ChainHead(msgspec.Struct, frozen=True):
    """Where the next commit continues."""

    seq: int
    digest: bytes


class Written(msgspec.Struct, frozen=True):
    """What one COMMIT made: each result's receipt or the error of its row, and the new head."""

    outcomes: list[Receipt | EdgeStoreError]
    head: ChainHead
    seconds: float


class Waiting(NamedTuple):
    """A result in the queue. It leaves when it is settled: committed, or given up."""

    result: Result
    slot: Slot | None
    future: asyncio.Future[Receipt]
    since: float  # monotonic

    def answer(self, outcome: Receipt | EdgeStoreError) -> None:
        """Tell the caller, unless it knows already or has left."""
        if self.future.done():
            return
        if isinstance(outcome, Receipt):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)
            self.future.exception()  # a caller that has left is not an unseen error


def read_head(connection: Connection) -> ChainHead:
    """The head that the file holds: taken at start, then kept in memory."""
    (seq,) = connection.execute(sql("select_last_seq")).fetchone()
    row = connection.execute(sql("select_last_digest")).fetchone()
    return ChainHead(seq, row[0] if row else GENESIS)


def write_batch(
    connection: Connection,
    boot: Boot,
    head: ChainHead,
    admitted_upto: int,
    results: Sequence[Result],
) -> Written:
    """Commit ``results`` and their mark in one transaction; with none, the mark alone.

    Raises:
        StoreError: nothing was committed.
    """
    started = time.perf_counter()
    at = now_ms()
    with translated(f"{len(results)} results could not be committed"):
        try:
            connection.execute(sql("begin"))
            outcomes, digests = _insert_all(connection, boot, head.seq, at, results)
            first, last = (head.seq + 1, head.seq + len(digests)) if digests else (None, None)
            columns = (boot.boot_id, at, admitted_upto, first, last)
            digest = commit_digest(head.digest, columns, digests)
            connection.execute(sql("insert_commit"), (*columns, digest, head.digest))
            connection.execute(sql("commit"))
        except BaseException:
            with suppress(driver.Error):  # the failure may have ended the transaction by itself
                connection.execute(sql("rollback"))
            raise
    return Written(outcomes, ChainHead(last or head.seq, digest), time.perf_counter() - started)


def _insert_all(
    connection: Connection, boot: Boot, seq: int, at: int, results: Sequence[Result]
) -> tuple[list[Receipt | EdgeStoreError], list[bytes]]:
    """All rows at once; after a data error, one by one."""
    try:
        rows = [to_row(seq + n, boot.timeline, result) for n, result in enumerate(results, 1)]
        insert_rows(connection, rows)
    except DATA_ERRORS:
        # From the start again, not to a savepoint: having one open copies every page it touches.
        connection.execute(sql("rollback"))
        connection.execute(sql("begin"))
    else:
        receipts: list[Receipt | EdgeStoreError] = [
            Receipt(id=result.id, seq=seq + n, committed_at=at)
            for n, result in enumerate(results, 1)
        ]
        return receipts, [row.digest for row in rows]

    outcomes: list[Receipt | EdgeStoreError] = []
    digests: list[bytes] = []
    for result in results:
        here = seq + len(digests) + 1
        try:
            row = _insert_one(connection, here, boot.timeline, result)
        except DATA_ERRORS as exc:
            outcomes.append(StoreError(f"result {result.id} cannot be stored: {exc}"))
        else:
            digests.append(row.digest)
            outcomes.append(Receipt(id=result.id, seq=here, committed_at=at))
    return outcomes, digests


def _insert_one(connection: Connection, seq: int, timeline: str, result: Result) -> Row:
    """One result as it is; if that cannot be, with the offending field escaped or dropped."""
    connection.execute(sql("savepoint"))
    try:
        row = to_row(seq, timeline, result)
        insert_rows(connection, [row])
    except DATA_ERRORS as exc:
        connection.execute(sql("rollback_to_savepoint"))
        row = to_row(seq, timeline, salvaged(result, connection, exc))
        try:
            insert_rows(connection, [row])
        except DATA_ERRORS:  # nothing of it may stay: the next result takes this seq
            connection.execute(sql("rollback_to_savepoint"))
            raise
    connection.execute(sql("release_savepoint"))
    return row


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
    ) -> None:
        self._connection = connection
        self._boot = boot
        self._head = head
        self._slots = slots
        self._disk = disk
        self._config = config
        self._metrics = metrics
        self._queue: deque[Waiting] = deque()
        self._pacing: deque[tuple[Waiting, Receipt | EdgeStoreError, float]] = deque()
        self._expiry: asyncio.TimerHandle
        self._wake = asyncio.Event()
        self._closing = False
        self._ended = False
        self._marked_upto = 0
        self._marked_at = 0.0
        self._beat_at = 0.0
        metrics.watch("queue_depth", "Results waiting for a COMMIT", lambda: len(self._queue))
        metrics.watch("queue_age_seconds", "Age of the oldest of them", self._oldest_s)

    @property
    def head(self) -> ChainHead:
        """The newest committed seq and digest."""
        return self._head

    @property
    def _brought(self) -> int:
        """Requests admitted and results queued: it changes with each step of new work."""
        return self._slots.admitted_upto + len(self._queue)

    def _oldest_s(self) -> float:
        return time.monotonic() - self._queue[0].since if self._queue else 0.0

    def enqueue(self, result: Result, slot: Slot | None = None) -> asyncio.Future[Receipt]:
        """Take ``result`` for the next COMMIT, at once: what happens to the caller cannot lose it.

        ``slot`` is the writer's from here on; a caller that gives none bounds its results itself.
        The future raises ``StoreError`` when the result was not committed, or when that is not
        known within ``commit_timeout_s``.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        waiting = Waiting(result, slot, future, time.monotonic())
        if self._ended:
            self._settle(waiting, WriterStopped("the writer has stopped"))
        else:
            self._queue.append(waiting)
            self._wake.set()
        return future

    async def submit(self, result: Result, slot: Slot | None = None) -> Receipt:
        """Wait for ``enqueue``'s future. Cancelling does not take the result back."""
        return await self.enqueue(result, slot)

    def _settle(self, waiting: Waiting, outcome: Receipt | EdgeStoreError) -> None:
        waiting.answer(outcome)
        if waiting.slot is not None:
            self._slots.release(waiting.slot)

    def _expire(self) -> None:
        """Answer those who have waited too long; one timer for all, as a timer each costs more."""
        self._expiry = asyncio.get_running_loop().call_later(self._config.beat_s, self._expire)
        bound_s = self._config.commit_timeout_s
        oldest = time.monotonic() - bound_s
        for waiting in self._queue:
            if waiting.since >= oldest:
                return
            error = StoreError(
                f"result {waiting.result.id} may still be stored: its COMMIT is not known to have "
                f"succeeded or failed within {bound_s:g} s",
                hint="look it up by its id; for a stalled disk see `edge-store doctor`",
            )
            waiting.answer(error)
            if self._slots.closed is None:
                log.error("commit_stalled", waiting=len(self._queue))
                self._slots.close(
                    StoreError(
                        f"the database's disk is stalled: a COMMIT takes over {bound_s:g} s",
                        hint="see `edge-store doctor`; the box goes on by itself",
                    )
                )

    async def run(self) -> None:
        """Commit until closed and nothing waits; then leave the last mark."""
        self._expire()
        while self._queue or not self._closing:
            if self._queue:
                await self._commit_waiting()
            else:
                await self._pause()
            if time.monotonic() - self._beat_at >= self._config.beat_s:
                await self._beat()
        self._ended = True
        self._expiry.cancel()
        if self._marked_upto < self._slots.admitted_upto:
            await self._mark()

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

    async def _beat(self) -> None:
        """Refuse when the disk runs low, try again what failed, and mark the admission count."""
        self._beat_at = time.monotonic()
        shortage = self._disk.shortage()
        if shortage is not None:
            if self._slots.closed is None:
                log.error("disk_low", error=str(shortage))
                self._slots.close(shortage)
            return
        failing = isinstance(self._slots.closed, StoreError)
        stale = self._beat_at - self._marked_at >= self._config.beat_s
        unmarked = self._slots.in_flight > 0 or self._marked_upto < self._slots.admitted_upto
        if not self._queue and (failing or (stale and unmarked)):  # a result carries a mark itself
            await self._mark()

    async def _mark(self) -> None:
        with suppress(StoreError):  # logged, and admission is closed until a write succeeds
            await self._write([])

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
        await self._gather()
        batch = tuple(islice(self._queue, self._config.batch_rows_max))
        outcomes: Sequence[Receipt | EdgeStoreError]
        try:
            outcomes = await self._write([waiting.result for waiting in batch])
        except StoreError as exc:
            if type(exc) is StoreError:  # busy or I/O: it may pass; a full or damaged file will not
                self._give_up_overdue(exc)
                await asyncio.sleep(min(RETRY_PAUSE_S, self._config.beat_s))
                return
            outcomes = [exc] * len(batch)
        stored: Counter[Status] = Counter()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            assert self._queue.popleft() is waiting
            if isinstance(outcome, Receipt):
                stored[waiting.result.status] += 1
            else:
                self._metrics.failed.labels(outcome.code).inc()
            if waiting.result.stream:
                self._pace(waiting, outcome)
            else:
                self._settle(waiting, outcome)
        for status, count in stored.items():
            self._metrics.committed.labels(status.value).inc(count)

    def _pace(self, waiting: Waiting, outcome: Receipt | EdgeStoreError) -> None:
        """Settle one stream a turn of the loop: released all at once, the callers of a batch would
        come back at once too, and each would wait for its first token behind the intake of all.
        """
        self._pacing.append((waiting, outcome, time.monotonic() + PACING_S))
        if len(self._pacing) == 1:
            asyncio.get_running_loop().call_soon(self._settle_next)

    def _settle_next(self) -> None:
        waiting, outcome, _until = self._pacing.popleft()
        self._settle(waiting, outcome)
        while self._pacing and self._pacing[0][-1] < time.monotonic():
            waiting, outcome, _until = self._pacing.popleft()
            self._settle(waiting, outcome)
        if self._pacing:
            asyncio.get_running_loop().call_soon(self._settle_next)

    def _give_up_overdue(self, reason: StoreError) -> None:
        """After a failure: no further try for what has waited too long."""
        patience_s = self._config.commit_timeout_s
        if self._closing or isinstance(self._slots.closed, AdmissionClosed):
            patience_s = min(patience_s, STOPPING_PATIENCE_S)
        oldest = time.monotonic() - patience_s
        while self._queue and self._queue[0].since < oldest:
            self._metrics.failed.labels(reason.code).inc()
            self._settle(self._queue.popleft(), reason)

    async def _write(self, results: Sequence[Result]) -> list[Receipt | EdgeStoreError]:
        upto = self._slots.admitted_upto
        try:
            written = await self._connection.run(write_batch, self._boot, self._head, upto, results)
        except StoreError as exc:
            log.error("commit_failed", code=exc.code, rows=len(results), error=str(exc))
            if self._slots.closed is None:  # a drain stays a drain: it must not be opened again
                self._slots.close(exc)
            raise
        self._head = written.head
        self._marked_upto, self._marked_at = upto, time.monotonic()
        self._metrics.commits.inc()
        self._metrics.commit_seconds.observe(written.seconds)
        if isinstance(self._slots.closed, StoreError) and self._disk.shortage() is None:
            log.info("admission_opened")
            self._slots.open()
        return written.outcomes
