"""Idempotency and admission against a model: whatever order of asking, answering, failing, leaving
and restarting, over a real database.
"""

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.scripted import (
    DEADLINE_S,
    DONE,
    Caller,
    Recording,
    Told,
    chat_body,
    chat_chunk,
    event,
    recording,
    replay,
)

from edge_store.config import RecorderSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import ClientDisconnected, EdgeStoreError, IdempotencyConflict, RecorderFull
from edge_store.result import Status

TENANTS = st.sampled_from([None, "ann"])
KEYS = st.sampled_from([None, "k1", "k2"])


class Asked(NamedTuple):
    """One request on its way."""

    tenant: str | None
    key: str | None
    body: bytes
    caller: Caller
    task: asyncio.Task[Caller]

    @property
    def name(self) -> tuple[str | None, str | None]:
        return self.tenant, self.key


class Given(NamedTuple):
    """The completed answer of a key."""

    body: bytes
    id: str
    answer: bytes


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ConnectionResetError("the engine died")


class IdempotencyMachine(RuleBasedStateMachine):
    """``running``: the requests that have a run of the engine; ``waiting``: those behind one of
    them, in order of arrival; ``given``: the completed answers.
    """

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "results.db"
        self.slots = slots
        self.runner = asyncio.Runner()
        self.running: list[tuple[Asked, asyncio.Future[Any]]] = []
        self.waiting: list[Asked] = []
        self.given: dict[tuple[str | None, str | None], Given] = {}
        self.statuses: Counter[Status] = Counter()
        self.numbers = 0
        self.start()

    def start(self) -> None:
        self.told = Told()
        self.stopping = asyncio.Event()
        entered: asyncio.Future[Recording] = self.runner.get_loop().create_future()

        async def live() -> None:
            config = RecorderSection(slots=self.slots, admission_timeout_s=0, beat_s=0.05)
            async with recording(self.path, self.told, config=config) as recorder:
                entered.set_result(recorder)
                await self.stopping.wait()

        self.life = self.runner.get_loop().create_task(live())
        self.recording = self.within(entered)

    def within(self, awaited: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(DEADLINE_S):
                return await awaited

        return self.runner.run(bounded())

    def settle(self, *, attached: float) -> None:
        async def turn() -> None:
            while self.recording.counted("attached") < attached:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)

        self.within(turn())

    def leader(self, name: tuple[str | None, str | None]) -> Asked | None:
        return next((asked for asked, _ in self.running if asked.name == name), None)

    def refusal(self, asked: Asked) -> EdgeStoreError:
        self.within(asyncio.wait([asked.task]))
        error = asked.task.exception()
        assert isinstance(error, EdgeStoreError)
        assert asked.caller.messages == []
        return error

    def runs(self, asked: Asked) -> None:
        """It has a run of its own."""
        run = self.within(self.told.begun(len(self.told.runs) + 1))
        self.running.append((asked, run))

    @rule(tenant=TENANTS, key=KEYS, word=st.sampled_from("ab"), stream=st.booleans())
    def ask(self, tenant: str | None, key: str | None, word: str, *, stream: bool) -> None:
        request = {"messages": [{"role": "user", "content": word}], "stream": stream}
        body, caller = json.dumps(request).encode(), Caller()
        headers = [(b"x-api-key", tenant.encode())] if tenant else []
        headers += [(b"idempotency-key", key.encode())] if key else []
        before = self.recording.counted("attached")
        asking = self.recording.ask(body, caller=caller, headers=headers)
        task = self.runner.get_loop().create_task(asking)
        asked = Asked(tenant, key, body, caller, task)
        given = self.given.get(asked.name) if key else None
        leader = self.leader(asked.name) if key else None
        if given is not None and given.body == body:
            self.within(task)
            self.assert_replayed(asked, given)
        elif given is not None or (leader is not None and leader.body != body):
            assert isinstance(self.refusal(asked), IdempotencyConflict)
        elif leader is not None and len(self.waiting) < self.slots:
            self.settle(attached=before + 1)
            self.waiting.append(asked)
        elif leader is not None or len(self.running) == self.slots:
            assert isinstance(self.refusal(asked), RecorderFull)
        else:
            self.runs(asked)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        asked, run = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.numbers += 1
        text = f"answer {self.numbers}"
        if json.loads(asked.body)["stream"]:
            events = [event(chat_chunk(text)), event(chat_chunk(finish="stop")), DONE]
            run.set_result(replay(events, streamed=True))
        else:
            run.set_result(replay([chat_body(text)]))
        self.within(asked.task)
        assert asked.caller.status == 200
        assert text.encode() in asked.caller.body
        assert "idempotency-replayed" not in asked.caller.headers
        self.statuses[Status.COMPLETED] += 1
        if asked.key is None:
            return
        given = Given(asked.body, asked.caller.headers["x-edge-store-id"], asked.caller.body)
        self.given[asked.name] = given
        for other in [w for w in self.waiting if w.name == asked.name]:
            self.within(other.task)
            self.assert_replayed(other, given)
            self.waiting.remove(other)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), leaves=st.booleans())
    def end_without_an_answer(self, data: st.DataObject, *, leaves: bool) -> None:
        asked, run = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if leaves:
            asked.caller.leave()
            self.statuses[Status.INCOMPLETE] += 1
        else:
            run.set_result(broken)
            self.statuses[Status.FAILED] += 1
        self.within(asked.task)
        behind = [w for w in self.waiting if w.name == asked.name]
        if asked.key is not None and behind:
            self.waiting.remove(behind[0])
            self.runs(behind[0])  # the one that came first, in the place that is free now

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def stop_waiting(self, data: st.DataObject) -> None:
        asked = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        asked.caller.leave()
        assert isinstance(self.refusal(asked), ClientDisconnected)

    @rule()
    def restart(self) -> None:
        """What is in flight is cut; what was given stays."""
        tasks = [asked.task for asked in (*self.waiting, *(a for a, _ in self.running))]
        for task in tasks:  # those that wait first: none of them may take a place
            task.cancel()
        if tasks:
            self.within(asyncio.wait(tasks))
        assert all(task.cancelled() for task in tasks)
        self.statuses[Status.CANCELLED] += len(self.running)
        self.waiting.clear()
        self.running.clear()
        self.stop()
        self.start()

    def stop(self) -> None:
        self.stopping.set()
        self.within(self.life)

    def assert_replayed(self, asked: Asked, given: Given) -> None:
        assert asked.caller.headers["idempotency-replayed"] == "true"
        assert asked.caller.headers["x-edge-store-id"] == given.id
        assert asked.caller.body == given.answer

    @invariant()
    def every_run_has_a_slot_and_nothing_else_has(self) -> None:
        assert self.recording.recorder.slots.in_flight == len(self.running) <= self.slots
        assert not any(asked.task.done() for asked in self.waiting)
        assert not any(run.done() for _, run in self.running)

    @invariant()
    def every_outcome_is_one_row(self) -> None:
        stored = self.recording.stored()
        assert Counter(r.result.status for r in stored) == +self.statuses
        done = Counter(
            (r.result.tenant, r.result.idempotency_key_hash)
            for r in stored
            if r.result.status is Status.COMPLETED and r.result.idempotency_key_hash
        )
        assert len(done) == len(self.given)
        assert all(count == 1 for count in done.values()), "a key is answered once"

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for asked in (*self.waiting, *(asked for asked, _ in self.running)):
                asked.task.cancel()
            self.stop()
            self.runner.close()
            shutil.rmtree(self.directory)


TestIdempotencyMachine = IdempotencyMachine.TestCase
TestIdempotencyMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
