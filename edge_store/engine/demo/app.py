"""The demo engine's ASGI application: routes, streams, delays, and stopping early."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import msgspec

import edge_store
from edge_store.config import DemoSection
from edge_store.engine.demo.answer import Answer, Markers, answer, markers_of
from edge_store.engine.demo.messages import MessagesWire, read_messages
from edge_store.engine.demo.ollama import (
    OllamaChatWire,
    OllamaGenerateWire,
    read_ollama_chat,
    read_ollama_generate,
)
from edge_store.engine.demo.request import (
    Request,
    read_chat,
    read_completion,
    read_generate,
)
from edge_store.engine.demo.wire import (
    MODEL,
    ChatWire,
    CompletionWire,
    GenerateWire,
    Wire,
    error_body,
)
from edge_store.engine.protocol import AlwaysUp, Receive, Scope, Send
from edge_store.errors import InvalidRequest
from edge_store.faults import UNFIT, refusal_of
from edge_store.ids import ResultId

__all__ = ["DemoEngine"]

ROUTES: dict[str, tuple[Callable[[bytes], Request], type[Wire]]] = {
    "/v1/chat/completions": (read_chat, ChatWire),
    "/v1/completions": (read_completion, CompletionWire),
    "/generate": (read_generate, GenerateWire),
    "/v1/messages": (read_messages, MessagesWire),
    "/api/chat": (read_ollama_chat, OllamaChatWire),
    "/api/generate": (read_ollama_generate, OllamaGenerateWire),
}
MODELS = msgspec.json.encode(
    {
        "object": "list",
        "data": [
            {
                "id": MODEL,
                "object": "model",
                "created": 0,
                "owned_by": "edge-store",
                "root": MODEL,
                "parent": None,
                "max_model_len": None,
            }
        ],
    }
)


class Run:
    """One generation in progress, which can be told to stop."""

    def __init__(self, delay_s: float, markers: Markers) -> None:
        self.delay_s = delay_s if markers.delay_ms is None else markers.delay_ms / 1000
        self.dies = markers.dies
        self.is_aborted = False
        self.is_gone = False  # the caller has left: nothing more is sent
        self._waker: asyncio.Future[None] | None = None

    def abort(self) -> None:
        """End it with what there is."""
        self.is_aborted = True
        self._wake()

    async def watch(self, receive: Receive) -> None:
        """Wait for the caller to leave."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._wake()

    async def pause(self, delay_s: float) -> None:
        """Wait, but no longer than until it is stopped."""
        if self.is_aborted or self.is_gone:
            return
        loop = asyncio.get_running_loop()
        self._waker = loop.create_future()
        timer = loop.call_later(delay_s, self._wake)
        try:
            await self._waker
        finally:
            timer.cancel()
            self._waker = None

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)


class DemoEngine(AlwaysUp):
    """See ``edge_store.engine.demo``."""

    name = "demo"
    version = edge_store.__version__
    takes_rid = True
    gives_partial = True
    model: str | None = "demo"

    def __init__(self, config: DemoSection) -> None:
        self._delay_s = config.token_delay_ms / 1000
        self._runs: dict[str, Run] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for run in self._runs.values():
            run.abort()

    def abort(self, result_id: ResultId) -> None:
        run = self._runs.get(result_id)
        if run is not None:
            run.abort()

    async def is_ready(self) -> bool:
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        route = ROUTES.get(path)
        if path == "/v1/models" and method in ("GET", "HEAD"):
            await _answer(send, 200, MODELS)
        elif route is None and path != "/v1/models":
            await _refuse(send, 404, f"the demo engine has no {method} {path}", "not_found")
        elif route is None or method != "POST":
            await _refuse(send, 405, f"{path} does not take {method}", "method_not_allowed")
        else:
            body = await _body_of(receive)
            if body is not None:
                await self._generate(route, scope, body, receive, send)

    async def _generate(
        self,
        route: tuple[Callable[[bytes], Request], type[Wire]],
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        read, wire_type = route
        try:
            request = read(body)
            markers = markers_of(request.orders)
            if markers.fails:
                said = "[demo:error] asked for this failure"
                await _answer(send, 500, wire_type.refusal(said, 500, "demo_error"))
                return
            answers = [answer(order, markers) for order in request.orders]
        except (InvalidRequest, *UNFIT) as exc:
            refusal = exc if isinstance(exc, InvalidRequest) else refusal_of(exc, body=body)
            body = wire_type.refusal(str(refusal), 400, refusal.code, refusal.param)
            await _answer(send, 400, body)
            return
        result_id = scope.get("result_id", request.rid)
        run = self._runs[result_id] = Run(self._delay_s, markers)
        wire = wire_type(request, answers)
        try:
            if request.is_stream:
                await _watched(run, receive, _stream(run, wire, answers, send))
            elif run.delay_s:
                await _watched(run, receive, _slow_body(run, wire_type, request, answers, send))
            else:
                await _answer(send, 200, _whole_or_half(run, wire))
        finally:
            if self._runs.get(result_id) is run:
                del self._runs[result_id]


async def _body_of(receive: Receive) -> bytes | None:
    """The request's body; None if the caller left while sending it."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _watched(run: Run, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as tasks:
        watcher = tasks.create_task(run.watch(receive))
        try:
            await work
        finally:
            watcher.cancel()


async def _stream(run: Run, wire: Wire, answers: list[Answer], send: Send) -> None:
    headers = [(b"content-type", wire.stream_type), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await _send_events(send, wire.opening())
    steps = max(1, *(answer.tokens for answer in answers))
    for step in range(steps):
        if run.delay_s:
            await run.pause(run.delay_s)
        elif step == 0:
            await asyncio.sleep(0)  # so that a caller who has left already is noticed
        if run.is_gone:
            return
        if run.is_aborted:
            await _send_events(send, wire.aborted(step))
            break
        if run.dies and step == steps // 2:
            break
        for index in range(len(answers)):
            await _send_events(send, wire.step(index, step))
    else:
        await _send_events(send, wire.closing())
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_events(send: Send, events: list[bytes]) -> None:
    for event in events:
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def _slow_body(
    run: Run, wire_type: type[Wire], request: Request, answers: list[Answer], send: Send
) -> None:
    """A plain answer that takes as long as its tokens; aborted, it has those that were ready."""
    await run.pause(run.delay_s * max(answer.tokens for answer in answers))
    if run.is_gone and not run.is_aborted:
        return
    if run.is_aborted:
        ready = int((time.monotonic() - request.started_monotonic) / run.delay_s)
        answers = [answer.aborted_after(ready) for answer in answers]
    await _answer(send, 200, _whole_or_half(run, wire_type(request, answers)))


def _whole_or_half(run: Run, wire: Wire) -> bytes:
    body = wire.body()
    return body[: len(body) // 2] if run.dies else body


async def _refuse(send: Send, status: int, message: str, code: str) -> None:
    await _answer(send, status, error_body(message, status, code))


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
