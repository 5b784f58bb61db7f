"""Our own routes, responses among them, over a recorder with a scripted engine."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from support.asgi import App, Call
from support.scripted import Recording, Script, recording

from edge_store.api.app import own_routes
from edge_store.api.background import in_background
from edge_store.api.services import Services
from edge_store.config import Config
from edge_store.engine import Receive, Scope, Send
from edge_store.recorder.caller import Caller, ShutOut, nobody_is, with_caller
from edge_store.recording import reading, sharing_readers


class Responding:
    """The routes, and the recorder behind them."""

    def __init__(self, running: Recording, app: App) -> None:
        self.running = running
        self.app = app

    def call(
        self,
        target: str,
        body: Any = None,
        *,
        method: str = "POST",
        caller: Caller | None = None,
        key: bytes | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> Call:
        """One request in flight, of this caller."""

        async def named(scope: Scope, receive: Receive, send: Send) -> None:
            if caller is not None:
                with_caller(scope, caller)
            await self.app(scope, receive, send)

        sent = b"" if body is None else json.dumps(body).encode()
        given = [*headers] if key is None else [*headers, (b"idempotency-key", key)]
        return Call(named, target, method=method, body=sent, headers=given)

    async def ask(self, target: str, body: Any = None, **options: Any) -> Call:
        """One request to its end."""
        async with self.call(target, body, **options) as call:
            await call.ended()
        return call


@asynccontextmanager
async def responding(
    path: Path,
    script: Script,
    *,
    settings: Config | None = None,
    shut_out: ShutOut = nobody_is,
    **options: Any,
) -> AsyncIterator[Responding]:
    """``options`` are those of ``recording``."""
    async with (
        recording(path, script, **options) as running,
        sharing_readers(path) as reader,
        reading(path) as queries,
        in_background(running.recorder, reader, settings or Config(), shut_out) as background,
    ):
        absent = cast("Any", None)
        services = Services(
            reader=reader,
            queries=queries,
            change=running.recorder.change,
            redacting=running.recorder.redacting,
            commits=running.recorder.commits,
            exposition=absent,
            health=absent,
            background=background,
        )
        yield Responding(running, own_routes(services))
