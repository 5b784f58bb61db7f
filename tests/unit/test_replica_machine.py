"""What a head says of its machine moves by whole steps only, and is read by other versions."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from support.replicating import Database, wait_for

from edge_store.ids import DeviceId
from edge_store.replica import machine as machine_module
from edge_store.replica import telling as telling_module
from edge_store.replica.heads import Head, Heads, Proven, read_head
from edge_store.replica.location import parse_location
from edge_store.replica.machine import ClockOffset, Machine, MachineState
from edge_store.replica.objects import Objects
from edge_store.replica.refused import Refusal, device_of_refusal, read_refusal
from edge_store.replica.status import Cause, Confirmed, ReplicaState, ReplicaStatus
from edge_store.replica.telling import Telling
from edge_store.sqlite import DatabaseThread, open_reader

TIB = 2**40
STEP = TIB // 64


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "results.db", "box-1")
    yield database
    database.close()


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(parse_location(f"file://{tmp_path}/replica"), None)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how many steps of the disk are free."""

    def set_to(steps: float) -> None:
        usage = Usage(TIB, 0, int(steps * STEP))
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)

    return set_to


def test_free_space_that_wavers_about_a_step_is_told_as_it_was(
    box: Database, free: Callable[[float], None]
) -> None:
    machine = Machine(box.path, box.boot, ClockOffset())
    told: MachineState | None = None
    for steps, said in ((20.0, 20), (19.9, 20), (20.1, 20), (21.9, 20), (19.01, 20), (18.9, 18),
                        (19.9, 18), (20.1, 20)):  # fmt: skip
        free(steps)
        told = machine.look(told, drill_failed=False)
        assert told is not None
        assert (told.disk_bytes, told.disk_free_bytes) == (TIB, said * STEP)


def test_a_disk_that_cannot_be_measured_keeps_what_was_told(
    box: Database, free: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(box.path, box.boot, ClockOffset())
    free(3)
    told = machine.look(None, drill_failed=False)

    def refuse(_path: Path) -> None:
        raise OSError

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert machine.look(told, drill_failed=False) == told


def test_the_clock_is_told_as_far_off_as_it_is_for_certain(
    box: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = ClockOffset()
    machine = Machine(box.path, box.boot, offset)

    def ahead(put_at: int, back_at: int, stored_at: int) -> int | None:
        monkeypatch.setattr(machine_module, "now_ms", lambda: back_at)
        offset.wrote("a", put_at)
        before = offset.ahead_s
        offset.read("another", 5)
        assert offset.ahead_s == before, "it is not ours"
        offset.read("a", stored_at)
        state = machine.look(None, drill_failed=False)
        assert state is not None
        return state.clock_offset_s

    state = machine.look(None, drill_failed=False)
    assert state is not None
    assert state.clock_offset_s is None, "nothing is known yet"
    assert ahead(1_000_900, 1_001_000, 1_000_000) == 0
    assert offset.ahead_s == 0, "the store cuts the second"
    assert ahead(1_000_000, 1_090_000, 1_080_000) == 0, "it took so long"
    assert ahead(1_100_000, 1_100_500, 1_000_000) == 100
    assert ahead(1_000_000, 1_000_500, 1_100_000) == -100


def test_a_clock_that_drifts_within_a_step_is_told_as_it_was(box: Database) -> None:
    offset = ClockOffset()
    machine = Machine(box.path, box.boot, offset)
    told: MachineState | None = None
    for ahead_s, said in ((4.0, 0), (9.0, 0), (-9.0, 0), (11.0, 10), (1.0, 10), (0.0, 0)):
        offset.ahead_s = ahead_s
        told = machine.look(told, drill_failed=False)
        assert told is not None
        assert told.clock_offset_s == said


async def test_a_head_of_a_later_version_is_read(box: Database, objects: Objects) -> None:
    box.write(1)
    machine = MachineState(disk_bytes=9, disk_free_bytes=3, clock_synced=True)
    head, _ = read_head(box.connection, box.boot, 7, 1)
    head = msgspec.structs.replace(head, machine=machine, proven=Proven(txid="7", seq=1))
    later: dict[str, Any] = json.loads(msgspec.json.encode(head))
    for part in (later, later["machine"], later["proven"]):
        part["of_a_later_version"] = 1
    await objects.put("heads/box-1.json", json.dumps(later).encode())
    heads = Heads(objects, DeviceId("box-1"))
    assert await heads.read() == head
    del later["machine"]
    await objects.put("heads/box-1.json", json.dumps(later).encode())
    earlier = await heads.read()
    assert earlier is not None
    assert earlier.machine is None, "nor does an older box tell of it"


class Teller:
    """A ``Telling`` that looks all the time, and beats when it is told to."""

    def __init__(self, box: Database, objects: Objects, thread: DatabaseThread) -> None:
        machine = Machine(box.path, box.boot, ClockOffset())
        self.telling = Telling(objects, thread, machine, every_s=0.0)
        self.cause: Cause | None = None
        self.txid = 1

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            state=ReplicaState.OK,
            txid=self.txid,
            replicated_txid=self.txid,
            last_synced_at=1,
            lag_s=0.0,
            error=None,
            confirmed=Confirmed(seq=1, txid=self.txid, at=1),
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.telling.run(lambda: self.cause, self.status))
        try:
            await wait_for(holds, "the head or the refusal")
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_an_idle_box_puts_the_same_bytes_while_its_disk_wavers(
    box: Database,
    objects: Objects,
    free: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telling_module, "LOOK_S", 0.01)
    monkeypatch.setattr(telling_module, "HEARTBEAT_S", 0.02)
    box.write(1)
    path = tmp_path / "replica/heads/box-1.json"
    thread = await DatabaseThread.open(lambda: open_reader(box.path))
    teller = Teller(box, objects, thread)

    def put_again() -> Callable[[], bool]:
        before = path.stat().st_mtime_ns
        return lambda: path.stat().st_mtime_ns != before

    def head() -> Head:
        return msgspec.json.decode(path.read_bytes(), type=Head)

    free(20.1)
    await teller.until(path.exists)
    told = path.read_bytes()
    free(19.9)
    await teller.until(put_again())
    assert path.read_bytes() == told
    free(2.5)
    await teller.until(lambda: path.read_bytes() != told)
    machine = head().machine
    assert machine is not None
    assert machine.disk_free_bytes == 2 * STEP
    monkeypatch.setattr(telling_module, "HEARTBEAT_S", 3600.0)
    teller.telling.drill_failure = "its copy has other rows"
    await teller.until(lambda: (found := head().machine) is not None and found.drill_failed)
    await thread.close()


async def test_a_box_without_its_path_leaves_a_refusal_until_it_has_it(
    box: Database, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling_module, "LOOK_S", 0.01)
    box.write(1)
    folder = tmp_path / "replica/heads"
    thread = await DatabaseThread.open(lambda: open_reader(box.path))
    teller = Teller(box, objects, thread)
    teller.cause = Cause.TAKEN
    await teller.until(lambda: bool(list(folder.glob("*.refused"))))
    (left,) = folder.iterdir()
    assert device_of_refusal(left.name) == "box-1"
    found = read_refusal(left.read_bytes())
    assert found is not None
    assert (found.boot_id, found.timeline) == (box.boot.boot_id, box.boot.timeline)
    teller.cause = None
    await teller.until((folder / "box-1.json").exists)
    assert [each.name for each in folder.iterdir()] == ["box-1.json"], "and no refusal"
    await thread.close()


async def test_a_refusal_is_of_its_host_and_not_of_its_boot(
    box: Database, objects: Objects
) -> None:
    await Refusal(objects, box.boot).put()
    await Refusal(objects, msgspec.structs.replace(box.boot, boot_id="another")).put()
    names = list(await objects.list("heads"))
    assert len(names) == 1
    assert device_of_refusal("box-1.json") is None
    assert read_refusal(b"{}") is None
