"""The writer against a raw loop that executes the shipped statements on the shipped rows.

Both write to the same disk, in slices taken in turn; a pair of neighbouring slices gives one ratio.
The raw loop's rows are made beforehand: what the writer adds is the digests, the queue, the futures
and the hop between threads. It is measured twice: with the driver as it comes, and with the
adapters that edge_store registers, which halve the time of an INSERT. The bounds are on the first.

What the disk is given is the writer's WAL, beside what the rows themselves hold: a COMMIT writes
whole pages.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge_store.bench.figures import Figure, median
from edge_store.chain import commit_digest
from edge_store.clock import now_ms
from edge_store.config import RecorderSection
from edge_store.identity import create_identity
from edge_store.ids import new_result_id
from edge_store.observability.metrics import Metrics
from edge_store.recorder.batch import read_head
from edge_store.recorder.boot import begin_boot
from edge_store.recorder.disk import Disk
from edge_store.recorder.slots import Slots
from edge_store.recorder.writer import Writer
from edge_store.result import Boot, Content, Operation, Output, Result, Status
from edge_store.rows import (
    NAMES,
    OUTPUT_COLUMNS,
    RESULT_COLUMNS,
    SHAPES,
    Row,
    Shape,
    insert_rows,
    to_row,
)
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, driver, open_writer
from edge_store.wal import checkpoint, wal_bytes

__all__ = ["Ours", "bench_writer", "prepare", "sample_result"]

PRODUCERS = (16, 64, 256)
RATIO_MIN = 0.85
CPU_US_MAX = 25.0
WAL_RATIO_MAX = 1.5
NUMBER_BYTES = 8
INSERTED = {"insert_result": RESULT_COLUMNS, "insert_output": OUTPUT_COLUMNS}
TEXT_CHARS = 1500  # a result of about 4.8 KB: prompt, answer, and both bodies


def sample_result(boot: Boot, boot_seq: int) -> Result:
    """A result of ordinary size. Its text differs from row to row."""
    text = (hashlib.sha256(str(boot_seq).encode()).hexdigest() * (TEXT_CHARS // 64 + 1))[
        :TEXT_CHARS
    ]
    request = msgspec.json.encode({"messages": [{"role": "user", "content": text[:700]}]})
    now, name = now_ms(), new_result_id()
    message = {"role": "assistant", "content": text, "reasoning_content": None, "tool_calls": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    response = {
        "id": name,
        "object": "chat.completion",
        "created": now // 1000,
        "model": "demo",
        "choices": [choice],
        "usage": {"prompt_tokens": 180, "completion_tokens": 256, "total_tokens": 436},
    }
    return Result(
        id=name,
        device_id=boot.device_id,
        boot_id=boot.boot_id,
        boot_seq=boot_seq,
        operation=Operation.CHAT,
        endpoint="/v1/chat/completions",
        status=Status.COMPLETED,
        request_model="demo",
        response_model="demo",
        engine="demo",
        engine_version="0",
        params='{"temperature":0.7,"max_tokens":256}',
        created_at=now,
        completed_at=now,
        clock_synced=True,
        latency_ms=12.5,
        queue_ms=0.01,
        input_tokens=180,
        output_tokens=256,
        cached_tokens=0,
        finish_reason="stop",
        stream=False,
        request_fingerprint=hashlib.sha256(request).digest(),
        http_status=200,
        outputs=(Output(choice_index=0, output_text=text, finish_reason="stop"),),
        content=Content(
            input_text=text[:700],
            request_body=request,
            response_body=msgspec.json.encode(response),
        ),
    )


async def bench_writer(folder: Path, *, pairs: int, slice_rows: int) -> list[Figure]:
    """``pairs`` slices of each kind at each number of producers, of ``slice_rows`` rows each."""
    figures = []
    for producers in PRODUCERS:
        ours = await Ours.open(folder / f"ours-{producers}.db", producers)
        raw = Raw(folder / f"raw-{producers}.db", producers)
        ratios, added, adapted, written = [], [], [], []
        for pair in range(pairs + 1):
            ours_s, ours_cpu = await ours.slice(slice_rows)
            with plain_driver():
                raw_s, raw_cpu = await asyncio.to_thread(raw.slice, slice_rows)
            adapted_s, _cpu = await asyncio.to_thread(raw.slice, slice_rows)
            if pair:  # the first pair warms both up
                ratios.append(raw_s / ours_s)
                added.append((ours_cpu - raw_cpu) * 1e6)
                adapted.append(adapted_s / ours_s)
                written.append(ours.wal_bytes / ours.payload_bytes)
        await ours.close()
        raw.connection.close()
        figures += [
            Figure(
                name=f"writer ÷ raw loop, {producers} producers",
                value=median(ratios),
                unit="ratio",
                bound=f"≥ {RATIO_MIN}",
                holds=median(ratios) >= RATIO_MIN,
            ),
            Figure(
                name=f"CPU above the raw loop, {producers} producers",
                value=median(added),
                unit="µs/row",
                bound=f"≤ {CPU_US_MAX:g}",
                holds=median(added) <= CPU_US_MAX,
            ),
            Figure(
                name=f"writer ÷ raw loop with our adapters, {producers} producers",
                value=median(adapted),
                unit="ratio",
            ),
            Figure(
                name=f"WAL ÷ payload, {producers} producers",
                value=median(written),
                unit="ratio",
                bound=f"≤ {WAL_RATIO_MAX:g}",
                holds=median(written) <= WAL_RATIO_MAX,
            ),
        ]
    return figures


def payload_bytes(result: Result) -> int:
    """What its columns hold: the bytes of texts and BLOBs, and 8 for each number."""
    row = to_row(1, result.boot_id, result)
    content = (1, *msgspec.structs.astuple(result.content))
    values = [*row.result, *content, *(value for output in row.outputs for value in output)]
    return sum(_bytes(value) for value in values if value is not None)


def _bytes(value: str | bytes | float) -> int:
    if isinstance(value, bytes):
        return len(value)
    return len(value.encode()) if isinstance(value, str) else NUMBER_BYTES


@contextmanager
def plain_driver() -> Iterator[None]:
    """The driver without the adapters of ``edge_store.sqlite`` and ``edge_store.rows``, and INSERTs
    that bind every value of every row.
    """
    registered: dict[Any, Any] = driver.adapters
    ours = {k: v for k, v in registered.items() if k[0] in (type(None), bytes, *NAMES)}
    for key in ours:
        del registered[key]
    shapes = dict(SHAPES)
    SHAPES.update({block: Shape.of_all(len(columns)) for block, columns in INSERTED.items()})
    try:
        yield
    finally:
        registered.update(ours)
        SHAPES.clear()
        SHAPES.update(shapes)


def prepare(connection: Connection) -> Boot:
    """The schema, an identity and a boot in an empty file."""
    migrate(connection)
    device_id = create_identity(connection, "bench")
    return begin_boot(
        connection, device_id=device_id, version="0", engine="demo", engine_version="0"
    )


class Ours:
    """The shipped writer with ``producers`` tasks that each wait for their receipt."""

    def __init__(
        self, path: Path, database: DatabaseThread, boot: Boot, writer: Writer, producers: int
    ) -> None:
        self._path = path
        self.after_slice: Callable[[Connection], object] = checkpoint
        self.wal_bytes = self.payload_bytes = 0  # of the last slice
        self._database = database
        self.boot = boot
        self._writer = writer
        self._producers = producers
        self._task = asyncio.create_task(writer.run())
        self._made = 0

    @classmethod
    async def open(cls, path: Path, producers: int) -> "Ours":
        database = await DatabaseThread.open(lambda: open_writer(path))
        boot = await database.run(prepare)
        head = await database.run(read_head)
        config = RecorderSection(slots=producers)
        slots = Slots(config)
        slots.open()
        writer = Writer(database, boot, head, slots, Disk(path, 0), config, Metrics())
        return cls(path, database, boot, writer, producers)

    async def slice(self, rows: int) -> tuple[float, float]:
        """(seconds per row, CPU seconds per row) of writing ``rows`` rows."""
        results = self.make(rows)
        self.payload_bytes = sum(payload_bytes(result) for result in results)
        return await self.write(results)

    def make(self, rows: int) -> list[Result]:
        """So many results that are not written yet."""
        first = self._made + 1
        self._made += rows
        return [sample_result(self.boot, n) for n in range(first, first + rows)]

    def make_again(self, results: Sequence[Result]) -> list[Result]:
        """These as new ones: what a result gets at its admission and at its end is their own."""
        now = now_ms()
        again = []
        for result in results:
            self._made += 1
            again.append(
                msgspec.structs.replace(
                    result,
                    id=new_result_id(),
                    boot_seq=self._made,
                    created_at=now,
                    completed_at=now,
                    content=msgspec.structs.replace(result.content),  # it has not been split yet
                )
            )
        return again

    async def write(self, results: Sequence[Result]) -> tuple[float, float]:
        """(seconds per row, CPU seconds per row) of writing these."""
        left = iter(results)
        started, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._producers):
                tasks.create_task(self._produce(left))
        spent = time.perf_counter() - started, time.process_time() - cpu
        self.wal_bytes = wal_bytes(self._path)
        await self._database.run(self.after_slice)
        return spent[0] / len(results), spent[1] / len(results)

    async def _produce(self, results: Iterator[Result]) -> None:
        for result in results:
            await self._writer.submit(result)

    async def close(self) -> None:
        self._writer.close()
        await self._task
        await self._database.close()


class Raw:
    """The same statements on rows made beforehand, ``batch`` rows to a COMMIT."""

    def __init__(self, path: Path, batch: int) -> None:
        self.connection = open_writer(path, same_thread=False)
        self._boot = prepare(self.connection)
        self._batch = batch
        self._made = 0
        self._digest = bytes(32)

    def slice(self, rows: int) -> tuple[float, float]:
        """(seconds per row, CPU seconds per row) of writing ``rows`` rows."""
        boot = self._boot
        made = [
            to_row(n, boot.timeline, sample_result(boot, n))
            for n in range(self._made + 1, self._made + rows + 1)
        ]
        self._made += rows
        started, cpu = time.perf_counter(), time.process_time()
        for at in range(0, rows, self._batch):
            self._commit(made[at : at + self._batch])
        spent = time.perf_counter() - started, time.process_time() - cpu
        checkpoint(self.connection)
        return spent[0] / rows, spent[1] / rows

    def _commit(self, rows: list[Row]) -> None:
        execute = self.connection.execute
        first, last = rows[0].result[0], rows[-1].result[0]
        columns = (self._boot.boot_id, now_ms(), last, first, last)
        digest = commit_digest(self._digest, columns, ())
        execute(sql("begin"))
        insert_rows(self.connection, rows)
        execute(sql("insert_commit"), (*columns, digest, self._digest))
        execute(sql("commit"))
        self._digest = digest
