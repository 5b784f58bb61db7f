"""Responses in the background: a bounded number of them at once, a tenant after the other, of each
in the order in which they came.

What waits or runs is in the database; here are only their ids, and the events of those that run,
for who follows them. Cut by a stop or a crash, a response runs again at the next start, once. Runs
on the event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from edge_store.api.inside import Inside
from edge_store.api.live import Live
from edge_store.api.means import Locks, Means
from edge_store.api.turn import Turn, origin_of_turn
from edge_store.blobs import taken_out
from edge_store.config import Config
from edge_store.engine import ASGIMessage
from edge_store.errors import (
    Cancelled,
    EdgeStoreError,
    NotFound,
    Overloaded,
    RequestError,
    ShutDown,
    StoreError,
    WriterStopped,
)
from edge_store.ids import ResultId
from edge_store.loggers import get_logger
from edge_store.queue.held import Held
from edge_store.readers import Reader
from edge_store.recorder.app import Recorder
from edge_store.recorder.batch import Suspect
from edge_store.recorder.caller import EVERYBODY, ShutOut, nobody_is
from edge_store.recorder.commits import Commits
from edge_store.recorder.failure import is_damage
from edge_store.recorder.sharing import InTurn, Shares
from edge_store.responses.again import find_answer
from edge_store.responses.ask import Ask, left_of, read_ask
from edge_store.responses.chat import PATH as CHAT
from edge_store.responses.chat import chat_body
from edge_store.responses.objects import Failure, ResponseStatus
from edge_store.responses.shown import opening, replayed
from edge_store.responses.store import (
    Happened,
    Kept,
    Waiting,
    accept,
    find,
    find_outline,
    keep,
    mend,
    note,
    start,
    waiting,
)

__all__ = ["Background", "in_background"]

log = get_logger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 2  # a response that a crash cut runs again once: it may be what crashed the box
ADMISSION_PAUSE_S = 1.0
STORE_PAUSE_S = 5.0  # before a response that the disk had no room for is tried again
READS_MAX = 12  # that take too long: about three minutes, then a response fails
SEQ_MAX = 2**63 - 1


class Background:
    """Those that wait or run."""

    def __init__(self, means: Means, tasks: asyncio.TaskGroup) -> None:
        self.means = means
        self.locks = Locks()
        self._tasks = tasks
        self._lives: dict[ResultId, Live] = {}
        self._shares = Shares(
            means.waiting_max,
            "responses wait or run in the background",
            "wait for some of them to end, or raise responses.background_max",
        )
        self._queue: InTurn[Live] = InTurn()
        self._came = asyncio.Semaphore(0)
        self._is_stopping = False

    def live(self, result_id: str) -> Live | None:
        """The response, unless it has ended."""
        return self._lives.get(ResultId(result_id))

    async def load(self) -> None:
        """Go on with what an earlier start has left."""
        try:
            await self.means.change(mend)
        except StoreError as exc:  # a full disk must not keep the daemon from starting
            log.warning("conversations_not_mended", code=exc.code, error=str(exc))
        for found in await self.means.reader.run(waiting):
            self._shares.take(found.tenant, anyway=True)
            self.locks.take(found.conversation_id)
            self._enqueue(Live(found))
        if self._lives:
            log.info("responses_resumed", number=len(self._lives))

    def _enqueue(self, live: Live) -> None:
        self._lives[live.id] = live
        self._queue.add(live.tenant, live)
        self._came.release()

    def _leave(self, live: Live) -> None:
        """It is over, or goes on at the next start."""
        if self._lives.pop(live.id, None) is not None:
            self._shares.give(live.tenant)
            self.locks.give(live.conversation_id)
        live.end()

    async def accept(self, kept: Kept, ask: Ask, held: ExitStack) -> Live:
        """Take a response, which is committed when this returns. Until it has ended its place in
        ``locks`` is its own. ``held``, its Idempotency-Key, is left once it is known whether it is
        committed.

        Raises:
            RecorderFull, TenantOverShare: as many wait as may, or of this tenant (retryable).
        """
        live = Live(Waiting(kept.id, kept.caller.tenant, kept.conversation_id))
        self._shares.take(live.tenant)
        self.locks.take(live.conversation_id)
        # what is committed is run, though its caller is not there any more
        accepting = self._tasks.create_task(self._accept(live, kept, ask, held.pop_all()))
        failure = await asyncio.shield(accepting)
        if failure is not None:
            raise failure
        return live

    async def _accept(self, live: Live, kept: Kept, ask: Ask, held: ExitStack) -> Exception | None:
        """Why it is not known to be committed."""
        texts = self.means.held
        with held:
            try:
                left, is_held = await texts.hold(kept.id, kept.request, lambda b: left_of(b, ask))
                row = msgspec.structs.replace(kept, request=left, is_held=is_held)
                await taken_out(row, left)
                await self.means.change(accept, row)
            except Suspect as exc:  # it is looked for when its turn comes
                live.is_unsure = True
                self._enqueue(live)
                return exc
            except Exception as exc:  # noqa: BLE001  (who asked is told)
                self._shares.give(live.tenant)
                self.locks.give(live.conversation_id)
                return exc
            self._enqueue(live)
            return None

    async def cancel(self, live: Live) -> None:
        """End a response that waits or runs, and wait until it has.

        Raises:
            StoreError: it has not yet, but will.
        """
        live.cancel()
        if not live.is_started:
            live.is_started = True  # whoever takes it out of the queue leaves it
            try:
                await self.means.change(note, live.id, Happened(event="cancelled"))
                found = await self.means.reader.run(find, live.id, EVERYBODY)
            except BaseException:  # the disk: it is ended when its turn comes
                live.is_started = False
                self._enqueue(live)
                raise
            if found is not None:
                await self.means.held.let_go(live.id, is_held=found.kept.is_held)
                live.add(replayed(found)[live.count :])
            self._leave(live)
        await live.over()

    async def let_go(self, commits: Commits) -> None:
        """At the order to stop, leave what has not begun: it goes on at the next start."""
        await commits.past(SEQ_MAX)
        self._is_stopping = True
        for live in self._lives.values():
            if not live.is_asked:
                live.end()

    async def work(self) -> None:
        """Run one after the other, until cancelled."""
        while True:
            await self._came.acquire()
            live = self._queue.pop()
            if live.is_started:
                continue
            live.is_started = True
            try:
                await self._run(live)
            except Exception as exc:  # noqa: BLE001  (whatever it is, the response must end)
                await self._give_up(live, exc)
            finally:
                self._leave(live)

    async def _give_up(self, live: Live, cause: Exception) -> None:
        """End a response that could not be run to an end of its own; but not at a stop: it goes on
        at the next start.
        """
        try:
            if isinstance(cause, StoreError) and self._is_stop(cause):
                raise cause
            if not isinstance(cause, EdgeStoreError):
                log.error("response_failed", id=live.id, exc_info=cause)
                cause = EdgeStoreError(f"the daemon failed: {type(cause).__name__}")
            happened = Happened(event="failed", code=cause.code, message=str(cause))
            await self._patiently(live, partial(self.means.change, note, live.id, happened))
        except EdgeStoreError as exc:
            log.error("response_not_ended", id=live.id, code=exc.code, error=str(exc))

    def _is_stop(self, cause: StoreError) -> bool:
        return self._is_stopping or isinstance(cause, WriterStopped)

    async def _run(self, live: Live) -> None:
        means = self.means
        # after an I/O error only the writer, which opens the file again, sees what is in it
        run = means.change if live.is_unsure else means.reader.run
        found = await self._patiently(live, partial(run, find_outline, live.id, EVERYBODY))
        if found is None:  # deleted meanwhile, or never committed
            return
        while means.refusal() is not None and not live.is_cancelled:
            await live.pause(ADMISSION_PAUSE_S)  # the engine loads, or the disk is full
        number = 1 + sum(happened.event == "started" for happened in found.happened)
        await self._patiently(live, partial(means.change, start, live.id, number))
        gone: NotFound | None = None
        try:
            ask = await self._patiently(live, partial(self._asked, found.kept))
        except NotFound as exc:
            gone, ask = exc, read_ask(found.kept.request)
        turn = Turn(found.kept, ask)
        begun = opening(turn.number, found.kept, ask)
        live.add(begun[live.count :])
        try:
            if gone is not None:
                raise gone
            if number > ATTEMPTS_MAX:
                raise ShutDown(f"cut {number - 1} times by a stop or a crash of the daemon")
            context = await self._patiently(live, partial(means.context, found.kept))
            body = chat_body(ask, context)
            await self._ask(turn, live, body)
        except Cancelled:
            await self._end(live, turn, Happened(event="cancelled"))
        except (RequestError, ShutDown) as exc:
            happened = Happened(event="failed", code=exc.code, message=str(exc))
            await self._end(live, turn, happened)
        else:
            await self._conclude(live, turn)

    async def _asked(self, kept: Kept) -> Ask:
        """What is asked, as it was sent."""
        body = await self.means.held.sent(kept.id, kept.request, is_held=kept.is_held)
        return read_ask(body)

    async def _patiently(self, live: Live, attempt: Callable[[], Awaitable[T]]) -> T:
        """What ``attempt`` gives, however often the disk fails before.

        Raises:
            StoreError: the daemon stops, and the next start goes on; or the file is damaged.
            Overloaded: it took too long each time.
        """
        reads = 0
        while True:
            try:
                return await attempt()
            except StoreError as exc:
                if self._is_stop(exc) or is_damage(exc):
                    raise
                log.error("response_delayed", id=live.id, code=exc.code, error=str(exc))
            except Overloaded as exc:
                reads += 1
                if self._is_stopping or reads >= READS_MAX:
                    raise
                log.error("response_delayed", id=live.id, code=exc.code, error=str(exc))
            live.is_asked = False  # a stop need not wait for it
            await asyncio.sleep(STORE_PAUSE_S)

    async def _ask(self, turn: Turn, live: Live, body: bytes) -> None:
        """Have the chat answered, as soon as there is room for it."""

        async def take(message: ASGIMessage) -> None:
            live.add(turn.take(message))

        kept = turn.kept
        while True:
            if live.is_cancelled:
                raise Cancelled("the response was cancelled")
            live.is_asked = True
            try:
                await self.means.inside.stream(
                    CHAT, body, take, kept.caller, origin_of_turn(kept), live.receive
                )
            except Overloaded as exc:
                await live.pause(exc.retry_after_s)
            except StoreError:
                await live.pause(STORE_PAUSE_S)
            else:
                return

    async def _conclude(self, live: Live, turn: Turn) -> None:
        failure = turn.failure
        recorded = await self._patiently(live, partial(self.means.change, keep, turn.kept))
        if recorded is None:
            if failure is not None and failure.code == ShutDown.code:
                return  # it goes on at the next start
            code = failure.code if failure else StoreError.code
            message = failure.message if failure else "its result was not stored"
            await self._end(live, turn, Happened(event="failed", code=code, message=message))
            return
        await self.means.held.let_go(live.id, is_held=turn.kept.is_held)
        live.add(turn.close(recorded)[1])

    async def _end(self, live: Live, turn: Turn, happened: Happened) -> None:
        """End a response that has no result."""
        message = happened.message
        if message is not None:
            message = await self.means.redacting.text(message)
        noted = msgspec.structs.replace(happened, message=message)
        await self._patiently(live, partial(self.means.change, note, live.id, noted))
        await self.means.held.let_go(live.id, is_held=turn.kept.is_held)
        if happened.event == "cancelled":
            live.add(turn.without_result(ResponseStatus.CANCELLED, None))
        else:
            failure = Failure(code=happened.code or "", message=happened.message or "")
            live.add(turn.without_result(ResponseStatus.FAILED, failure))


@asynccontextmanager
async def in_background(
    recorder: Recorder,
    reader: Reader,
    config: Config,
    shut_out: ShutOut = nobody_is,
) -> AsyncIterator[Background]:
    """Run responses until left. To be left after the drain: what then still waits stays waiting."""
    means = Means(
        inside=Inside(recorder, shut_out),
        reader=reader,
        change=recorder.change,
        body_bytes_max=config.server.body_bytes_max,
        waiting_max=config.responses.background_max,
        redacting=recorder.redacting,
        held=Held(Path(config.store.path), recorder.redacting),
        refusal=lambda: recorder.slots.closed,
        claim=partial(recorder.idempotency.claim, find=find_answer),
        waits=recorder.waits,
    )
    async with asyncio.TaskGroup() as tasks:
        background = Background(means, tasks)
        await background.load()
        number = config.responses.background_tasks
        workers = [tasks.create_task(background.work()) for _ in range(number)]
        workers.append(tasks.create_task(background.let_go(recorder.commits)))
        try:
            yield background
        finally:
            for worker in workers:
                worker.cancel()
