"""A COMMIT that takes longer than its caller waits still has its key."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from support.scripted import DEADLINE_S, chat_body, recording, replay

from edge_store.config import RecorderSection
from edge_store.sql import sql
from edge_store.sqlite import Connection

KEY = [(b"idempotency-key", b"once")]


class Stalled:
    """A connection whose next COMMIT waits for ``go``."""

    def __init__(self, connection: Connection) -> None:
        self.go = threading.Event()
        self.is_armed = False
        self._connection = connection

    def execute(self, statement: str, *values: Any) -> Any:
        if self.is_armed and statement == sql("commit"):
            self.go.wait(DEADLINE_S)
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_a_retry_after_a_stalled_commit_waits_for_it_and_runs_nothing(
    tmp_path: Path,
) -> None:
    stalled: list[Stalled] = []

    def connected(connection: Connection) -> Any:
        stalled.append(Stalled(connection))
        return stalled[-1]

    config = RecorderSection(beat_s=0.02, commit_timeout_s=0.1)
    async with recording(
        tmp_path / "results.db", replay([chat_body("x")]), config=config, connected=connected
    ) as running:
        stalled[-1].is_armed = True
        first = await running.ask(headers=KEY)
        assert (first.status, b"may still be stored" in first.body) == (500, True)
        again = asyncio.create_task(running.ask(headers=KEY))
        await asyncio.sleep(0.1)
        assert not again.done()
        stalled[-1].go.set()
        second = await again
        assert (second.status, second.headers["idempotency-replayed"]) == (200, "true")
        assert len(running.stored()) == 1
