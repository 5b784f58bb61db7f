"""One admitted request on its way through the engine, and its answer on the way back.

Pieces of a stream pass at once; its end, or a whole plain answer, stays here until ``deliver`` is
told that the row is committed. A caller that leaves, a deadline, a stop of the daemon all ``cut``
the exchange: the engine is told to abort, and what had come so far is recorded.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from edge_store.clock import now_ms
from edge_store.engine import ASGIMessage, Receive, Scope, Send
from edge_store.errors import (
    ClientDisconnected,
    EdgeStoreError,
    EngineCrashed,
    EngineError,
    EngineRefused,
    GenerationTimeout,
    ResponseTooLarge,
    UpstreamError,
)
from edge_store.ids import ResultId
from edge_store.loggers import get_logger
from edge_store.recorder.envelope import EVENT_STREAM, JSON_LINES, error_headers
from edge_store.recorder.structured import replaced, worst_state
from edge_store.recorder.transcript import Asked, Dialect, Garbled
from edge_store.recorder.transcript.ndjson import LineSplitter
from edge_store.recorder.transcript.sse import EventSplitter
from edge_store.result import JsonState, Output, Receipt

__all__ = ["INLINE_BYTES_MAX", "Exchange"]

log = get_logger(__name__)

Headers = list[tuple[bytes, bytes]]
LAST_WORDS_S = 1.0  # from a cut until the engine has sent what it has of a plain answer
INLINE_BYTES_MAX = 256 * 1024  # of a body that is read on the loop: some 10 ms
STEP_BYTES = 16 * 1024  # by which an answer is counted, so that not each token is
PIECE_BYTES = 256 * 1024  # the most that waits in the server for a caller to read it
TAKING_S = 60.0  # longest time for a caller to take a piece
FRAMING = (b"content-length", b"transfer-encoding")  # of the engine's answer; ours is longer


class Answering(Protocol):
    """What an exchange needs of an engine."""

    gives_partial: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send, /) -> None:
        """Answer one HTTP request."""

    def abort(self, result_id: ResultId) -> None:
        """Stop generating for this id. Never raises."""


class Exchange:
    """Stands between the engine and the caller for one request."""

    def __init__(
        self,
        result_id: ResultId,
        dialect: Dialect,
        asked: Asked,
        send: Send,
        *,
        bytes_max: int,
        grow: Callable[["Exchange", int], None] | None = None,
    ) -> None:
        """``grow`` is told of more bytes of the answer; where there is no room for them it drops
        another, or this one and raises.
        """
        self.result_id = result_id
        self.reader = dialect.reader(asked)
        self.cause: EdgeStoreError | None = None
        self.http_status = 200
        self.first_token_at: int | None = None
        self.first_token_monotonic: float | None = None
        self.ended_monotonic: float | None = None
        self._send = send
        self._envelope = dialect.envelope
        self._drop_usage = asked.drop_usage
        self._bytes_max = bytes_max
        self._bytes = 0
        self._grow = grow
        self.counted_bytes = 0  # at least what has come
        self._chunks: list[bytes] = []
        self._headers: Headers = []
        self._splitter: EventSplitter | LineSplitter | None = None  # of a stream
        self._held: list[bytes] = []
        self._is_ending = False
        self._is_started = False  # the caller has the head of its answer
        self._is_deaf = False  # cut: nothing more is read or passed on
        self._cut = asyncio.Event()
        self._timeout: asyncio.Timeout | None = None
        self._engine: Answering | None = None
        self._given: tuple[JsonState, bytes] | None = None  # the body with JSON in it

    @property
    def response_body(self) -> bytes:
        """What the engine has sent."""
        if len(self._chunks) > 1:  # one copy of it is enough
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""

    @property
    def is_running(self) -> bool:
        """Whether the engine is at work on it, and nothing has cut it."""
        return self._timeout is not None and self.cause is None

    async def run(
        self, engine: Answering, scope: Scope, body: bytes, receive: Receive, timeout_s: float
    ) -> None:
        """Pass the request to the engine until it has answered or the exchange is cut.

        Afterwards ``cause`` says why the answer is not whole, if it is not. Raises only
        ``CancelledError``.
        """
        self._engine = engine
        waiting = [body]

        async def receive_here() -> ASGIMessage:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            await self._cut.wait()
            return {"type": "http.disconnect"}

        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch(receive))
            deadline = asyncio.get_running_loop().call_later(timeout_s, self._overdue, timeout_s)
            try:
                async with asyncio.timeout(None) as self._timeout:
                    await engine(scope, receive_here, self._take)
            except TimeoutError:
                pass  # cut, and the engine had no more to say
            except asyncio.CancelledError:  # the server has given the request up
                engine.abort(self.result_id)
                raise
            except EdgeStoreError as exc:
                self.cause = self.cause or exc
            except Exception as exc:  # an engine is a foreign program: what it raises is its fault
                if self.cause is None:
                    log.exception("engine_raised", id=self.result_id)
                    self.cause = EngineError(f"the engine failed: {type(exc).__name__}: {exc}")
            finally:
                self._timeout = None
                deadline.cancel()
                watcher.cancel()
        self.ended_monotonic = time.monotonic()
        if self._bytes <= INLINE_BYTES_MAX:
            self._finish_reading()
        else:
            await asyncio.to_thread(self._finish_reading)

    async def _watch(self, receive: Receive) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        left = ClientDisconnected("the caller left before the end of the answer")
        self.cut(message.get("cause", left))  # a caller within the daemon may have a cause

    def _overdue(self, timeout_s: float) -> None:
        self.cut(GenerationTimeout(f"no whole answer within engine.timeout_s = {timeout_s} s"))

    def cut(self, cause: EdgeStoreError) -> None:
        """End the generation early. The first cause counts; once the answer is whole, none does.

        An engine at work on a plain answer has a moment to send what it has of it.
        """
        if self.cause is not None or self._timeout is None:
            return
        self.cause = cause
        self._cut.set()
        assert self._engine is not None
        self._engine.abort(self.result_id)
        self._is_deaf = self._splitter is not None
        is_alive = self._engine.gives_partial and not isinstance(cause, EngineCrashed)
        has_more = is_alive and not self._is_deaf
        patience_s = LAST_WORDS_S if has_more else 0.0
        with suppress(RuntimeError):  # it is over, in this very turn of the loop
            self._timeout.reschedule(asyncio.get_running_loop().time() + patience_s)

    def drop(self, cause: EdgeStoreError) -> None:
        """Cut it and forget the bytes that have come; the texts that were read from them stay."""
        self.cut(cause)
        self._is_deaf = True
        self._chunks.clear()
        self._held.clear()
        self.counted_bytes = 0

    async def _take(self, message: ASGIMessage) -> None:
        """The engine's ``send``."""
        if self._is_deaf:
            return
        if message["type"] == "http.response.start":
            self.http_status = message["status"]
            self._headers = [h for h in message.get("headers", ()) if h[0].lower() not in FRAMING]
            kind = next((v for k, v in self._headers if k.lower() == b"content-type"), b"")
            splitter = _splitter(kind) if self.http_status == 200 else None
            if self.cause is not None:
                self._is_deaf = splitter is not None  # a stream that has not begun needs no end
            elif splitter is not None:
                self._splitter = splitter
                await self._start(self._headers, durability=b"on-end")
            return
        if message["type"] != "http.response.body":
            return
        chunk = message.get("body", b"")
        self._bytes += len(chunk)
        if self._bytes > self.counted_bytes:
            self._count_more()
        self._chunks.append(chunk)
        if self._splitter is not None:
            await self._pass_on(self._splitter, chunk)

    def _count_more(self) -> None:
        if self._bytes > self._bytes_max:
            error = ResponseTooLarge(
                f"the answer is over recorder.response_bytes_max = {self._bytes_max} bytes"
            )
            self.cut(error)
            raise error
        missing = self._bytes - self.counted_bytes
        step = max(missing, min(STEP_BYTES, self._bytes_max - self.counted_bytes))
        if self._grow is not None:
            self._grow(self, step)
        self.counted_bytes += step

    async def _pass_on(self, splitter: EventSplitter | LineSplitter, chunk: bytes) -> None:
        """Read the events that ``chunk`` completes; send those that may leave."""
        passed: list[bytes] = []
        garbled: Garbled | None = None
        try:
            for event in splitter.feed(chunk):
                passed += self._passing(event, splitter.data_of(event))
        except Garbled as exc:
            garbled = exc
        if passed:
            body = b"".join(passed)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if garbled is not None:
            error = UpstreamError(f"the engine sent {garbled}")
            self.cut(error)
            raise error from garbled

    def _passing(self, event: bytes, data: bytes | None) -> list[bytes]:
        """Read one event; the events that may leave now. Those of the end are kept."""
        if data is not None:
            self._is_ending = self.reader.event(data)
        if self.first_token_at is None and self.reader.has_begun:
            self.first_token_at = now_ms()
            self.first_token_monotonic = time.monotonic()
        if self._drop_usage and data is not None and self.reader.is_usage:
            return []
        self._held.append(event)
        if self._is_ending:
            return []
        passing, self._held = self._held, []
        return passing

    def _finish_reading(self) -> None:
        body = self.response_body  # put together here, which is on another thread if it is large
        if self.cause is not None:
            if self._splitter is None and body and self.http_status == 200:
                with suppress(Garbled):  # it may be cut anywhere
                    self.reader.body(body)
            return
        if self._splitter is not None:
            self._finish_stream(self._splitter)
        elif not self._headers and not body:
            self.cause = UpstreamError("the engine ended without an answer")
        elif self.http_status == 200:
            try:
                self.reader.body(body)
            except Garbled as exc:
                self.cause = UpstreamError(f"the engine sent {exc}")

    def _finish_stream(self, splitter: EventSplitter | LineSplitter) -> None:
        """Read what the stream's end made whole; nothing leaves before the commit."""
        try:
            for event in splitter.end():
                self._held = self._passing(event, splitter.data_of(event)) or self._held
        except Garbled as exc:
            self.cause = UpstreamError(f"the engine sent {exc}")

    async def give_json(self, asked: Asked, outputs: Sequence[Output]) -> None:
        """Deliver a plain answer with the JSON of ``outputs`` in place of their texts."""
        if asked.shape is not None and self._splitter is None and self.http_status == 200:
            state = worst_state(output.json_state for output in outputs)
            given = (asked.shape, self.response_body, outputs)
            try:
                if len(given[1]) <= INLINE_BYTES_MAX:
                    body = replaced(*given)
                else:
                    body = await asyncio.to_thread(replaced, *given)
            except (msgspec.DecodeError, LookupError, TypeError, ValueError):
                state, body = JsonState.INVALID, self.response_body  # read, but of another shape
            self._given = (state, body)

    async def deliver(
        self, receipt: Receipt | EdgeStoreError, failure: EdgeStoreError | None
    ) -> None:
        """Send what was held. ``receipt``: the commit, or why there is none; ``failure``: why the
        answer is not whole, if it is not. A caller that has left gets nothing.
        """
        if isinstance(failure, ClientDisconnected):
            return
        if isinstance(failure, EngineRefused):
            failure = None  # the engine's own error is its answer
        error = receipt if isinstance(receipt, EdgeStoreError) else failure
        if self._splitter is not None and self._is_started:
            await self._deliver_stream(self._splitter, receipt, error)
        elif error is not None:
            committed = receipt if isinstance(receipt, Receipt) else None
            body = self._envelope.body(error)
            await self._answer(error.http_status, error_headers(error), body, committed)
        else:
            assert isinstance(receipt, Receipt)
            headers, body = self._headers, self.response_body
            if self._given is not None:
                state, body = self._given
                headers = [*headers, (b"x-edge-store-json", state.value.encode())]
            await self._answer(self.http_status, headers, body, receipt)

    async def _deliver_stream(
        self,
        splitter: EventSplitter | LineSplitter,
        receipt: Receipt | EdgeStoreError,
        error: EdgeStoreError | None,
    ) -> None:
        end = b""
        if isinstance(receipt, Receipt):
            end = splitter.comment(receipt.comment)
        end += self._envelope.event(error) if error else b"".join([*self._held, splitter.rest()])
        await self._send_last(end)

    async def _answer(
        self, status: int, headers: Headers, body: bytes, receipt: Receipt | None
    ) -> None:
        self.http_status = status
        length = (b"content-length", str(len(body)).encode())
        if receipt is None:
            await self._start([*headers, length], durability=b"none")
        else:
            told = [(b"x-edge-store-seq", str(receipt.seq).encode())]
            if receipt.not_replicated is not None:
                told.append((b"x-edge-store-not-replicated", receipt.not_replicated.encode()))
            await self._start([*headers, length, *told], durability=receipt.durability.encode())
        await self._send_last(body)

    async def _send_last(self, body: bytes) -> None:
        """Send what is left of the answer, piece by piece as its caller takes it: so long it is
        counted. Who takes none of it for a minute is given up.
        """
        if self._splitter is None and len(body) <= PIECE_BYTES:  # there is nothing to wait for
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            return
        try:
            for start in range(0, len(body) or 1, PIECE_BYTES):
                end = start + PIECE_BYTES
                piece, more = body[start:end], end < len(body)
                async with asyncio.timeout(TAKING_S):
                    await self._send(
                        {"type": "http.response.body", "body": piece, "more_body": more}
                    )
        except TimeoutError:
            log.warning("answer_not_taken", id=self.result_id, bytes=len(body))

    async def _start(self, headers: Headers, *, durability: bytes) -> None:
        ours = self.result_id.encode()
        kept = [h for h in headers if h[0].lower() != b"x-request-id"]
        await self._send(
            {
                "type": "http.response.start",
                "status": self.http_status,
                "headers": [
                    *kept,
                    (b"x-request-id", ours),
                    (b"x-edge-store-id", ours),
                    (b"x-edge-store-durability", durability),
                ],
            }
        )
        self._is_started = True


def _splitter(kind: bytes) -> EventSplitter | LineSplitter | None:
    """What cuts a body of this content type into events; None for a plain one."""
    if kind.startswith(EVENT_STREAM):
        return EventSplitter()
    return LineSplitter() if kind.startswith(JSON_LINES) else None
