"""Engines that replay a script, a caller that keeps what it is sent, and a recorder over a real
database between them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from support.records import new_database

from edge_store.api.routes import GENERATING
from edge_store.config import PrivacySection, RecorderSection, RepairSection
from edge_store.engine import AlwaysUp, ASGIMessage, Receive, Scope, Send
from edge_store.ids import ResultId
from edge_store.jsonrepair import JsonWorkers
from edge_store.observability.metrics import Metrics
from edge_store.recorder.app import Recorder
from edge_store.recorder.batch import read_head
from edge_store.recorder.disk import Disk
from edge_store.recorder.idempotency import Idempotency
from edge_store.recorder.slots import Slots
from edge_store.recorder.waits import Replicating, Waits
from edge_store.recorder.writer import Writer
from edge_store.result import Boot, Recorded
from edge_store.rows import load_recorded
from edge_store.sqlite import Connection, DatabaseThread, open_reader, open_writer

Script = Callable[[Scope, Receive, Send], Awaitable[None]]

CHAT = "/v1/chat/completions"
DEADLINE_S = 60.0


class ScriptedEngine(AlwaysUp):
    """An engine that does what its script says, and remembers what it was told."""

    name = "demo"
    version = "0"
    model: str | None = None

    def __init__(self, script: Script, *, takes_rid: bool = True) -> None:
        self.takes_rid = takes_rid
        self.aborted: list[ResultId] = []
        self.bodies: list[bytes] = []
        self.scopes: list[Scope] = []
        self.called = asyncio.Event()
        self._script = script

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        return

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.bodies.append((await receive())["body"])
        self.called.set()
        await self._script(scope, receive, send)

    def abort(self, result_id: ResultId) -> None:
        self.aborted.append(result_id)

    async def is_ready(self) -> bool:
        return True


def replay(
    chunks: Iterable[bytes],
    *,
    streamed: bool = False,
    status: int = 200,
    then: Script | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
    kind: bytes | None = None,
) -> Script:
    """Answer with these bytes, cut like this; ``then`` goes on in place of the end. ``kind``: the
    content type, where ``streamed`` does not say it.
    """
    kind = kind or (b"text/event-stream; charset=utf-8" if streamed else b"application/json")

    async def script(scope: Scope, receive: Receive, send: Send) -> None:
        given = [(b"content-type", kind), *headers]
        await send({"type": "http.response.start", "status": status, "headers": given})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if then is not None:
            await then(scope, receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return script


class Told:
    """A script whose runs go on when they are told how, one by one."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[Script]] = []
        self._begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        run: asyncio.Future[Script] = asyncio.get_running_loop().create_future()
        self.runs.append(run)
        self._begun.set()
        script = await run
        await script(scope, receive, send)

    async def begun(self, number: int) -> asyncio.Future[Script]:
        """Wait until so many runs have begun: the last of them."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.runs) < number:
                self._begun.clear()
                await self._begun.wait()
        return self.runs[number - 1]


def event(value: Any, newline: bytes = b"\n") -> bytes:
    """One server-sent event of this JSON."""
    return b"data: " + json.dumps(value).encode() + newline * 2


def chat_chunk(text: str | None = None, *, index: int = 0, finish: str | None = None) -> Any:
    """One chunk of a streamed chat."""
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "engine", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def chat_body(text: str, *, finish: str = "stop") -> bytes:
    """A whole plain chat answer."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return json.dumps({"id": "engine", "model": "m", "choices": [choice], "usage": usage}).encode()


DONE = b"data: [DONE]\n\n"


class Caller:
    """The HTTP server's side of one request."""

    def __init__(self) -> None:
        self.messages: list[ASGIMessage] = []
        self.got = asyncio.Event()
        self._left = asyncio.Event()

    async def receive(self) -> ASGIMessage:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: ASGIMessage) -> None:
        self.messages.append(message)
        self.got.set()

    def leave(self) -> None:
        self._left.set()

    async def wait_for(self, what: bytes) -> None:
        """Until ``what`` is in the body."""
        async with asyncio.timeout(DEADLINE_S):
            while what not in self.body:
                self.got.clear()
                await self.got.wait()

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages if m["type"] == "http.response.body")

    @property
    def is_finished(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body") is False


class Recording:
    """A recorder with its writer over a real file."""

    def __init__(
        self,
        path: Path,
        engine: ScriptedEngine,
        recorder: Recorder,
        writer: Writer,
        boot: Boot,
        metrics: Metrics,
    ) -> None:
        self.path = path
        self.engine = engine
        self.recorder = recorder
        self.writer = writer
        self.boot = boot
        self.metrics = metrics

    def counted(self, name: str) -> float:
        """The value of a counter without labels."""
        return self.metrics.registry.get_sample_value(f"edge_store_{name}_total") or 0.0

    async def ask(
        self,
        request: dict[str, Any] | bytes | None = None,
        *,
        path: str = CHAT,
        caller: Caller | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> Caller:
        """Send one request and wait for its end."""
        if request is None:
            request = {"messages": [{"role": "user", "content": "hello"}]}
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        caller = caller or Caller()
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": [*headers]}
        async with asyncio.timeout(DEADLINE_S):
            await self.recorder.record(GENERATING[path], scope, body, caller.receive, caller.send)
        return caller

    def stored(self) -> list[Recorded]:
        """Every result in the file, in order."""
        return read_results(self.path)


def read_results(path: Path) -> list[Recorded]:
    """Every result in the file, in order."""
    reader = open_reader(path)
    try:
        return list(load_recorded(reader, reader.execute("SELECT * FROM results ORDER BY seq")))
    finally:
        reader.close()


@asynccontextmanager
async def recording(
    path: Path,
    script: Script,
    *,
    config: RecorderSection | None = None,
    engine_timeout_s: float = DEADLINE_S,
    connected: Callable[[Connection], Any] = lambda connection: connection,
    takes_rid: bool = True,
    json_workers: JsonWorkers | None = None,
    privacy: PrivacySection | None = None,
    replica: Replicating | None = None,
) -> AsyncIterator[Recording]:
    """``connected`` may wrap or adjust the writer's connection."""
    boots: list[Boot] = []

    def connect() -> Connection:
        if boots:  # after an I/O error
            return connected(open_writer(path))  # type: ignore[no-any-return]  # as below
        connection, boot = new_database(path)
        boots.append(boot)
        return connected(connection)  # type: ignore[no-any-return]  # a stand-in of the same shape

    config = config or RecorderSection(beat_s=0.05)
    database = await DatabaseThread.open(connect)
    try:
        metrics, slots = Metrics(), Slots(config)
        head = await database.run(read_head)
        writer = Writer(database, boots[0], head, slots, Disk(path, 0), config, metrics)
        engine = ScriptedEngine(script, takes_rid=takes_rid)
        waits = Waits(replica, 60.0, config.slots, metrics)
        idempotency = Idempotency(path, config, engine_timeout_s, metrics)
        recorder = Recorder(
            engine=engine,
            engine_timeout_s=engine_timeout_s,
            slots=slots,
            writer=writer,
            json_workers=json_workers or JsonWorkers(RepairSection()),
            idempotency=idempotency,
            boot=boots[0],
            config=config,
            metrics=metrics,
            privacy=privacy,
            waits=waits,
        )
        slots.open()
        async with asyncio.timeout(2 * DEADLINE_S), idempotency, asyncio.TaskGroup() as tasks:
            tasks.create_task(writer.run())
            waited = tasks.create_task(waits.run())
            try:
                yield Recording(path, engine, recorder, writer, boots[0], metrics)
            finally:
                writer.close()
                waited.cancel()
    finally:
        await database.close()
