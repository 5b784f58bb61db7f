"""What one seed does to a box: callers, trouble, and boot after boot on one file."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import structlog
from support.records import DEVICE, new_database
from support.simulation.seams import InlineReader, NoJsonWorkers, SimulatedThread
from support.simulation.virtual import Clock, VirtualLoop, on_virtual_time

from edge_store import ids, recording
from edge_store.api.gate import Gate
from edge_store.config import Config, DemoSection, EngineSection, RecorderSection, StoreSection
from edge_store.engine import ASGIMessage, Receive, Scope, Send
from edge_store.engine.demo import DemoEngine
from edge_store.errors import EdgeStoreError, EngineCrashed, EngineError, StoreError
from edge_store.observability.metrics import Metrics
from edge_store.recorder import idempotency
from edge_store.recorder.deletions import What
from edge_store.recorder.disk import Disk
from edge_store.result import Boot
from edge_store.retention.deleting import DeleteOld, delete_old
from edge_store.sqlite import Connection, open_reader
from edge_store.stopping import Drain

__all__ = ["Call", "Life", "World"]

BOOT_MAX_S = 300.0  # virtual; a boot that lasts longer hangs
COMMIT_TIMEOUT_S = 2.0
BEAT_S = 0.5
STEPS_S = (-3600.0, -60.0, -0.01, 0.01, 60.0, 3600.0, -1_700_000_000.0)  # the last: no RTC


class PowerIsGone(BaseException):
    """The end of the process, in the middle of whatever it did."""


class Call:
    """One request and what its caller saw, until the crash if there is one."""

    def __init__(self, number: int, chance: random.Random, life: "Life") -> None:
        self.number = number
        self.life = life
        self.at_s = chance.uniform(0, life.lasts_s * 1.1)
        self.stream = chance.random() < 0.5
        marker = chance.choices(
            ("", "[demo:slow=30]", "[demo:error]", "[demo:die]"), (12, 3, 1, 1)
        )[0]
        self.trouble = chance.choices((None, "raises", "refuses", "hangs"), (30, 1, 1, 1))[0]
        self.leaves_after_s = chance.expovariate(2) if chance.random() < 0.15 else None
        self.given_up_after_s = chance.expovariate(2) if chance.random() < 0.03 else None
        self.reads_in_s = chance.choice((0.0, 0.0, 0.001, 0.05))
        self.prompt = f"{number} {marker}"
        self.messages: list[ASGIMessage] = []
        self.has_left = False
        self.was_given_up = False  # by the server, as at its forced end
        self.admitted_at: float | None = None
        self.ended_at: float | None = None  # when the engine was done with it
        self._left = asyncio.Event()
        self._body: bytes | None = json.dumps(
            {"messages": [{"role": "user", "content": self.prompt}], "stream": self.stream}
        ).encode()

    async def receive(self) -> ASGIMessage:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: ASGIMessage) -> None:
        if not (self.has_left or self.life.is_dead):
            self.messages.append(message)
        if self.reads_in_s:
            await asyncio.sleep(self.reads_in_s)

    def leave(self) -> None:
        self.has_left = True
        self._left.set()

    @property
    def headers(self) -> dict[str, str]:
        raw = self.messages[0]["headers"] if self.messages else ()
        return {key.decode(): value.decode() for key, value in raw}

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages if m["type"] == "http.response.body")

    @property
    def is_finished(self) -> bool:
        last = self.messages[-1] if self.messages else {"type": ""}
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    async def run(self, gate: Gate) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.at_s)
        self.life.say(f"request {self.number} arrives")
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"x-number", str(self.number).encode())],
        }
        task = asyncio.ensure_future(gate(scope, self.receive, self.send))
        if self.leaves_after_s is not None:
            loop.call_later(self.leaves_after_s, self.leave)
        if self.given_up_after_s is not None:
            loop.call_later(self.given_up_after_s, task.cancel)
        await asyncio.wait({task})
        self.was_given_up = task.cancelled()
        if not self.was_given_up:
            task.result()  # nothing but an answer may come out of the gate
        self.life.say(f"request {self.number}: {self.status} {len(self.body)} bytes")


class TroubledEngine(DemoEngine):
    """The demo engine; some requests it fails in ways of its own."""

    def __init__(self, config: DemoSection, calls: dict[int, Call], clock: Clock) -> None:
        super().__init__(config)
        self._calls = calls
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        call = self._calls[int(headers[b"x-number"])]
        call.admitted_at = self._clock.now
        try:
            match call.trouble:
                case "raises":
                    raise RuntimeError("the engine has a bug")
                case "refuses":
                    raise EngineError("the engine will not")
                case "hangs":
                    await asyncio.Event().wait()
            await super().__call__(scope, receive, send)
        finally:
            call.ended_at = self._clock.now


class Life:
    """One boot: from its start row to a clean stop or a crash."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.clock = world.clock
        self.chance = random.Random(f"{world.seed} life {number}")
        self.lasts_s = self.chance.uniform(0.2, 6.0)
        self.crashes = self.chance.random() < 0.5
        self.is_dead = False
        self.has_ended = False
        self.failures = 0
        self.last_mark_failed = False  # the last write was one without results, and failed
        self.wrong: list[str] = []  # what was seen to go wrong while it ran
        self.was_slow = False
        self.admitted_upto = 0
        self.crashed_at = 0.0
        self.boot: Boot
        self.connection: Connection
        self.calls: dict[int, Call] = {}
        self.deleted: list[int] = []  # and known to be
        self._outage = (0.0, 0.0)
        if self.chance.random() < 0.3:
            begin = self.clock.now + self.chance.uniform(0, self.lasts_s)
            self._outage = (begin, begin + self.chance.uniform(0.1, 6.0))

    def say(self, what: str) -> None:
        if not self.is_dead:
            self.world.say(what)

    def is_failing(self) -> bool:
        return self._outage[0] <= self.clock.now < self._outage[1]

    async def while_alive(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.is_dead:
            await asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        config = Config(
            store=StoreSection(path=str(self.world.path), disk_reserve_bytes=0),
            engine=EngineSection(timeout_s=4.0),
            recorder=RecorderSection(
                slots=self.chance.choice((2, 8, 64)),
                admission_timeout_s=0.3,
                commit_timeout_s=COMMIT_TIMEOUT_S,
                beat_s=BEAT_S,
                batch_rows_max=self.chance.choice((2, 256)),
            ),
        )
        count = self.chance.randint(1, 60)
        delay = DemoSection(token_delay_ms=self.chance.choice((0.0, 1.0, 20.0)))
        for _ in range(count):
            self.world.requests += 1
            number = self.world.requests
            chance = random.Random(f"{self.world.seed} request {number}")
            self.calls[number] = Call(number, chance, self)
        engine, metrics = TroubledEngine(delay, self.calls, self.clock), Metrics()
        database, disk = SimulatedThread(self), Disk(self.world.path, 0)
        with (
            patch.object(recording, "JsonWorkers", NoJsonWorkers),
            patch.object(idempotency, "DatabaseThread", InlineReader),
        ):
            async with asyncio.timeout(BOOT_MAX_S):
                async with recording.recording(
                    config, disk, self.boot, database, engine, metrics, None
                ) as (recorder, _damaged):
                    recorder.slots.open()
                    gate = Gate(
                        recorder=recorder,
                        engine=engine,
                        ours=engine,  # never asked
                        config=config.server,
                        metrics=metrics,
                    )
                    await self._live(gate, recorder)
        self.has_ended = True

    async def _live(self, gate: Gate, recorder: Any) -> None:
        loop = asyncio.get_running_loop()
        running = [asyncio.ensure_future(call.run(gate)) for call in self.calls.values()]
        deleting = asyncio.ensure_future(self._delete(recorder))
        for _ in range(self.chance.randint(0, 3)):
            loop.call_later(self.chance.uniform(0, self.lasts_s), self._step_clock)
        await asyncio.sleep(self.lasts_s)
        self.admitted_upto = recorder.slots.admitted_upto
        if self.crashes:
            self.say("CRASH")
            self.is_dead = True
            self.crashed_at = self.clock.now
            raise PowerIsGone
        stopping = SimpleNamespace(second=asyncio.Event())
        died: asyncio.Future[EdgeStoreError] = loop.create_future()
        if self.chance.random() < 0.2:  # what the daemon then does, it does in _life
            self.say(f"the engine dies, {recorder.slots.in_flight} in flight")
            died.set_result(EngineCrashed("the engine has died"))
            recorder.slots.close(died.result())
            recorder.abort_all(died.result())
        else:
            self.say(f"SIGTERM, {recorder.slots.in_flight} in flight")
            if self.chance.random() < 0.3:
                loop.call_later(self.chance.uniform(0, 2), stopping.second.set)
        await Drain(recorder, cast("Any", stopping), died, 5.0)()
        await asyncio.wait([*running, deleting])
        for task in (*running, deleting):
            task.result()
        self.admitted_upto = recorder.slots.admitted_upto
        assert recorder.slots.in_flight == 0, "a slot has leaked"

    async def _delete(self, recorder: Any) -> None:
        """What earlier boots have left, in pieces beside this one's results."""
        reader = open_reader(self.world.path)
        seqs = [seq for (seq,) in reader.execute("SELECT seq FROM results ORDER BY seq")]
        reader.close()
        await asyncio.sleep(self.chance.uniform(0, self.lasts_s))
        while seqs:
            count = self.chance.randint(1, 12)
            some, seqs = seqs[:count], seqs[count:]
            try:
                await recorder.change(delete_old, DeleteOld(seqs=tuple(some), what=What.RESULT))
            except StoreError as exc:
                self.say(f"a deletion fails: {type(exc).__name__}")
                await asyncio.sleep(0.1)
            else:
                if not self.is_dead:
                    self.deleted += some
                    self.say(f"{len(some)} deleted")

    def _step_clock(self) -> None:
        self.clock.step_s = self.chance.choice(STEPS_S)
        self.say(f"the wall clock is set, it is off by {self.clock.step_s:g} s")


class World:
    """One box from one seed. ``trace`` says what happened, with no id and no real time in it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.path = folder / "results.db"
        self.clock = Clock()
        self.trace: list[str] = []
        self.requests = 0
        self.lives: list[Life] = []

    def say(self, what: str) -> None:
        self.trace.append(f"{self.clock.now - 1000:9.4f} {what}")

    def live(self) -> Life:
        """One boot; what is left of it is closed as a process's end closes it."""
        life = Life(self, len(self.lives))
        self.lives.append(life)
        with self._heard(), on_virtual_time(self.clock, life.chance):
            life.connection, life.boot = new_database(self.path, DEVICE)
            life.say("boot")
            loop = VirtualLoop(self.clock)
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    runner.run(life.run())
            except* PowerIsGone:
                pass
            finally:
                life.connection.close()
            assert life.is_dead or not loop.unseen, loop.unseen
            ids._uuid7 = ids.Uuid7()
            self.clock.now += life.chance.uniform(0.1, 5.0)
        return life

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """What is logged becomes part of the trace, by the name of its event."""

        def hear(_logger: Any, level: str, event: dict[str, Any]) -> Any:
            if event.get("code") == "database_corrupt":
                self.lives[-1].wrong.append(str(event))
            if level != "info" and not self.lives[-1].is_dead:
                self.say(f"log: {event['event']}")
            raise structlog.DropEvent

        processors = structlog.get_config()["processors"]
        before = list(processors)
        processors[:] = [hear]  # in place: loggers that are in use keep this list
        try:
            yield
        finally:
            processors[:] = before
