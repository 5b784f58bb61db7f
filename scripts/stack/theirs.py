"""One of those we are compared with: writes so many rows for each line it reads, and says how long.

A slice ends when all its rows are committed; emptying the table before it is not timed. Celery's
callers need not wait for their own row: that is kinder than what our callers do.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

from table import (
    SAME_BY_NUMBER,
    SAME_CREATE,
    WIDE_BY_NUMBER,
    WIDE_COLUMNS,
    WIDE_CREATE,
    Row,
    flat_rows,
    rows,
)

PRODUCERS = 64
ROWS_AT_ONCE = 1024
POLL_S = 0.01
SLICE_TIMEOUT_S = 120.0


def sender(kind: str) -> Callable[[list[dict[str, Any]]], None]:
    """64 threads that send a task a row; or one that sends groups of 64 tasks, or tasks of 64 rows.

    In the last two the callers' rows have been gathered already, at no cost.
    """
    import tasks
    from celery import group

    threads = ThreadPoolExecutor(PRODUCERS)

    def send(made: list[dict[str, Any]]) -> None:
        if kind == "as-written":
            list(threads.map(tasks.store.delay, made))
            return
        for at in range(0, len(made), PRODUCERS):
            some = made[at : at + PRODUCERS]
            if kind == "improved":
                group(tasks.store_pooled.s(row) for row in some).apply_async()
            else:
                tasks.store_batch.delay(some)

    return send


def celery(kind: str) -> Callable[[int], float]:
    """What ``sender`` sends, until all of it is in the table."""
    import psycopg2
    import redis

    send = sender(kind)
    connection = psycopg2.connect(os.environ["STACK_DSN"])
    connection.autocommit = True
    cursor = connection.cursor()
    broker = redis.Redis.from_url(os.environ["STACK_BROKER"])

    def write_some(number: int) -> float:
        made = flat_rows()[:number]
        cursor.execute("TRUNCATE wide")
        started = time.perf_counter()
        send(made)
        stored = 0
        while stored < number:
            if time.perf_counter() - started > SLICE_TIMEOUT_S:
                raise TimeoutError(f"{stored} of {number} rows after {SLICE_TIMEOUT_S} s")
            time.sleep(POLL_S)
            if broker.llen("celery") == 0:  # counting costs the server: only near the end
                cursor.execute("SELECT count(*) FROM wide")
                (stored,) = cursor.fetchone()
        return time.perf_counter() - started

    return piecewise(write_some)


def piecewise(write_some: Callable[[int], float]) -> Callable[[int], float]:
    """Writes so many, made beforehand, at a time."""

    def write(number: int) -> float:
        goes = [ROWS_AT_ONCE] * (number // ROWS_AT_ONCE) + [number % ROWS_AT_ONCE]
        return sum(write_some(some) for some in goes if some)

    return write


def sqlite_utils_rows(journal: str) -> Callable[[int], float]:
    """One loop, synchronous FULL (its default): 64 threads would only wait for a lock. Its journal
    is ``delete``, a rollback journal, unless it is asked for ``wal``.
    """
    from sqlite_utils import Database

    database = Database(f"{os.environ['STACK_SQLITE']}-{journal}.db")
    if journal == "wal":
        database.enable_wal()
    (synchronous,) = database.conn.execute("PRAGMA synchronous").fetchone()
    if synchronous != 2:
        raise RuntimeError(f"synchronous is {synchronous}, not FULL")
    slices = count()

    def write_some(number: int) -> float:
        made = flat_rows()[:number]
        table = database[f"results_{next(slices)}"]
        table.insert(made[0], pk="id")
        table.delete(made[0]["id"])
        started = time.perf_counter()
        for row in made:
            table.insert(row)
        spent = time.perf_counter() - started
        stored = table.count
        table.drop()
        if stored != number:
            raise RuntimeError(f"{stored} of {number} rows are there")
        return spent

    return piecewise(write_some)


class GroupCommit:
    """asyncpg, 64 producers that each wait for their row; all that wait share a transaction."""

    def __init__(self, connection: Any, *, wide: bool) -> None:
        self._connection = connection
        self._wide = wide
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()

    async def write(self, number: int) -> float:
        """In goes of so many rows as there are samples."""
        spent = 0.0
        while number:
            some = min(number, ROWS_AT_ONCE)
            spent += await self._write(some)
            number -= some
        return spent

    async def _write(self, number: int) -> float:
        made = iter((flat_rows() if self._wide else rows())[:number])
        await self._connection.execute("TRUNCATE wide, results, outputs, requests")
        started = time.perf_counter()
        committer = asyncio.create_task(self._commit(number))
        await asyncio.gather(*(self._produce(made) for _ in range(PRODUCERS)))
        await committer
        spent = time.perf_counter() - started
        stored = await self._connection.fetchval(
            f"SELECT count(*) FROM {'wide' if self._wide else 'requests'}"  # noqa: S608
        )
        if stored != number:
            raise RuntimeError(f"{stored} of {number} rows are there")
        return spent

    async def _produce(self, made: Any) -> None:
        for row in made:
            done = asyncio.get_running_loop().create_future()
            self._waiting.append((row, done))
            self._wake.set()
            await done

    async def _commit(self, left: int) -> None:
        while left:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            await self._insert([row for row, _ in batch])
            for _, done in batch:
                done.set_result(None)
            left -= len(batch)

    async def _insert(self, batch: list[Row]) -> None:
        if self._wide:  # executemany is one transaction by itself
            made = [tuple(map(row.__getitem__, WIDE_COLUMNS)) for row in batch]
            await self._connection.executemany(WIDE_BY_NUMBER, made)
            return
        async with self._connection.transaction():
            for table, statement in SAME_BY_NUMBER.items():
                values = [tuple(row[table].values()) for row in batch]
                await self._connection.executemany(statement, values)


def asyncpg_group(*, wide: bool) -> Callable[[int], float]:
    """``GroupCommit`` on a loop of its own."""
    import asyncpg
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    connection = loop.run_until_complete(asyncpg.connect(os.environ["STACK_URL"]))
    group = GroupCommit(connection, wide=wide)
    return lambda number: loop.run_until_complete(group.write(number))


def prepare() -> None:
    """Make the tables, and look whether the server keeps what it commits."""
    import psycopg2

    connection = psycopg2.connect(os.environ["STACK_DSN"])
    with connection, connection.cursor() as cursor:
        for statement in (WIDE_CREATE, *SAME_CREATE):
            cursor.execute(statement)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            cursor.execute(f"SHOW {setting}")
            (value,) = cursor.fetchone()
            if value != "on":
                raise RuntimeError(f"PostgreSQL's {setting} is {value}")
    connection.close()


KINDS: dict[str, Callable[[], Callable[[int], float]]] = {
    "as-written": lambda: celery("as-written"),
    "improved": lambda: celery("improved"),
    "batched": lambda: celery("batched"),
    "asyncpg": lambda: asyncpg_group(wide=False),
    "asyncpg-wide": lambda: asyncpg_group(wide=True),
    "sqlite-utils": partial(sqlite_utils_rows, "delete"),
    "sqlite-utils-wal": partial(sqlite_utils_rows, "wal"),
}


def main() -> None:
    if sys.argv[1] == "prepare":
        prepare()
        return
    write = KINDS[sys.argv[1]]()
    print("ready", flush=True)
    for line in sys.stdin:
        print(write(int(line)), flush=True)


if __name__ == "__main__":
    main()
