"""A disk that runs low: what is given up, in which order, and that it comes back."""

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs
from support.daemon import Box, until
from support.disks import small_disk_at
from support.faults import Faults, faulty
from support.records import make_result
from support.scripted import DEADLINE_S, chat_body, read_results, recording, replay

from edge_store.chain import verify_chain
from edge_store.config import RecorderSection
from edge_store.errors import DiskFull
from edge_store.ids import DeviceId
from edge_store.recorder.disk import Disk, DiskLevel
from edge_store.replica.kept import Kept, keep_copy
from edge_store.replica.points import Txid
from edge_store.sqlite import driver, open_reader

RESERVE = 1000


class Room:
    """What ``shutil.disk_usage`` says is free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def usage(self, _folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=self.free)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    found = Room(RESERVE)
    monkeypatch.setattr(shutil, "disk_usage", found.usage)
    return found


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (1000, DiskLevel.OK),
        (999, DiskLevel.NO_SEARCH),
        (750, DiskLevel.NO_SEARCH),
        (749, DiskLevel.NO_BODIES),
        (500, DiskLevel.NO_BODIES),
        (499, DiskLevel.REFUSING),
        (0, DiskLevel.REFUSING),
    ],
)
def test_each_step_has_its_threshold(
    tmp_path: Path, room: Room, free: int, level: DiskLevel
) -> None:
    disk = Disk(tmp_path / "results.db", RESERVE)
    room.free = free
    shortage = disk.shortage()
    assert disk.level is level
    assert isinstance(shortage, DiskFull) is (level is DiskLevel.REFUSING)


def test_the_search_index_goes_first_and_what_it_frees_counts(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("search.db", "search.db-wal", "search.db-shm", "results.db")
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 300)
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda folder: SimpleNamespace(free=1200 - 100 * len([*folder.iterdir()])),
    )
    disk = Disk(tmp_path / "results.db", RESERVE)
    assert room.free
    with capture_logs() as logs:
        assert disk.check() == 1100
    assert disk.level is DiskLevel.OK
    assert [path.name for path in tmp_path.iterdir()] == ["results.db"]
    ((event, dropped),) = [(line["event"], line["bytes"]) for line in logs]
    assert (event, dropped) == ("search_index_dropped", 900)


def test_the_copy_of_a_drill_goes_before_the_search_index(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(
        location="", device_id=DeviceId("a"), timeline=None, txid=Txid(1), witnesses=(), full_s=0
    )
    (tmp_path / "new.db").write_bytes(b"x" * 300)
    database = tmp_path / "results.db"
    keep_copy(database, tmp_path / "new.db", kept)
    (tmp_path / "search.db").write_bytes(b"")
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda folder: SimpleNamespace(free=1100 - 100 * len([*folder.iterdir()])),
    )
    assert room.free
    with capture_logs() as logs:
        Disk(database, RESERVE).check()
    assert [path.name for path in tmp_path.iterdir()] == ["search.db"]
    assert [line["event"] for line in logs] == ["drill_copy_dropped"]


def test_each_change_is_told_once(tmp_path: Path, room: Room) -> None:
    disk = Disk(tmp_path / "results.db", RESERVE)
    with capture_logs() as logs:
        for room.free in (2000, 900, 900, 100, 100, 2000, 2000):
            disk.check()
    assert [(line["level"], line["log_level"]) for line in logs] == [
        (1, "error"),
        (3, "error"),
        (0, "warning"),
    ]


async def test_bodies_are_left_out_then_requests_refused_and_both_come_back(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.scripted.Disk", lambda path, _reserve: Disk(path, RESERVE))
    path = tmp_path / "results.db"
    config = RecorderSection(beat_s=0.02)

    async with recording(path, replay([chat_body("hello")]), config=config) as running:
        disk = running.writer._disk

        async def until_level(level: DiskLevel) -> None:
            async with asyncio.timeout(DEADLINE_S):
                while disk.level is not level:  # noqa: ASYNC110  (no event)
                    await asyncio.sleep(0.005)

        assert (await running.ask()).status == 200
        room.free = 600
        await until_level(DiskLevel.NO_BODIES)
        assert (await running.ask()).status == 200
        room.free = 100
        await until_level(DiskLevel.REFUSING)
        with pytest.raises(DiskFull):
            await running.ask()
        room.free = 5000
        async with asyncio.timeout(DEADLINE_S):
            while running.recorder.slots.closed is not None:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0.005)
        assert (await running.ask()).status == 200

    whole, bare, again = (recorded.result for recorded in read_results(path))
    for result in (whole, again):
        assert result.content.request_body
        assert result.content.response_body
        assert result.error_type is None
    assert (bare.content.input_text, bare.content.request_body) == (None, b"")
    assert bare.content.response_body == b""
    assert (bare.status, bare.error_type) == ("completed", "content_not_recorded")
    assert bare.outputs == whole.outputs, "the answer itself is kept"
    reader = open_reader(path)
    try:
        assert verify_chain(reader).faults == ()
    finally:
        reader.close()


async def test_a_full_disk_met_by_a_commit_is_looked_at_at_once(
    tmp_path: Path, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.scripted.Disk", lambda path, _reserve: Disk(path, RESERVE))
    faults = Faults(driver.SQLITE_FULL, at=1, lasting=True)
    config = RecorderSection(beat_s=60)  # no look but the first, and this one
    path = tmp_path / "results.db"
    script = replay([chat_body("hello")])
    async with recording(path, script, config=config, connected=faulty(faults)) as running:
        assert (await running.ask()).status == 200
        before = running.writer._disk.level
        room.free, faults.is_armed = 0, True
        slot = await running.recorder.slots.reserve()
        with pytest.raises(DiskFull):
            await running.writer.submit(make_result(slot.boot_seq, running.boot.boot_id), slot)
        assert (before, running.writer._disk.level) == (DiskLevel.OK, DiskLevel.REFUSING)
        faults.mend()


def test_first_request_after_a_start_on_a_low_disk_is_refused(tmp_path: Path) -> None:
    reserve = 4 * shutil.disk_usage(tmp_path).free
    box = Box.init(tmp_path / "box")
    daemon = box.serve(STORE__DISK_RESERVE_BYTES=str(reserve), RECORDER__BEAT_S="60")
    daemon.start()
    try:
        daemon.url = daemon.logged("http_listening")["url"]
        daemon.logged("engine_ready")
        refused = daemon.chat("too early")
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
        ready = daemon.get("/readyz").json()
        assert (ready["admission"]["code"], ready["disk"]["level"]) == ("disk_full", 3)
        assert daemon.stop() == 0
    finally:
        daemon.end()
    assert box.scalar("SELECT count(*) FROM results") == 0


def test_daemon_shows_the_step_it_is_at(tmp_path: Path) -> None:
    with small_disk_at(tmp_path / "disk", "64m") as disk:  # that of the machine others fill, too
        free = shutil.disk_usage(disk).free
        box = Box.init(disk / "box")
        with box.serve(STORE__DISK_RESERVE_BYTES=str(round(free / 0.62))) as daemon:
            (box.directory / "search.db").write_bytes(b"x")
            until(lambda: daemon.get("/readyz").json()["disk"]["level"] == 2, "a beat has come")
            until(lambda: not (box.directory / "search.db").exists(), "the index is dropped")
            assert daemon.metrics()["edge_store_disk_level"] == 2
            assert daemon.chat("still taken").status_code == 200
            assert daemon.stop() == 0
        assert box.scalar("SELECT error_type FROM results") == "content_not_recorded"
        box.proven()
