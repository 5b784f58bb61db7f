"""The first thing a request meets: who asks, an allowlist of routes, a bound on what may be sent.

What generates goes to the recorder, what describes the model straight to the engine, our own routes
to our own app, everything else is 404: of an engine's administration only the few routes that an
operator needs are reached, with the right ``admin``. A key of ours goes no further than here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from edge_store.api.access import Access, Use
from edge_store.api.counted import Counted
from edge_store.api.routes import (
    BODILESS,
    GENERATING,
    OPERATING,
    PASSING,
    READING,
    STORED,
    UNBOUNDED,
    WATCHING,
    needs_room,
)
from edge_store.config import ServerSection
from edge_store.engine import ASGIMessage, Engine, Receive, Scope, Send
from edge_store.errors import (
    EdgeStoreError,
    MethodNotAllowed,
    Overloaded,
    PayloadTooLarge,
    RecorderFull,
    RequestTimeout,
    StoreError,
    may_pass,
)
from edge_store.ids import ResultId, new_result_id
from edge_store.observability.metrics import Metrics
from edge_store.readers import Asker, asker
from edge_store.recorder.app import Recorder
from edge_store.recorder.caller import Caller, Right, caller_of, with_caller, without_key
from edge_store.recorder.entry import Key
from edge_store.recorder.envelope import OpenAIEnvelope, error_headers
from edge_store.recorder.slots import Hold
from edge_store.recorder.transcript import Dialect
from edge_store.recorder.waits import WAIT_HEADER

__all__ = ["Gate"]

Accept = Callable[[str, bytes, Caller, Key | None], Awaitable[ResultId]]

CLOSING = (b"connection", b"close")
WAITING = (409, 429, 503)  # the SDKs wait as long as these say
DISCARD_FACTOR = 8  # so much of a body that is too large is read, so that its sender sees the 413


class Gate:
    """The ASGI application that the server runs."""

    def __init__(  # noqa: PLR0913  (its world)
        self,
        *,
        recorder: Recorder,
        engine: Engine,
        ours: Callable[[Scope, Receive, Send], Awaitable[None]],
        config: ServerSection,
        metrics: Metrics,
        access: Access | None = None,
        accept: Accept | None = None,
        shortage: Callable[[], EdgeStoreError | None] = lambda: None,
    ) -> None:
        """``accept`` takes a request that is answered later, and returns the id of its result.
        ``shortage`` tells why the disk takes no more.
        """
        self._recorder = recorder
        self._engine = engine
        self._ours = ours
        self._config = config
        self._metrics = metrics
        self._access = access or Access()
        self._accept = accept
        self._shortage = shortage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        reply = Reply(send, scope["path"])
        try:
            visit = self._access.visit(scope)
            reply.use = visit.use
            with visit.use:
                scope = without_key(scope) if visit.has_key else scope
                await self._route(with_caller(scope, visit.caller), receive, reply)
        except EdgeStoreError as exc:
            if reply.has_started:
                raise
            await self._refuse(exc, scope, reply)
        except Exception:  # our own defect: who asked gets an answer, the log the traceback
            if not reply.has_started:
                await self._refuse(EdgeStoreError("edge-store failed"), scope, reply)
            raise

    async def overflow(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer on a connection that is one too many, which is then closed: only health and
        metrics as ever.
        """

        async def send_last(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), CLOSING]}
            await send(message)

        if scope["path"] in WATCHING:
            await self(scope, receive, send_last)
        else:
            full = RecorderFull("there are too many connections", hint="open fewer, and keep them")
            await self._refuse(full, scope, Reply(send, scope["path"]))

    async def _refuse(self, error: EdgeStoreError, scope: Scope, send: Send) -> None:
        self._metrics.refused.labels(error.code).inc()
        dialect = GENERATING.get(scope["path"])
        body = (dialect.envelope if dialect else OpenAIEnvelope()).body(error)
        length = (b"content-length", str(len(body)).encode())
        answered = [*error_headers(error), length]
        if isinstance(error, PayloadTooLarge | RequestTimeout | Overloaded):
            # The rest of its body is not read; and who waits to come again shall not keep a
            # connection, of which there are a number, from others.
            answered.append(CLOSING)
        if isinstance(error, MethodNotAllowed):
            answered.append((b"allow", error.allowed.encode()))
        status = error.http_status
        await send({"type": "http.response.start", "status": status, "headers": answered})
        await send({"type": "http.response.body", "body": body})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        dialect = GENERATING.get(path)
        if dialect is not None and not (path in STORED and method in READING):
            _require((*READING, "POST") if path in STORED else ("POST",), method, path)
            await self._generate(dialect, scope, receive, send)
        elif path in PASSING:
            _require(READING, method, path)
            await self._engine(scope, receive, send)
        elif path in OPERATING and Right.ADMIN in caller_of(scope).rights:
            _require(OPERATING[path], method, path)
            await self._engine(scope, receive, send)
        else:
            if needs_room(method, path):
                self._require_room()
            if method in BODILESS or path in UNBOUNDED:
                await self._unheld(scope, receive, send)
            else:
                await self._answer(scope, receive, send)

    async def _unheld(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A route of ours that holds no slot: what it reads is bounded by who asks."""
        token = asker.set(Asker(caller_of(scope).tenant))
        try:
            await self._ours(scope, receive, self._counted(scope, send))
        finally:
            asker.reset(token)

    def _require_room(self) -> None:
        """Raises what the disk, full or stalled, refuses new requests with."""
        closed = self._recorder.slots.closed
        refusal = closed if isinstance(closed, StoreError) else self._shortage()
        if refusal is not None:
            raise refusal.with_traceback(None)

    async def _generate(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        with self._recorder.slots.hold(caller_of(scope).tenant) as hold:
            body = await self._read(scope, receive, hold)
            if body is None:
                return
            accept = self._accept if _prefers_async(scope) else None
            if accept is not None and await self._recorder.will_keep(dialect, scope, body):
                self._require_room()
                take = partial(accept, scope["path"], body, caller_of(scope))
                if await self._recorder.accept(scope, body, receive, send, take):
                    return
            await self._recorder.record(dialect, scope, body, receive, send, hold)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A route of ours that takes a body: it finds the whole body there."""
        with self._recorder.slots.hold(caller_of(scope).tenant) as hold:
            body = await self._read(scope, receive, hold)
            if body is not None:
                await self._ours(scope, _given(body, receive), self._counted(scope, send))

    def _counted(self, scope: Scope, send: Send) -> Counted:
        async def refuse(error: Overloaded) -> None:
            await self._refuse(error, scope, send)

        return Counted(send, self._recorder.slots, caller_of(scope).tenant, refuse)

    async def _read(self, scope: Scope, receive: Receive, hold: Hold) -> bytes | None:
        """The whole body, counted by ``hold``; None when its sender left.

        Raises:
            PayloadTooLarge, RequestTimeout: the sender's fault.
            Overloaded: there is no room for one more body (retryable).
        """
        chunks: list[bytes] = []
        size, bound, grow = 0, self._config.body_bytes_max, self._recorder.slots.grow
        if _announced(scope) > DISCARD_FACTOR * bound:
            raise self._too_large(_announced(scope))
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    more = message.get("more_body", False) and size <= DISCARD_FACTOR * bound
                    if size > bound:
                        chunks.clear()
                        continue
                    grow(hold, len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            raise RequestTimeout(
                f"the body did not arrive within {self._config.body_timeout_s:g} s; "
                f"{size} bytes had come",
                hint="send it faster, or raise server.body_timeout_s",
            ) from None
        if size > bound:
            raise self._too_large(size)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, size: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body has {size} bytes or more; {self._config.body_bytes_max} are allowed",
            hint="send less, or raise server.body_bytes_max",
        )


class Reply:
    """The caller's end: says in every answer which request it answers, of an error whether to ask
    again, and what is left of the rate of a key that has one.
    """

    def __init__(self, send: Send, path: str) -> None:
        self.has_started = False
        self.use: Use | None = None
        self._send = send
        self._path = path

    async def __call__(self, message: ASGIMessage) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            message = {**message, "headers": [*message.get("headers", ()), *self._added(message)]}
        await self._send(message)

    def _added(self, message: ASGIMessage) -> list[tuple[bytes, bytes]]:
        status, there = message["status"], dict(message.get("headers", ()))
        added = self.use.headers if self.use else []
        ours = there.get(b"x-request-id")
        if ours is None:
            ours = new_result_id().encode()
            added.append((b"x-request-id", ours))
        dialect = GENERATING.get(self._path)
        if dialect and dialect.envelope.request_id not in (b"x-request-id", *there):
            added.append((dialect.envelope.request_id, ours))
        if status >= 400 and b"x-should-retry" not in there:  # it is the engine's answer
            added.append((b"x-should-retry", b"true" if may_pass(status) else b"false"))
            if status in WAITING and b"retry-after" not in there:
                added.append((b"retry-after", b"1"))
        return added


def _require(allowed: tuple[str, ...], method: str, path: str) -> None:
    if method not in allowed:
        raise MethodNotAllowed(f"{path} does not take {method}", allowed=", ".join(allowed))


def _prefers_async(scope: Scope) -> bool:
    """Whether it says ``Prefer: respond-async`` (RFC 7240). Not by who would wait even for the
    replica: a preference may be left aside.
    """
    asked = waits = False
    for name, value in scope["headers"]:
        if name == b"prefer":
            words = value.lower().replace(b";", b",").split(b",")
            asked = asked or b"respond-async" in [word.strip() for word in words]
        waits = waits or name == WAIT_HEADER
    return asked and not waits


def _given(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that has the body, and then says what ``receive`` does."""
    waiting = [body]

    async def receive_here() -> ASGIMessage:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_here


def _announced(scope: Scope) -> int:
    """``Content-Length``, or 0: the server has checked that it is a number."""
    value = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0
