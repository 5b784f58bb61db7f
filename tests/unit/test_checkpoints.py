"""The WAL of a box without a replica, while somebody reads for long."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.records import new_database

from edge_store.recorder import checkpoints
from edge_store.recorder.checkpoints import checkpoint_when_large
from edge_store.sqlite import DatabaseThread, open_reader, open_writer
from edge_store.wal import wal_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "results.db"
    new_database(path)[0].close()
    return path


@pytest.fixture
async def database(path: Path) -> AsyncIterator[DatabaseThread]:
    database = await DatabaseThread.open(partial(open_writer, path))
    yield database
    await database.close()


async def test_a_long_read_holds_no_commit_up(
    path: Path, database: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    await database.run(lambda c: c.execute("UPDATE device SET created_at = 1"))
    reader = open_reader(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM boots").fetchone()
    await database.run(lambda c: c.execute("UPDATE device SET created_at = 2"))
    began = time.monotonic()
    with capture_logs() as logs:
        task = asyncio.create_task(checkpoint_when_large(path, database, 0))
        try:
            async with asyncio.timeout(60):
                while not logs:  # noqa: ASYNC110  (a line of the log has none)
                    await asyncio.sleep(0.01)
                took = time.monotonic() - began
                reader.close()
                while wal_bytes(path):  # noqa: ASYNC110  (a file)
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
    assert [entry["event"] for entry in logs[:1]] == ["checkpoint_blocked"]
    assert took < 4  # the writer's own patience is 5 s
    (patience,) = await database.run(lambda c: c.execute("PRAGMA busy_timeout").fetchone())
    assert patience == 5000
