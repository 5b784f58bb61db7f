"""Slots against a model: whatever order of asking, leaving, releasing and closing."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, RecorderFull
from edge_store.recorder.slots import Slot, Slots


class SlotsMachine(RuleBasedStateMachine):
    """Held slots, and tasks that wait for one in order of arrival."""

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.runner = asyncio.Runner()
        self.size = slots
        self.slots = Slots(RecorderSection(slots=slots, admission_timeout_s=3600))
        self.held: list[Slot] = []
        self.waiting: list[asyncio.Task[Slot]] = []
        self.numbers: list[int] = []
        self.is_open = True
        self.slots.open()

    def settle(self) -> None:
        async def turn() -> None:
            for _ in range(6):  # enough for a wake-up to pass through a task and its timeout
                await asyncio.sleep(0)

        self.runner.run(turn())

    def admit(self, slot: Slot) -> None:
        self.held.append(slot)
        self.numbers.append(slot.boot_seq)

    def start(self) -> asyncio.Task[Slot]:
        task = self.runner.get_loop().create_task(self.slots.reserve())
        self.settle()
        return task

    @rule()
    def reserve(self) -> None:
        task = self.start()
        if not self.is_open:
            assert isinstance(task.exception(), AdmissionClosed)
        elif len(self.held) < self.size:
            self.admit(task.result())
        elif len(self.waiting) < self.size:
            assert not task.done()
            self.waiting.append(task)
        else:
            assert isinstance(task.exception(), RecorderFull)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.slots.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))
        self.settle()
        if self.waiting:
            self.admit(self.waiting.pop(0).result())  # the one that came first

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        task.cancel()
        self.settle()
        assert task.cancelled()

    @precondition(lambda self: self.waiting and self.held)
    @rule(release_first=st.booleans())
    def release_and_leave_at_once(self, release_first: bool) -> None:  # noqa: FBT001
        first = self.waiting.pop(0)
        slot = self.held.pop()
        if release_first:
            self.slots.release(slot)
            first.cancel()
        else:
            first.cancel()
            self.slots.release(slot)
        self.settle()
        assert first.cancelled()
        if self.waiting:
            self.admit(self.waiting.pop(0).result())

    @rule()
    def close(self) -> None:
        reason = AdmissionClosed("stopping")
        self.slots.close(reason)
        self.settle()
        assert all(task.exception() is reason for task in self.waiting)
        self.waiting.clear()
        self.is_open = False

    @rule()
    def open(self) -> None:
        self.slots.open()
        self.is_open = True

    @invariant()
    def every_place_is_accounted_for(self) -> None:
        assert self.slots.in_flight == len(self.held) <= self.size
        assert self.numbers == list(range(1, len(self.numbers) + 1)), "boot_seq has no holes"
        assert self.slots.admitted_upto == len(self.numbers)

    @invariant()
    def drained_says_whether_any_is_held(self) -> None:
        task = self.runner.get_loop().create_task(self.slots.drained())
        self.settle()
        assert task.done() == (not self.held)
        task.cancel()
        self.settle()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for task in self.waiting:
                task.cancel()
            self.settle()
            self.runner.close()


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
