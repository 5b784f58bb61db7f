"""Slots against a model: tenants and bodies, whatever order they ask, leave, release, close in."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_store.config import RecorderSection
from edge_store.errors import AdmissionClosed, RecorderFull, TenantOverShare
from edge_store.recorder.slots import HOLD_FACTOR, Hold, Slot, Slots

KIB = 1024
BYTES_MAX = 16 * KIB
tenants = st.sampled_from([None, "key-a", "key-b", "key-c"])
sizes = st.sampled_from([0, 1, KIB, 3 * KIB, 9 * KIB])


class SlotsMachine(RuleBasedStateMachine):
    """The model: what is held, and who waits, tenant by tenant, the next tenant first."""

    @initialize(slots=st.integers(1, 4))
    def begin(self, slots: int) -> None:
        self.runner = asyncio.Runner()
        self.size = slots
        self.slots = Slots(
            RecorderSection(slots=slots, admission_timeout_s=3600, bytes_max=BYTES_MAX)
        )
        self.arriving: list[Hold] = []
        self.held: list[Slot] = []
        self.waiting: list[tuple[str | None, list[tuple[asyncio.Task[Slot], Hold]]]] = []
        self.numbers: list[int] = []
        self.is_open = True
        self.slots.open()

    def settle(self) -> None:
        async def turn() -> None:
            for _ in range(8):  # enough for a wake-up to pass through a task and its timeout
                await asyncio.sleep(0)

        self.runner.run(turn())

    def line(self, tenant: str | None) -> list[tuple[asyncio.Task[Slot], Hold]]:
        return next((line for name, line in self.waiting if name == tenant), [])

    @property
    def number_waiting(self) -> int:
        return sum(len(line) for _, line in self.waiting)

    @property
    def bytes_held(self) -> dict[str | None, int]:
        holds = [*self.arriving, *(slot.hold for slot in self.held)]
        holds += [hold for _, line in self.waiting for _, hold in line]
        held: dict[str | None, int] = {}
        for hold in holds:
            tenant = hold.party.tenant
            held[tenant] = held.get(tenant, 0) + hold.held_bytes
        return held

    def start(self, hold: Hold) -> asyncio.Task[Slot]:
        async def ask() -> Slot:
            with hold:
                return await self.slots.reserve(hold)

        task = self.runner.get_loop().create_task(ask())
        self.settle()
        return task

    def admit_next(self) -> None:
        """A place has come free: the first of the tenant whose turn it is has it."""
        if self.waiting:
            tenant, line = self.waiting.pop(0)
            task, _ = line.pop(0)
            self.admit(task)
            if line:
                self.waiting.append((tenant, line))

    def admit(self, task: asyncio.Task[Slot]) -> None:
        slot = task.result()
        self.held.append(slot)
        self.numbers.append(slot.boot_seq)

    @rule(tenant=tenants, size=sizes)
    def arrive(self, tenant: str | None, size: int) -> None:
        hold = self.slots.hold(tenant)
        self.arriving.append(hold)
        self.grow(hold, size)

    @precondition(lambda self: self.arriving)
    @rule(data=st.data(), size=sizes)
    def arrive_further(self, data: st.DataObject, size: int) -> None:
        self.grow(data.draw(st.sampled_from(self.arriving)), size)

    def grow(self, hold: Hold, size: int) -> None:
        before = self.bytes_held
        tenant, left = hold.party.tenant, BYTES_MAX - sum(before.values())
        try:
            self.slots.grow(hold, size)
        except (RecorderFull, TenantOverShare) as exc:
            assert before[tenant] + size > HOLD_FACTOR * (left - size), "there was room"
            assert hold.held_bytes == before[tenant] - sum(
                other.held_bytes
                for other in self.holds()
                if other is not hold and other.party is hold.party
            ), "a refusal counts nothing"
            if isinstance(exc, TenantOverShare):
                assert len(before) > 1, "who is alone is never over its share"
                assert (before[tenant] + size) * len(before) > BYTES_MAX
            self.arriving.remove(hold)
            self.slots.withdraw(hold)
        else:
            assert sum(before.values()) + size < BYTES_MAX or size == 0
            assert self.bytes_held[tenant] == before[tenant] + size

    def holds(self) -> list[Hold]:
        waiting = [hold for _, line in self.waiting for _, hold in line]
        return [*self.arriving, *(slot.hold for slot in self.held), *waiting]

    @precondition(lambda self: self.arriving)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """The sender leaves in the middle of its body."""
        hold = self.arriving.pop(data.draw(st.integers(0, len(self.arriving) - 1)))
        self.slots.withdraw(hold)

    @precondition(lambda self: self.arriving)
    @rule(data=st.data())
    def reserve(self, data: st.DataObject) -> None:
        hold = self.arriving.pop(data.draw(st.integers(0, len(self.arriving) - 1)))
        tenant = hold.party.tenant
        present = set(self.bytes_held) | {tenant}
        task = self.start(hold)
        mine = len(self.line(tenant))
        if not self.is_open:
            assert isinstance(task.exception(), AdmissionClosed)
        elif len(self.held) < self.size:
            assert self.number_waiting == 0
            self.admit(task)
        elif self.number_waiting < self.size:
            self.wait(tenant, task, hold)
        elif mine + 1 < max(len(line) for _, line in self.waiting):
            self.take_a_place(tenant, task, hold)
        else:
            lengths = [len(self.line(name)) for name in present]
            expected = TenantOverShare if min(lengths) + 1 < mine else RecorderFull
            assert isinstance(task.exception(), expected)

    def wait(self, tenant: str | None, task: asyncio.Task[Slot], hold: Hold) -> None:
        assert not task.done()
        line = self.line(tenant)
        line.append((task, hold))
        if len(line) == 1:
            self.waiting.append((tenant, line))

    def take_a_place(self, tenant: str | None, task: asyncio.Task[Slot], hold: Hold) -> None:
        """The newest of a tenant that waits most has made way."""
        most = max(len(line) for _, line in self.waiting)
        evicted = [line for _, line in self.waiting if len(line) == most and line[-1][0].done()]
        ((gone, _),) = [line.pop() for line in evicted]
        assert isinstance(gone.exception(), TenantOverShare)
        self.wait(tenant, task, hold)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.slots.release(slot)
        self.settle()
        self.admit_next()

    def take_out(self, at: int) -> asyncio.Task[Slot]:
        """One of those that wait leaves the model; its tenant keeps its turn."""
        for tenant, line in self.waiting:
            if at < len(line):
                task, _ = line.pop(at)
                if not line:
                    self.waiting.remove((tenant, line))
                return task
            at -= len(line)
        raise AssertionError(at)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        task = self.take_out(data.draw(st.integers(0, self.number_waiting - 1)))
        task.cancel()
        self.settle()
        assert task.cancelled()

    @precondition(lambda self: self.waiting and self.held)
    @rule(release_first=st.booleans())
    def release_and_leave_at_once(self, release_first: bool) -> None:  # noqa: FBT001
        slot = self.held.pop()
        if release_first:  # it has had its tenant's turn when it leaves
            tenant, line = self.waiting.pop(0)
            first, _ = line.pop(0)
            if line:
                self.waiting.append((tenant, line))
            self.slots.release(slot)
            first.cancel()
        else:
            first = self.take_out(0)
            first.cancel()
            self.slots.release(slot)
        self.settle()
        assert first.cancelled()
        self.admit_next()

    @rule()
    def close(self) -> None:
        reason = AdmissionClosed("stopping")
        self.slots.close(reason)
        self.settle()
        assert all(task.exception() is reason for _, line in self.waiting for task, _ in line)
        self.waiting.clear()
        self.is_open = False

    @rule()
    def open(self) -> None:
        self.slots.open()
        self.is_open = True

    @invariant()
    def every_place_is_accounted_for(self) -> None:
        assert self.slots.in_flight == len(self.held) <= self.size
        assert self.number_waiting <= self.size
        assert self.numbers == list(range(1, len(self.numbers) + 1)), "boot_seq has no holes"
        assert self.slots.admitted_upto == len(self.numbers)

    @invariant()
    def every_byte_is_accounted_for(self) -> None:
        assert self.slots.held_bytes == sum(self.bytes_held.values()) <= BYTES_MAX
        for hold in self.holds():
            assert hold.party.held_bytes == self.bytes_held[hold.party.tenant]

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        assert not self.waiting or len(self.held) == self.size

    @invariant()
    def there_is_room_for_the_body_of_a_newcomer(self) -> None:
        hold = self.slots.hold("key-new")
        share = (BYTES_MAX - self.slots.held_bytes) * HOLD_FACTOR // (HOLD_FACTOR + 1)
        assert share > 0, "whoever came before has left some"
        self.slots.grow(hold, share)
        self.slots.withdraw(hold)

    @invariant()
    def drained_says_whether_any_is_held(self) -> None:
        task = self.runner.get_loop().create_task(self.slots.drained())
        self.settle()
        assert task.done() == (not self.held)
        task.cancel()
        self.settle()

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        for _, line in self.waiting:
            for task, _ in line:
                task.cancel()
        self.settle()
        for slot in self.held:
            self.slots.release(slot)
        for hold in self.arriving:
            self.slots.withdraw(hold)
        assert (self.slots.held_bytes, self.slots.in_flight) == (0, 0)
        assert not self.slots._parties, "nobody is remembered who is gone"
        self.runner.close()


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
