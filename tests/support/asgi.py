"""Drives an ASGI application as a server would, and looks at each message as it is sent."""

import asyncio
import json
from collections.abc import Callable, Coroutine, MutableMapping
from types import TracebackType
from typing import Any, Self

App = Callable[..., Coroutine[Any, Any, None]]
Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]

DEADLINE_S = 60.0


class Call:
    """One request in flight: ``async with Call(app, ...) as call``. Leaving cancels it.

    The whole request body is ready at once; the caller then stays until it is cancelled.
    """

    def __init__(
        self,
        app: App,
        target: str = "/v1/chat/completions",
        *,
        method: str = "POST",
        headers: Headers | None = None,
        body: bytes = b"{}",
    ) -> None:
        path, _, query = target.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers or [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self._app = app
        self._waiting = [body]
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self.messages: list[Message] = []

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.cancel()

    async def _receive(self) -> Message:
        if self._waiting:
            return {"type": "http.request", "body": self._waiting.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self._sent.put_nowait(message)

    async def cancel(self) -> None:
        """Cancel the application's call, as a server does, and wait until it has ended."""
        self.task.cancel()
        await asyncio.wait([self.task], timeout=DEADLINE_S)
        assert self.task.done(), f"the call did not end within {DEADLINE_S} s of its cancellation"

    async def next(self) -> Message:
        """The next message that the application sends; its error if it ends instead."""
        async with asyncio.timeout(DEADLINE_S):
            getter = asyncio.create_task(self._sent.get())
            try:
                await asyncio.wait([getter, self.task], return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    await asyncio.sleep(0)  # a message put just before the end wakes it now
                if getter.done():
                    return getter.result()
                self.task.result()
                raise AssertionError("the application ended and sent nothing more")
            finally:
                getter.cancel()

    async def ended(self) -> None:
        """Wait for the end of the application's call; raises what it raised."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.shield(self.task)

    @property
    def has_started(self) -> bool:
        return bool(self.messages)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages if m["type"] == "http.response.body")

    def json(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)

    @property
    def is_complete(self) -> bool:
        last = self.messages[-1] if self.messages else {}
        return last.get("type") == "http.response.body" and not last["more_body"]


async def answered(app: App, target: str = "/v1/chat/completions", **request: Any) -> Call:
    """Run one call to its end; raises what the application raised."""
    async with Call(app, target, **request) as call:
        await call.ended()
    return call
