"""The first thing a request meets: an allowlist of routes, and a bound on what it may send.

What generates goes to the recorder, what describes the model straight to the engine, our own routes
to our own app, everything else is 404: of an engine's administration only the few routes that an
operator needs are reached, with the admin key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from hmac import compare_digest

from edge_store.config import ServerSection
from edge_store.engine import Engine, Receive, Scope, Send
from edge_store.errors import (
    EdgeStoreError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RecorderFull,
    RequestTimeout,
)
from edge_store.observability.metrics import Metrics
from edge_store.recorder.app import Recorder
from edge_store.recorder.envelope import Envelope, OpenAIEnvelope, error_headers
from edge_store.recorder.transcript import Dialect
from edge_store.recorder.transcript.anthropic import MessagesDialect
from edge_store.recorder.transcript.embeddings import EmbeddingsDialect
from edge_store.recorder.transcript.generate import GenerateDialect
from edge_store.recorder.transcript.ollama import OllamaChatDialect, OllamaGenerateDialect
from edge_store.recorder.transcript.openai import ChatDialect, CompletionDialect

__all__ = ["GENERATING", "Gate"]

GENERATING: Mapping[str, Dialect] = {
    "/v1/chat/completions": ChatDialect(),
    "/v1/completions": CompletionDialect(),
    "/v1/embeddings": EmbeddingsDialect(),
    "/generate": GenerateDialect(),
    "/v1/messages": MessagesDialect(),
    "/api/chat": OllamaChatDialect(),
    "/api/generate": OllamaGenerateDialect(),
}
# SGLang's frontend language asks for its model before anything else
PASSING = frozenset({"/v1/models", "/get_model_info", "/model_info"})
READING = ("GET", "HEAD")
# What an operator needs of SGLang's administration; without the admin key they are not there.
OPERATING: Mapping[str, tuple[str, ...]] = {
    "/flush_cache": ("POST",),
    "/server_info": READING,
    "/get_server_info": READING,
}
OURS = ("/livez", "/readyz", "/metrics", "/v1/results")

UNADMITTED_BYTES_MAX = 256 * 1024 * 1024  # of all bodies that have no slot yet
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
        admin_key: str = "",
    ) -> None:
        self._recorder = recorder
        self._engine = engine
        self._ours = ours
        self._config = config
        self._metrics = metrics
        self._admin_key = admin_key.encode()
        self._unadmitted_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await self._route(scope, receive, send)
        except EdgeStoreError as exc:  # nothing has been sent yet, and nothing was admitted
            self._metrics.refused.labels(exc.code).inc()
            dialect = GENERATING.get(scope["path"])
            await _answer(exc, dialect.envelope if dialect else OpenAIEnvelope(), send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        dialect = GENERATING.get(path)
        if dialect is not None:
            _require(("POST",), method, path)
            body = await self._read(scope, receive)
            if body is not None:
                await self._recorder.record(dialect, scope, body, receive, send)
        elif path in PASSING:
            _require(READING, method, path)
            await self._engine(scope, receive, send)
        elif path in OPERATING and self._is_operator(scope):
            _require(OPERATING[path], method, path)
            await self._engine(scope, receive, send)
        elif path.startswith(OURS):
            if path in OURS or path.startswith("/v1/results/"):
                _require(READING, method, path)
            await self._ours(scope, receive, send)
        else:
            raise NotFound(f"there is no {method} {path}")

    def _is_operator(self, scope: Scope) -> bool:
        """Whether the caller has the admin key; nobody has an empty one."""
        given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        return bool(self._admin_key) and compare_digest(given, b"Bearer " + self._admin_key)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when its sender left.

        Raises:
            PayloadTooLarge, RequestTimeout: the sender's fault.
            RecorderFull: there is no room for one more body (retryable).
        """
        chunks: list[bytes] = []
        size, bound, kept = 0, self._config.body_bytes_max, 0
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
                    if self._unadmitted_bytes + len(chunk) > UNADMITTED_BYTES_MAX:
                        raise RecorderFull(
                            f"the bodies that wait have {self._unadmitted_bytes} bytes",
                            hint="send fewer large requests at once",
                        )
                    self._unadmitted_bytes += len(chunk)
                    kept += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise RequestTimeout(
                f"the body did not arrive within {self._config.body_timeout_s:g} s; "
                f"{size} bytes had come",
                hint="send it faster, or raise server.body_timeout_s",
            ) from None
        finally:
            self._unadmitted_bytes -= kept
        if size > bound:
            raise self._too_large(size)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, size: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body has {size} bytes or more; {self._config.body_bytes_max} are allowed",
            hint="send less, or raise server.body_bytes_max",
        )


def _require(allowed: tuple[str, ...], method: str, path: str) -> None:
    if method not in allowed:
        raise MethodNotAllowed(f"{path} does not take {method}", allowed=", ".join(allowed))


def _announced(scope: Scope) -> int:
    """``Content-Length``, or 0: the server has checked that it is a number."""
    value = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0


async def _answer(error: EdgeStoreError, envelope: Envelope, send: Send) -> None:
    body = envelope.body(error)
    headers = [*error_headers(error), (b"content-length", str(len(body)).encode())]
    if isinstance(error, PayloadTooLarge | RequestTimeout | RecorderFull):
        headers.append((b"connection", b"close"))  # the rest of its body is not read
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
