"""The first thing a request meets: an allowlist of routes, and a bound on what it may send.

What generates goes to the recorder, the model list straight to the engine, our own routes to our
own app, everything else is 404: an engine's administration routes are never reached.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from edge_store.config import ServerSection
from edge_store.engine import Engine, Receive, Scope, Send
from edge_store.errors import EdgeStoreError, InvalidRequest, NotFound, PayloadTooLarge
from edge_store.observability.metrics import Metrics
from edge_store.recorder.app import Recorder
from edge_store.recorder.envelope import error_body, error_headers
from edge_store.recorder.transcript import Dialect
from edge_store.recorder.transcript.generate import GenerateDialect
from edge_store.recorder.transcript.openai import ChatDialect, CompletionDialect

__all__ = ["GENERATING", "Gate"]

GENERATING: Mapping[str, Dialect] = {
    "/v1/chat/completions": ChatDialect(),
    "/v1/completions": CompletionDialect(),
    "/generate": GenerateDialect(),
}
PASSING = frozenset({("GET", "/v1/models")})
OURS = ("/livez", "/readyz", "/metrics", "/v1/results")

DISCARD_FACTOR = 8  # so much of a body that is too large is read, so that its sender sees the 413


class Gate:
    """The ASGI application that the server runs."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        engine: Engine,
        ours: Callable[[Scope, Receive, Send], Awaitable[None]],
        config: ServerSection,
        metrics: Metrics,
    ) -> None:
        self._recorder = recorder
        self._engine = engine
        self._ours = ours
        self._config = config
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await self._route(scope, receive, send)
        except EdgeStoreError as exc:  # nothing has been sent yet, and nothing was admitted
            self._metrics.refused.labels(exc.code).inc()
            await _answer(exc, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        dialect = GENERATING.get(path)
        if dialect is not None and method == "POST":
            body = await self._read(receive)
            if body is not None:
                await self._recorder.record(dialect, scope, body, receive, send)
        elif (method, path) in PASSING:
            await self._engine(scope, receive, send)
        elif path.startswith(OURS):
            await self._ours(scope, receive, send)
        else:
            raise NotFound(f"there is no {method} {path}")

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None when its sender left. Raises ``PayloadTooLarge``."""
        chunks: list[bytes] = []
        size, bound = 0, self._config.body_bytes_max
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
                    else:
                        chunks.append(chunk)
        except TimeoutError:
            raise InvalidRequest(
                f"the body did not arrive within {self._config.body_timeout_s:g} s; "
                f"{size} bytes had come"
            ) from None
        if size > bound:
            raise PayloadTooLarge(
                f"the body has {size} bytes or more; {bound} are allowed",
                hint="send less, or raise server.body_bytes_max",
            )
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _answer(error: EdgeStoreError, send: Send) -> None:
    body = error_body(error)
    headers = [*error_headers(error), (b"content-length", str(len(body)).encode())]
    if isinstance(error, PayloadTooLarge):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
