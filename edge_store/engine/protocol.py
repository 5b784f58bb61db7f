"""The one interface to whatever generates."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Protocol, Self

from edge_store.errors import EdgeStoreError
from edge_store.ids import ResultId

__all__ = ["ASGIMessage", "AlwaysUp", "Engine", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]


class Engine(Protocol):
    """An ASGI application with a life: entered before the first request, left after the last.

    Calling it may raise an ``EngineError``; whatever else it raises is reported as one.
    """

    name: str  # the value of engine.kind
    version: str
    model: str | None  # what it serves, for answers that do not name it; None if it may vary
    takes_rid: bool  # whether a `rid` may be put into request bodies
    gives_partial: bool  # whether an aborted plain answer comes back, with what there is of it

    async def __aenter__(self) -> Self:
        """Come up. Raises ``EngineStartFailed``."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Go down."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""

    def abort(self, result_id: ResultId) -> None:
        """Stop generating for this ``rid``, if it still is. Never raises."""

    async def is_ready(self) -> bool:
        """Whether a request would be answered now."""

    async def until_ready(self) -> None:
        """Return once requests may be admitted. Raises ``ConfigError``, ``EngineStartFailed``."""

    async def until_dead(self) -> EdgeStoreError:
        """Return, if ever, once it can answer no more: why."""

    def metrics(self) -> bytes:
        """Its own metrics in Prometheus's text format."""


class AlwaysUp:
    """An engine with nothing to load, nothing that dies, and no metrics."""

    gives_partial = False

    async def until_ready(self) -> None:
        return

    async def until_dead(self) -> EdgeStoreError:
        await asyncio.Event().wait()
        raise AssertionError

    def metrics(self) -> bytes:
        return b""
