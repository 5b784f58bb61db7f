"""What is to be told outlives the process, a cut line and a full disk; it is bounded."""

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_store.alerts import Alarm, AlarmName, Alarms
from edge_store.alerts import spool as module
from edge_store.alerts.messages import Due, Kind
from edge_store.alerts.room import Alerting, Target, opened
from edge_store.alerts.spool import Spool
from edge_store.config import AlertsSection
from edge_store.observability.metrics import Metrics

URL = "json://127.0.0.1:9/hook"


def add(spool: Spool, kind: Kind = Kind.RAISED, name: AlarmName = AlarmName.DISK_LOW) -> None:
    alarm = Alarm(name=name, since=1, seen=1, message="m", fields={"n": 1})
    spool.add(Due(kind, alarm, 2), "box")
    spool.write(spool.take())


def done(spool: Spool, number: int, target: str) -> None:
    spool.done(number, target)
    spool.write(spool.take())


@contextmanager
def spool_at(folder: Path, *targets: str) -> Iterator[Spool]:
    spool = Spool(folder / "alerts.jsonl", targets)
    spool.open()
    with closing(spool):
        yield spool


def ids(spool: Spool, target: str) -> list[int]:
    return [message.id for message in spool.pending(target)]


def test_message_waits_for_each_target_by_itself_over_restarts(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a", "b") as spool:
        add(spool)
        add(spool, Kind.RESOLVED)
        done(spool, 1, "a")
    for _ in range(2):  # the file as it was left, and as it was written anew
        with spool_at(tmp_path, "a", "b") as spool:
            assert (ids(spool, "a"), ids(spool, "b")) == ([2], [1, 2])
    with spool_at(tmp_path, "b", "new") as spool:
        assert (ids(spool, "b"), ids(spool, "new")) == ([1, 2], [])
        done(spool, 1, "b")
        done(spool, 2, "b")
        assert ids(spool, "b") == []
        assert spool.told[AlarmName.DISK_LOW].kind is Kind.RESOLVED
        add(spool)
        assert ids(spool, "new") == [3]


def test_what_waits_for_a_target_that_is_gone_is_given_up(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a", "b") as spool:
        add(spool)
    with spool_at(tmp_path, "b"):
        pass
    with spool_at(tmp_path, "a", "b") as spool:
        assert (ids(spool, "a"), ids(spool, "b")) == ([], [1])


def test_line_that_was_cut_costs_itself_alone(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a") as spool:
        add(spool)
        add(spool, Kind.REMINDER)
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with spool_at(tmp_path, "a") as spool:
        assert ids(spool, "a") == [1]
        add(spool)
    with spool_at(tmp_path, "a") as spool:
        assert ids(spool, "a") == [1, 2]


def test_line_of_another_version_is_left_out(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a") as spool:
        add(spool)
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(path.read_bytes().replace(b"disk_low", b"disk_odd") + path.read_bytes())
    with capture_logs() as logs, spool_at(tmp_path, "a") as spool:
        assert ids(spool, "a") == [1]
    assert [line["event"] for line in logs] == ["alert_not_read"]


def test_only_the_newest_reminder_waits(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a") as spool:
        add(spool)
        for _ in range(5):
            add(spool, Kind.REMINDER)
            add(spool, Kind.REMINDER, AlarmName.QUEUE_OLD)
        assert ids(spool, "a") == [1, 10, 11]


def test_spool_is_bounded_in_messages_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MESSAGES_MAX", 4)
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 3000)
    with spool_at(tmp_path, "a") as spool, capture_logs() as logs:
        for _ in range(50):
            add(spool)
            assert (tmp_path / "alerts.jsonl").stat().st_size <= 3000
        assert ids(spool, "a") == [47, 48, 49, 50]
    assert [line["event"] for line in logs] == ["alert_dropped"] * 46
    with spool_at(tmp_path, "a") as spool:
        assert ids(spool, "a") == [47, 48, 49, 50]


def test_full_disk_costs_nothing_once_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spool_at(tmp_path, "a") as spool:
        add(spool)
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(module, "_write_all", full)
            add(spool)
            add(spool)
            assert ids(spool, "a") == [1, 2, 3]  # told all the same
        assert [line["event"] for line in logs] == ["alerts_not_spooled"]
        add(spool)
    with spool_at(tmp_path, "a") as spool:
        assert ids(spool, "a") == [1, 2, 3, 4]


def full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_second_process_does_not_get_it(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a") as spool:
        add(spool)
        with pytest.raises(BlockingIOError):
            Spool(tmp_path / "alerts.jsonl", ["a"]).open()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with spool_at(tmp_path, "a"):
        assert (tmp_path / "alerts.jsonl").stat().st_mode & 0o777 == 0o600


@asynccontextmanager
async def boot(
    folder: Path, *urls: str, after_s: float = 0, at: int = 10
) -> AsyncIterator[tuple[Alerting, Alarms]]:
    """One that ends as by a kill, unless it looks. Nothing is sent."""
    alarms = Alarms(Metrics(), lambda: at)
    config = AlertsSection(after_s=after_s, rate_s=0)
    told = await opened(urls, config, folder / "alerts.jsonl", alarms)
    yield told, alarms
    await told.close()


def waiting(folder: Path) -> list[tuple[Kind, int]]:
    key = Target(1, URL).key
    with spool_at(folder, key) as spool:
        return [(message.kind, message.at) for message in spool.pending(key)]


async def test_alarm_of_a_box_without_urls_outlives_a_kill_before_somebody_is_told(
    tmp_path: Path,
) -> None:
    async with boot(tmp_path) as (told, alarms):
        alarms.raise_(AlarmName.QUEUE_OLD, "old")
        await told.look()
    for _ in range(2):
        async with boot(tmp_path, URL):  # killed before it looks
            pass
    async with boot(tmp_path, URL) as (told, alarms):
        assert [alarm.since for alarm in alarms.active] == [10]
        await told.look()
    assert waiting(tmp_path) == [(Kind.RAISED, 10)]


async def test_alarm_that_ends_before_anybody_was_told_of_it_is_told_to_nobody(
    tmp_path: Path,
) -> None:
    async with boot(tmp_path) as (told, alarms):
        alarms.raise_(AlarmName.QUEUE_OLD, "old")
        await told.look()
    async with boot(tmp_path, URL, after_s=60) as (told, alarms):
        alarms.resolve(AlarmName.QUEUE_OLD)
        await told.look()
    async with boot(tmp_path, URL) as (told, alarms):
        assert alarms.active == ()
        await told.look()
    assert waiting(tmp_path) == []


async def test_end_of_an_alarm_while_there_were_no_urls_is_told_once_there_are(
    tmp_path: Path,
) -> None:
    async with boot(tmp_path, URL) as (told, alarms):
        alarms.raise_(AlarmName.QUEUE_OLD, "old")
        await told.look()
    async with boot(tmp_path, at=20) as (told, alarms):
        assert [alarm.since for alarm in alarms.active] == [10]
        alarms.resolve(AlarmName.QUEUE_OLD)
        await told.look()
    async with boot(tmp_path, URL):  # killed before it looks
        pass
    for _ in range(2):
        async with boot(tmp_path, URL) as (told, alarms):
            assert alarms.active == ()
            await told.look()
        assert waiting(tmp_path) == [(Kind.RESOLVED, 20)]
