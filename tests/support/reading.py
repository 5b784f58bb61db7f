"""Our own routes over a database in this process, asked in somebody's name."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from edge_store.api.app import own_routes
from edge_store.api.services import Services
from edge_store.config import PrivacySection, RepairSection
from edge_store.engine import Receive, Scope, Send
from edge_store.jsonrepair import JsonWorkers
from edge_store.observability.metrics import Metrics
from edge_store.recorder.caller import Caller, Right, with_caller
from edge_store.recorder.commits import Commits
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.transactions import in_transaction
from edge_store.sqlite import DatabaseThread, open_reader, open_writer

T = TypeVar("T")

OWN = frozenset({Right.GENERATE, Right.READ_OWN})
EVERYBODY = Caller()


def tenant(name: str) -> Caller:
    """One that sees its own results only."""
    return Caller(tenant=name, rights=OWN)


class Reading:
    """The application, and a writer to its database."""

    def __init__(self, app: Any, path: Path, commits: Commits, writer: DatabaseThread) -> None:
        self.commits = commits
        self.path = path
        self.writer = writer
        self._app = app

    def named(self, caller: Caller = EVERYBODY) -> Any:
        """The application to ``caller``."""

        async def named(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app(with_caller(scope, caller), receive, send)

        return named

    def client(self, caller: Caller = EVERYBODY) -> httpx.AsyncClient:
        """An HTTP client that is ``caller``."""
        transport = httpx.ASGITransport(self.named(caller))
        return httpx.AsyncClient(transport=transport, base_url="http://box")


@asynccontextmanager
async def reading(path: Path, **services: Any) -> AsyncIterator[Reading]:
    """The routes over the database at ``path``, which is there already."""
    reader = await DatabaseThread.open(lambda: open_reader(path))
    queries = await DatabaseThread.open(lambda: open_reader(path))
    writer = await DatabaseThread.open(lambda: open_writer(path))
    commits = Commits(0)

    async def change(function: Callable[..., T], *args: Any) -> T:
        return await writer.run(in_transaction, function, *args)

    async def health() -> dict[str, Any]:
        return {"is_ready": True}

    made: dict[str, Any] = {
        "reader": reader,
        "queries": queries,
        "change": change,
        "redacting": Redacting(PrivacySection(), JsonWorkers(RepairSection())),  # no rules
        "commits": commits,
        "exposition": Metrics().exposition,
        "health": health,
        **services,
    }
    try:
        yield Reading(own_routes(Services(**made)), path, commits, writer)
    finally:
        await reader.close()
        await queries.close()
        await writer.close()
