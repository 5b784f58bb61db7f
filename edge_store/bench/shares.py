"""What each part of recording costs a request: the shipped functions, timed one by one on a request
of the demo engine and its true answer.

CPU of the whole process, the writer's thread included, over rounds that go through all parts in
turn; the median of the rounds. Alone in a loop a part is at its cheapest: between other work, on a
processor whose caches that work fills, all of them together cost more, which is what ``bench
recorder`` measures from outside without ``--shares``.
"""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Self

import msgspec
import structlog

from edge_store.api.access import Access
from edge_store.api.gate import Reply
from edge_store.api.routes import GENERATING
from edge_store.bench.figures import Figure, at_most, median
from edge_store.bench.recorder import FAST
from edge_store.bench.writer import Ours, prepare
from edge_store.config import DemoSection, LogSection, RecorderSection
from edge_store.engine import AlwaysUp, ASGIMessage, Receive, Scope, Send
from edge_store.engine.demo import DemoEngine
from edge_store.ids import ResultId, new_result_id
from edge_store.keys import Key, digest_of
from edge_store.loggers import get_logger
from edge_store.observability.logging import configure_logging
from edge_store.observability.metrics import Metrics
from edge_store.recorder.app import _decode, _engine_scope, _read
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.caller import (
    RecordLevel,
    Right,
    caller_of,
    with_caller,
    without_key,
)
from edge_store.recorder.entry import Entry
from edge_store.recorder.exchange import Exchange
from edge_store.recorder.slots import Slot, Slots
from edge_store.result import Receipt, Result
from edge_store.rows import content_digest, row_digest, to_row
from edge_store.sqlite import open_writer
from edge_store.wal import checkpoint

__all__ = ["bench_shares"]

PATH = "/v1/chat/completions"
BATCH = 64  # rows to a COMMIT, as with 64 callers
ACCESS_US_MAX = 15.0
KEYS = 1000  # on the box
HEADERS = [
    (b"host", b"bench"), (b"authorization", b"Bearer tenant-0"),
    (b"content-type", b"application/json"), (b"user-agent", b"OpenAI/Python 2.0.0"),
    (b"accept", b"application/json"), (b"content-length", b"200"),
]  # fmt: skip

ACCESS = f"access: one of {KEYS} keys, rights, both limits"
Part = Callable[[int], Awaitable[None]]  # does its work so many times


class Answering(AlwaysUp):
    """An engine that has its answer ready: what it costs is what stands around it."""

    name = "demo"
    version = "0"
    model: str | None = None
    takes_rid = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        return

    async def is_ready(self) -> bool:
        return True

    def __init__(self, messages: list[ASGIMessage]) -> None:
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        for message in self._messages:
            await send(message)

    def abort(self, result_id: ResultId) -> None:
        raise AssertionError(result_id)


async def bench_shares(folder: Path, *, rounds: int, requests: int) -> list[Figure]:
    """The median CPU of each part over ``rounds`` of ``requests``, and its share of the sum."""
    measured = await Measured.of_demo(folder)
    spent: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, part in measured.parts.items():
            began = time.process_time()
            await part(requests)
            if number:  # the first round warms up
                spent.setdefault(name, []).append((time.process_time() - began) / requests * 1e6)
        _, writer_s = await measured.ours.write(measured.results(requests))
        batch_s = await asyncio.to_thread(measured.batches, requests)
        if number:
            spent.setdefault("writer", []).append(writer_s * 1e6)
            spent.setdefault("batch", []).append(batch_s * 1e6)
    await measured.close()
    return _shares({name: median(values) for name, values in spent.items()})


def _shares(us: dict[str, float]) -> list[Figure]:
    """What contains another part is shown without it."""
    parts = {
        ACCESS: us["access"],
        "admission: tenant, hold, bytes, slot": us["admission"],
        "id": us["id"],
        "parsing the request": us["decode"],
        "reading what is asked, the engine's copy": us["read"] - us["decode"] - us["fingerprint"],
        "hashing the request": us["fingerprint"],
        "engine's scope": us["scope"],
        "exchange: tasks, deadlines, tee": us["exchange"] - us["transcript"],
        "transcript of the answer": us["transcript"],
        "result": us["result"],
        "row": us["row"] - us["digests"],
        "digests": us["digests"],
        f"INSERTs and COMMIT, {BATCH} rows to one": us["batch"] - us["row"],
        "queue, futures, the hop to the writer's thread": us["writer"] - us["batch"],
        "headers and release of the answer": us["release"],
        "metrics": us["metrics"],
        "log line": us["log"],
    }
    whole = sum(parts.values())
    shown = [
        Figure(name=name, value=value, unit=f"µs/request, {value / whole:5.1%}")
        for name, value in parts.items()
    ]
    shown[0] = at_most(ACCESS, us["access"], ACCESS_US_MAX, shown[0].unit)
    return [*shown, Figure(name="all of these", value=whole, unit="µs/request")]


class Measured:
    """One request, its answer, and the parts that it goes through."""

    def __init__(self, folder: Path, messages: list[ASGIMessage], ours: Ours) -> None:
        self.ours = ours
        self._dialect = GENERATING[PATH]
        self._scope: Scope = {"type": "http", "method": "POST", "path": PATH, "headers": HEADERS}
        self._body = json.dumps(FAST).encode()
        self._engine = Answering(messages)
        self._answer = b"".join(message.get("body", b"") for message in messages)
        self._asked, self._sent, self._fingerprint = _read(self._dialect, self._body, "rid")
        self._keys = Access(_keys())
        self._slots = Slots(RecorderSection())
        self._slots.open()
        self._metrics = Metrics()
        self._connection = open_writer(folder / "batches.db", same_thread=False)
        self._boot = prepare(self._connection)
        self._head = read_head(self._connection)
        self._numbers = iter(range(1, 1 << 40))
        self._entry = self._entered()
        self._result = self._resulting()
        self.parts: dict[str, Part] = {
            "access": self._access,
            "admission": self._admission,
            "id": self._id,
            "decode": self._decode,
            "read": self._read,
            "fingerprint": self._hash,
            "scope": self._engines_scope,
            "exchange": self._exchange,
            "transcript": self._transcript,
            "result": self._make_result,
            "row": self._row,
            "digests": self._digests,
            "release": self._release,
            "metrics": self._count,
            "log": self._log,
        }

    @classmethod
    async def of_demo(cls, folder: Path) -> "Measured":
        """Ask the demo engine for the answer."""
        messages: list[ASGIMessage] = []
        body = json.dumps(FAST).encode()

        async def receive() -> ASGIMessage:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: ASGIMessage) -> None:
            messages.append(message)

        scope: Scope = {"type": "http", "method": "POST", "path": PATH, "headers": HEADERS}
        scope["result_id"] = new_result_id()
        async with DemoEngine(DemoSection()) as engine:
            await engine(scope, receive, send)
        return cls(folder, messages, await Ours.open(folder / "ours.db", BATCH))

    async def close(self) -> None:
        """Close both files."""
        self._connection.close()
        await self.ours.close()

    def _entered(self) -> Entry:
        exchange = Exchange(
            new_result_id(), self._dialect, self._asked, _nowhere, bytes_max=1 << 30
        )
        held = (self._body, self._fingerprint)
        return Entry(self._boot, self._scope, self._asked, held, exchange)

    def _resulting(self) -> Result:
        reader = self._dialect.reader(self._asked)
        reader.body(self._answer)
        slot = Slot(next(self._numbers), 0.01, self._slots.hold())
        self._entry.admit(slot, clock_synced=True)
        return self._entry.result(reader.reading(), (), None)

    def results(self, number: int) -> list[Result]:
        """So many, each with an id of its own."""
        boot_id = self.ours.boot.boot_id
        return [
            msgspec.structs.replace(
                self._result, id=new_result_id(), boot_id=boot_id, boot_seq=next(self._numbers)
            )
            for _ in range(number)
        ]

    def batches(self, number: int) -> float:
        """CPU seconds per row of committing so many; on the thread that calls."""
        made = self.results(number)
        began = time.thread_time()
        for at in range(0, number, BATCH):
            batch = made[at : at + BATCH]
            self._head = write_batch(self._connection, self._boot, self._head, at, batch).head
        spent = time.thread_time() - began
        checkpoint(self._connection)
        return spent / number

    async def _access(self, number: int) -> None:
        """What the gate does before it looks at the route, and to the head of the answer."""
        headers = [*HEADERS, (b"x-request-id", self._result.id.encode())]
        start: ASGIMessage = {"type": "http.response.start", "status": 200, "headers": headers}
        for _ in range(number):
            reply = Reply(_nowhere, "/v1/chat/completions")
            visit = self._keys.visit(self._scope)
            reply.use = visit.use
            with visit.use:
                with_caller(without_key(self._scope), visit.caller)
                await reply(start)

    async def _admission(self, number: int) -> None:
        for _ in range(number):
            with self._slots.hold(caller_of(self._scope).tenant) as hold:
                self._slots.grow(hold, len(self._body))
                self._slots.release(await self._slots.reserve(hold))

    async def _id(self, number: int) -> None:
        for _ in range(number):
            new_result_id()

    async def _decode(self, number: int) -> None:
        for _ in range(number):
            _decode(self._body)

    async def _read(self, number: int) -> None:
        for _ in range(number):
            _read(self._dialect, self._body, "rid")

    async def _hash(self, number: int) -> None:
        for _ in range(number):
            hashlib.sha256(self._body).digest()

    async def _engines_scope(self, number: int) -> None:
        for _ in range(number):
            _engine_scope(self._scope, self._sent, self._entry.exchange.result_id)

    async def _exchange(self, number: int) -> None:
        for _ in range(number):
            exchange = Exchange(
                self._result.id, self._dialect, self._asked, _nowhere, bytes_max=1 << 30
            )
            await exchange.run(self._engine, self._scope, self._sent, _silent, 600.0)

    async def _transcript(self, number: int) -> None:
        for _ in range(number):
            reader = self._dialect.reader(self._asked)
            reader.body(self._answer)
            reader.reading()

    async def _make_result(self, number: int) -> None:
        reader = self._dialect.reader(self._asked)
        reader.body(self._answer)
        reading = reader.reading()
        held = (self._body, self._fingerprint)
        slot = Slot(1, 0.01, self._slots.hold())
        for _ in range(number):
            entry = Entry(self._boot, self._scope, self._asked, held, self._entry.exchange)
            entry.admit(slot, clock_synced=True)
            entry.result(reading, (), None)

    async def _row(self, number: int) -> None:
        for seq in range(number):
            to_row(seq, self._boot.timeline, self._result)

    async def _digests(self, number: int) -> None:
        row = to_row(1, self._boot.timeline, self._result)
        *columns, _digest = row.result
        bodies = msgspec.structs.astuple(self._result.content)
        for _ in range(number):
            row_digest(columns, row.outputs, content_digest(bodies))

    async def _release(self, number: int) -> None:
        exchange = Exchange(
            self._result.id, self._dialect, self._asked, _nowhere, bytes_max=1 << 30
        )
        await exchange.run(self._engine, self._scope, self._sent, _silent, 600.0)
        receipt = Receipt(id=self._result.id, seq=1, committed_at=0)
        for _ in range(number):
            await exchange.deliver(receipt, None)

    async def _count(self, number: int) -> None:
        for _ in range(number):
            self._metrics.admitted.inc()
        self._metrics.committed.labels("completed").inc(number)

    async def _log(self, number: int) -> None:
        """The line of a committed result, to nowhere, as ``configure_logging`` has it written."""
        result = self._result
        with _logger() as log:
            for _ in range(number):
                log.info(
                    "result_committed",
                    id=result.id,
                    seq=1,
                    endpoint=result.endpoint,
                    status=result.status.value,
                    response_model=result.response_model,
                    output_tokens=result.output_tokens,
                    latency_ms=result.latency_ms,
                    error_type=result.error_type,
                )


def _keys() -> list[Key]:
    """As many as a box with many users has; the last is the caller's."""
    return [
        Key(
            key_id=f"key_{number}",
            name="bench",
            tenant=f"tenant-{number}",
            scopes=(Right.GENERATE, Right.READ_OWN),
            requests_per_minute=1_000_000_000,
            concurrent=1000,
            record_max=RecordLevel.FULL,
            sha256=digest_of(f"tenant-{KEYS - 1 - number}".encode()),
            created_at=0,
            expires_at=1 << 60,
            revoked_at=None,
        )
        for number in range(KEYS)
    ]


@contextmanager
def _logger() -> Iterator[structlog.typing.FilteringBoundLogger]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        before = structlog.get_config()
        configure_logging(LogSection())
        try:
            yield get_logger()
        finally:
            structlog.configure(**before)
            root.handlers, root.level = handlers, level


async def _nowhere(_message: ASGIMessage) -> None:
    """A caller's end that takes everything."""


async def _silent() -> ASGIMessage:
    """A caller that stays."""
    await asyncio.Event().wait()
    raise AssertionError
