"""The WAL of a box without a replica, while somebody reads for long."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs
from support.records import new_database

from edge_store.recorder import checkpoints
from edge_store.recorder.checkpoints import checkpoint_when_large, is_scarce
from edge_store.recorder.deletions import is_forgotten_since, last_tombstones
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader, open_writer
from edge_store.wal import move_rest, move_wal, unmoved_bytes, wal_bytes


def delete(connection: Connection, reason: str, seq: int) -> None:
    connection.execute(
        "INSERT INTO deletions (at, what, reason, id, seq, timeline, boot_id, boot_seq, created_at,"
        " digest) VALUES (1, 'result', ?, 'x', ?, 't', 'b', 1, 1, x'00')",
        (reason, seq),
    )


def fill(connection: Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS filled (x)")
    connection.execute("INSERT INTO filled VALUES (zeroblob(300000))")


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


@pytest.mark.parametrize(("reason", "within_s"), [("forget", 1e9), ("retention", 0.0)])
async def test_what_was_deleted_leaves_the_wal_though_it_is_small(
    path: Path,
    database: DatabaseThread,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    within_s: float,
) -> None:
    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    monkeypatch.setattr(checkpoints, "EXPIRED_S", within_s)
    task = asyncio.create_task(checkpoint_when_large(path, database, 2**40))
    try:
        for seq in range(1, 3):
            await database.run(delete, reason, seq)
            async with asyncio.timeout(60):
                while wal_bytes(path):  # noqa: ASYNC110  (a file)
                    await asyncio.sleep(0.01)
    finally:
        task.cancel()


async def test_what_retention_deletes_all_the_time_stays_in_it_for_a_while(
    path: Path, database: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def looked(connection: Connection) -> tuple[int, int]:
        looks.append(wal_bytes(path))
        return last_tombstones(connection)

    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    monkeypatch.setattr(checkpoints, "last_tombstones", looked)
    task = asyncio.create_task(checkpoint_when_large(path, database, 2**40))
    try:
        async with asyncio.timeout(60):
            await database.run(delete, "retention", 1)
            while not looks or looks[-1]:  # noqa: ASYNC110  (a file)
                await asyncio.sleep(0.01)
            await database.run(delete, "retention", 2)
            seen = len(looks)
            while len(looks) < seen + 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    assert looks[-1] > 0


async def test_of_tombstones_only_new_ones_are_looked_at(
    path: Path, database: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def looked(connection: Connection, after: int) -> bool:
        asked.append(after)
        return is_forgotten_since(connection, after)

    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    monkeypatch.setattr(checkpoints, "is_forgotten_since", looked)
    for seq in range(1, 4):
        await database.run(delete, "retention", seq)
    task = asyncio.create_task(checkpoint_when_large(path, database, 2**40))
    try:
        async with asyncio.timeout(60):
            while not asked:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    assert asked[0] == 3
    assert wal_bytes(path) == 0  # the first round was due


async def test_a_large_wal_is_begun_anew_and_keeps_its_size(
    path: Path, database: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = asyncio.Event()

    def rest(connection: Connection) -> None:
        move_rest(connection)
        moved.set()

    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    monkeypatch.setattr(checkpoints, "move_rest", rest)
    await database.run(fill)
    size = wal_bytes(path)
    task = asyncio.create_task(checkpoint_when_large(path, database, size // 2))
    try:
        for _ in range(20):
            moved.clear()
            async with asyncio.timeout(60):
                await moved.wait()
            await database.run(fill)
    finally:
        task.cancel()
    assert wal_bytes(path) < 2 * size, "of 21 times as much"


async def test_a_large_wal_with_nothing_new_is_left_alone(
    path: Path, database: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    moves: list[int] = []

    def looked(connection: Connection) -> int:
        looks.append(unmoved_bytes(connection))
        return looks[-1]

    def moved(moved_path: Path) -> None:
        move_wal(moved_path)
        moves.append(len(looks))

    async def rounds(count: int) -> None:
        async with asyncio.timeout(60):
            while len(looks) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    monkeypatch.setattr(checkpoints, "unmoved_bytes", looked)
    monkeypatch.setattr(checkpoints, "move_wal", moved)
    await database.run(fill)
    size = wal_bytes(path)
    task = asyncio.create_task(checkpoint_when_large(path, database, size // 2))
    try:
        await rounds(6)
        await database.run(lambda c: c.execute("UPDATE device SET created_at = 1"))
        await rounds(12)
        assert moves == [1], "what was there is moved, and what came is small"
        assert size // 2 < looks[0] <= size
        await database.run(fill)
        await rounds(len(looks) + 3)
    finally:
        task.cancel()
    assert len(moves) == 2, "until there is as much again"
    assert wal_bytes(path) < 2 * size


async def test_a_wal_goes_where_the_disk_has_little_beside_it(
    path: Path, database: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WAL_CHECK_S", 0.01)
    await database.run(fill)
    size = wal_bytes(path)
    free = [10 * size]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free[0]))
    assert not is_scarce(path, size, 5 * size)
    free[0] -= 1
    assert is_scarce(path, size, 5 * size)
    assert not is_scarce(path, size // 3, 5 * size)  # a small one
    assert not is_scarce(path, size, 0)
    task = asyncio.create_task(checkpoint_when_large(path, database, 2**40, 5 * size))
    try:
        async with asyncio.timeout(60):
            while wal_bytes(path):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()


def test_they_are_found_by_their_number(path: Path) -> None:
    reader = open_reader(path)
    plan = reader.execute("EXPLAIN QUERY PLAN " + sql("is_forgotten_since"), {"after": 1})
    steps = [row[3] for row in plan if "deletions" in row[3]]
    reader.close()
    assert steps == ["SEARCH deletions USING INTEGER PRIMARY KEY (rowid>?)"]
