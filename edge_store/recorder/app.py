"""The line of a generating request, top to bottom: read it, take a slot, run the engine, commit the
outcome, release the end of the answer.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from edge_store.blobs import taken_out
from edge_store.clock import ClockSync
from edge_store.config import PrivacySection, RecorderSection, ReplicaSection
from edge_store.engine import Engine, Receive, Scope, Send
from edge_store.errors import (
    EdgeStoreError,
    EngineError,
    EngineRefused,
    InvalidRequest,
    ShutDown,
    StoreError,
    UpstreamError,
)
from edge_store.faults import UNFIT, kind_of, refusal_of
from edge_store.ids import ResultId, new_result_id
from edge_store.jsonrepair import JsonWorkers
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.recorder.answers import Answers
from edge_store.recorder.caller import RecordLevel, caller_of, origin_of, record_level
from edge_store.recorder.commits import Commits
from edge_store.recorder.entry import Entry, Key, key_in, key_of
from edge_store.recorder.envelope import ACCEPTED, say_accepted
from edge_store.recorder.exchange import INLINE_BYTES_MAX, Exchange
from edge_store.recorder.idempotency import (
    REPLAYED,
    Claim,
    Idempotency,
    KeyedRequest,
    Stored,
    StoredAnswer,
)
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.slots import Hold, Slot, Slots
from edge_store.recorder.structured import Structured
from edge_store.recorder.transcript import Asked, Dialect, Reading
from edge_store.recorder.waits import Waits
from edge_store.recorder.writer import Writer
from edge_store.result import Boot, Receipt, Result

__all__ = ["Recorder"]

log = get_logger(__name__)

T = TypeVar("T")
Take = Callable[[Key | None], Awaitable[ResultId]]  # into the queue

# From 2.4 on, ASGI applications need not read on to learn that the caller has left. Starlette then
# starts no tasks for each stream, whose first token leaves a turn of the loop earlier.
UNWATCHED = {"version": "3.0", "spec_version": "2.4"}
ERROR_BYTES_MAX = 4096  # of an engine's error body that becomes the row's error_message


class Recorder:
    """Wraps an engine: whatever is admitted here becomes a row, whatever happens."""

    def __init__(  # noqa: PLR0913  (its world: nothing here is optional)
        self,
        *,
        engine: Engine,
        engine_timeout_s: float,
        slots: Slots,
        writer: Writer,
        json_workers: JsonWorkers,
        idempotency: Idempotency,
        boot: Boot,
        config: RecorderSection,
        metrics: Metrics,
        privacy: PrivacySection | None = None,
        waits: Waits | None = None,
    ) -> None:
        self.slots = slots
        self._engine = engine
        self._engine_timeout_s = engine_timeout_s
        self._writer = writer
        self.enqueue = writer.enqueue  # for results of elsewhere: recorder/intake.py
        self._structured = Structured(json_workers)
        self.idempotency = idempotency
        self.redacting = Redacting(privacy or PrivacySection(), json_workers)
        self._boot = boot
        self._clock = ClockSync(was_synced=boot.clock_synced)
        self._config = config
        self._metrics = metrics
        self._answers = Answers(slots)
        self._taking: set[asyncio.Future[Any]] = set()  # into the queue
        self.waits = waits or Waits(None, ReplicaSection().wait_max_s, config.slots, metrics)

    async def change(self, function: Callable[..., T], *args: Any) -> T:
        """Write what is no result: see ``Writer.change``."""
        return await self._writer.change(function, *args)

    @property
    def commits(self) -> Commits:
        """The newest committed ``seq``, and a way to wait for the next."""
        return self._writer.commits

    async def will_keep(self, dialect: Dialect, scope: Scope, body: bytes) -> bool:
        """Whether the answer to this body would be stored; not with ``store: false``, nor where
        less than everything is recorded.

        Raises:
            InvalidRequest, Forbidden: it is not what the route takes, or what the key may.
        """
        if record_level(scope) is not RecordLevel.FULL:
            return False
        asked, _, _ = await asyncio.to_thread(_read, dialect, body, None)
        return asked.is_kept

    async def accept(
        self, scope: Scope, body: bytes, receive: Receive, send: Send, take: Take
    ) -> bool:
        """Answer that ``take`` has taken a request, which is answered later; false where its
        ``Idempotency-Key`` has an answer by now.

        Raises: as ``record``; and what ``take`` raises.
        """
        key = key_of(key_in(scope), body)
        claim: Claim | Stored = Claim()
        if key is not None:
            tenant = caller_of(scope).tenant
            named = KeyedRequest(tenant, key.key_hash, scope["path"], key.fingerprint)
            claim = await self.idempotency.claim(named, receive)
        if isinstance(claim, Stored):
            return False

        async def taken() -> ResultId | Exception:
            with claim:
                try:
                    return await take(key)
                except Exception as exc:  # noqa: BLE001  (who asked is told, if it is there)
                    return exc

        # the key is held until it is known whether it is committed, though the caller leaves
        taking = asyncio.ensure_future(taken())
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        outcome = await asyncio.shield(taking)
        if isinstance(outcome, Exception):
            raise outcome
        await say_accepted(outcome, send)
        return True

    async def record(
        self,
        dialect: Dialect,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
        hold: Hold | None = None,
    ) -> None:
        """Answer one request and record its outcome; or answer it with what is stored under its
        ``Idempotency-Key``. ``hold`` is what it has of the tenant's share already.

        Raises: nothing was admitted.
            InvalidRequest: the body is not what the route takes.
            IdempotencyConflict: its ``Idempotency-Key`` belongs to another request.
            ClientDisconnected: the caller left while it waited for one with the same key.
            Overloaded, GenerationTimeout, StoreError: not now; ``Overloaded`` also where a stored
                answer finds no room.
        """
        if hold is None:
            with self.slots.hold(caller_of(scope).tenant) as its_own:
                await self.record(dialect, scope, body, receive, send, its_own)
            return
        result_id = origin_of(scope).result_id or new_result_id()
        rid = result_id if self._engine.takes_rid else None
        if len(body) <= INLINE_BYTES_MAX:
            asked, sent, fingerprint = _read(dialect, body, rid)
        else:
            asked, sent, fingerprint = await asyncio.to_thread(_read, dialect, body, rid)
        bound, grow = self._config.response_bytes_max, self._answers.grow
        exchange = Exchange(result_id, dialect, asked, send, bytes_max=bound, grow=grow)
        entry = Entry(self._boot, scope, asked, (body, fingerprint), exchange)
        entry.wait_s = self.waits.asked(scope)
        claim = await self.idempotency.claim(entry, receive)
        if isinstance(claim, Stored):
            if claim.http_status == ACCEPTED:
                await say_accepted(claim.receipt.id, send, more=(REPLAYED,))
                return
            self.slots.grow(hold, len(claim.body or b""))
            await self._replay(claim, dialect, entry, receive, send, hold)
            return
        inner = _engine_scope(scope, sent, result_id)
        with claim:
            slot = await self.slots.reserve(hold)
            await self._run(entry, claim, slot, inner, sent, receive)

    async def _run(
        self, entry: Entry, claim: Claim, slot: Slot, scope: Scope, body: bytes, receive: Receive
    ) -> None:
        """Run the engine, commit the outcome, release the end of the answer."""
        exchange = entry.exchange
        commit: asyncio.Future[Receipt] | None = None  # once there is one, the slot is the writer's
        try:
            self._metrics.admitted.inc()
            self._answers.begin(exchange, slot.hold)
            entry.admit(slot, clock_synced=self._clock())
            await exchange.run(self._engine, scope, body, receive, self._engine_timeout_s)
            result, failure = await self._outcome(entry)
            kept = await self.redacting.written(entry.kept(result))
            await taken_out(kept.content, kept.content.request_body)
            commit = self._writer.enqueue(kept, slot, claim.follow(result))
            receipt = await self._committed(kept, commit)
        except BaseException as exc:
            failure = _stopped(exc)
            if commit is None:
                result = entry.result(_read_so_far(exchange), (), failure)
                kept = self.redacting.unseen(entry.kept(result))
                commit = self._writer.enqueue(kept, slot)
            if not isinstance(exc, Exception):
                raise
            log.exception("recorder_failed", id=exchange.result_id)
            receipt = await self._committed(kept, commit)
        finally:
            self._answers.end(exchange)
            if commit is None:
                self.slots.release(slot)
        receipt = await self._held(entry, receipt, failure, receive)
        await exchange.deliver(receipt, failure)

    async def _replay(
        self,
        stored: Stored,
        dialect: Dialect,
        entry: Entry,
        receive: Receive,
        send: Send,
        hold: Hold,
    ) -> None:
        """Answer as the request under the same ``Idempotency-Key`` was answered."""
        self._metrics.replayed.inc()
        engine, asked = StoredAnswer(stored, dialect.envelope), entry.asked
        exchange = Exchange(stored.receipt.id, dialect, asked, send, bytes_max=len(engine.body))
        self._answers.begin(exchange, hold)
        try:
            await exchange.run(engine, {}, b"", receive, self._engine_timeout_s)
        finally:
            self._answers.end(exchange)
        if entry.gives_json and exchange.cause is None:
            outputs = exchange.reader.reading().outputs
            await exchange.give_json(asked, await self._structured.assessed(asked, outputs))
        receipt = await self._held(entry, stored.receipt, exchange.cause, receive)
        await exchange.deliver(receipt, exchange.cause)
        place = {"id": stored.receipt.id, "seq": stored.receipt.seq}
        log.info("answer_replayed", **place, endpoint=stored.endpoint)

    async def _outcome(self, entry: Entry) -> tuple[Result, EdgeStoreError | None]:
        reading = entry.exchange.reader.reading()
        if reading.response_model is None:  # `/generate` does not name it
            reading = msgspec.structs.replace(reading, response_model=self._engine.model)
        failure = _failure(entry.exchange, reading)
        outputs = await self._structured.assessed(entry.asked, reading.outputs)
        if entry.gives_json and failure is None:
            await entry.exchange.give_json(entry.asked, outputs)
        return entry.result(reading, outputs, failure), failure

    async def _committed(
        self, result: Result, commit: asyncio.Future[Receipt]
    ) -> Receipt | EdgeStoreError:
        try:
            receipt = await commit
        except StoreError as exc:
            log.error("result_not_committed", id=result.id, code=exc.code, error=str(exc))
            return exc
        log.info(
            "result_committed",
            id=result.id,
            seq=receipt.seq,
            endpoint=result.endpoint,
            status=result.status.value,
            response_model=result.response_model,
            output_tokens=result.output_tokens,
            latency_ms=result.latency_ms,
            error_type=result.error_type,
        )
        return receipt

    async def _held(
        self,
        entry: Entry,
        receipt: Receipt | EdgeStoreError,
        failure: EdgeStoreError | None,
        receive: Receive,
    ) -> Receipt | EdgeStoreError:
        """Hold a whole answer whose caller wants it replicated, and say in its receipt whether it
        is.
        """
        if entry.wait_s is None or failure is not None or not isinstance(receipt, Receipt):
            return receipt
        return await self.waits.hold(receipt, entry.tenant, entry.wait_s, receive)

    async def drained(self) -> None:
        """Wait until nothing is in flight, nor held for the replica."""
        await self.slots.drained()
        await self.waits.drained()

    def abort_all(self, cause: EdgeStoreError) -> None:
        """Cut every request in flight; each whose answer is not whole is recorded as cancelled."""
        self.waits.end()
        self._structured.abort()
        self._answers.cut_all(cause)


def _failure(exchange: Exchange, reading: Reading) -> EdgeStoreError | None:
    """Why the answer is not whole; None when it is."""
    if exchange.cause is not None:
        return exchange.cause
    if exchange.http_status >= 400:
        text = exchange.response_body[:ERROR_BYTES_MAX].decode(errors="replace")
        return EngineRefused(text, exchange.http_status)
    if reading.error_message is not None:
        status = reading.error_status or max(exchange.http_status, EngineError.http_status)
        return EngineRefused(reading.error_message, status)
    if not reading.is_complete:
        return UpstreamError("the engine's stream ended before the end of the answer")
    return None


def _stopped(exc: BaseException) -> EdgeStoreError:
    """What the row says when the line was left before there was an outcome."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]  # what a TaskGroup wraps
    if isinstance(exc, asyncio.CancelledError):
        return ShutDown("the daemon stopped before this answer was complete")
    return EdgeStoreError(f"the recorder failed: {type(exc).__name__}: {exc}")


def _read_so_far(exchange: Exchange) -> Reading:
    """What came out, for the row of a defect; nothing, when the defect is in the reader itself."""
    try:
        return exchange.reader.reading()
    except Exception:
        log.exception("reader_failed", id=exchange.result_id)
        return Reading()


def _read(dialect: Dialect, body: bytes, rid: str | None) -> tuple[Asked, bytes, bytes]:
    """What is asked, the engine's copy of the body, and the fingerprint of the caller's.

    Raises:
        InvalidRequest: it is not what the route takes.
    """
    try:
        request = _decode(body)
        asked = dialect.ask(request)
        sent = _spliced(body, request, asked, rid if asked.takes_rid else None)
    except RecursionError as exc:
        raise refusal_of(exc) from exc
    return asked, sent, hashlib.sha256(body).digest()


def _decode(body: bytes) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(body)
    except UNFIT as exc:
        raise refusal_of(exc, body=body) from exc
    if not isinstance(request, dict):
        raise InvalidRequest(f"the body must be an object, not {kind_of(request)}")
    return request


def _spliced(body: bytes, request: dict[str, Any], asked: Asked, rid: str | None) -> bytes:
    """The engine's copy of the body: the caller's bytes with our keys put in front.

    Only where the caller has one of them is the body written anew.
    """
    added = dict(asked.splice)
    if rid is not None:
        added["rid"] = rid
    if not added:
        return body
    if added.keys() & request.keys():
        return msgspec.json.encode({**request, **added})
    head, rest = msgspec.json.encode(added), body.lstrip()[1:].lstrip()
    return head[:-1] + (b"}" if rest.startswith(b"}") else b"," + rest)


def _engine_scope(scope: Scope, body: bytes, result_id: ResultId) -> Scope:
    """The engine's copy of the scope: answered uncompressed, with the length of its own body, with
    the id that ``abort`` will name, and without a watch over the caller, who is ours to watch.
    """
    dropped = (b"content-length", b"accept-encoding", b"transfer-encoding")
    headers = [(k, v) for k, v in scope["headers"] if k.lower() not in dropped]
    headers.append((b"content-length", str(len(body)).encode()))
    return {**scope, "asgi": UNWATCHED, "headers": headers, "result_id": result_id}
