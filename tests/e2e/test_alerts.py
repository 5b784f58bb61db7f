"""Alarms reach a person: by web hook and by mail, over dead networks, crashes and hung servers."""

import asyncio
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from support.daemon import Box, DaemonProcess, until
from support.receiving import DEADLINE_S, PATIENCE, hook, hook_url
from support.records import make_result, new_database
from support.s3server import free_port

from edge_store.alerts import Alarm, AlarmName, Alarms
from edge_store.alerts import room as module
from edge_store.alerts.messages import Due, Kind
from edge_store.alerts.room import Alerting, alerting
from edge_store.alerts.spool import Spool
from edge_store.config import AlertsSection
from edge_store.errors import EngineCrashed
from edge_store.ids import DeviceId
from edge_store.observability.metrics import Metrics
from edge_store.recorder.batch import read_head, write_batch

AT_ONCE = {"ALERTS__AFTER_S": "0"}
DISK_IS_LOW = {"STORE__DISK_RESERVE_BYTES": str(2**60)}
HUNG_S = 3600  # a server that says nothing would be waited for so long


class Mails:
    """What a mail server took."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  (aiosmtpd's)
        self.taken.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@contextmanager
def mail_server() -> Iterator[tuple[Mails, str]]:
    """One that takes mails, and the apprise URL of it."""
    mails = Mails()
    controller = Controller(mails, hostname="127.0.0.1", port=free_port(), ready_timeout=DEADLINE_S)
    controller.start()
    try:
        place = f"127.0.0.1:{controller.port}"
        yield mails, f"mailto://{place}?from=box@example.com&to=ops@example.com&{PATIENCE}"
    finally:
        controller.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """It takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_test_message_goes_to_every_url_and_says_what_came_of_it(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    dead = f"jsons://user:sesame-open@127.0.0.1:{free_port()}/hidden-path"
    with hook() as web, mail_server() as (mails, mail_url):
        urls = f"{web.url}\n{mail_url}\n{dead}\nnonsense://whatever-else"
        done = box.run("alerts", "test", "--config", str(box.directory), ALERT_URLS=urls)
    assert done.returncode == 1
    first, second, third, fourth = done.stdout.splitlines()
    assert first == "1 json (JSON): sent"
    assert second == "2 mailto (E-Mail): sent"
    assert third.startswith("3 jsons (JSON): ")
    assert "refused" in third
    assert fourth.startswith("4 nonsense")
    for secret in ("sesame-open", "hidden-path", "whatever-else"):
        assert secret not in done.stdout + done.stderr
    assert web.titles == ["test"]
    assert [str(mail["subject"]).partition("] ")[2] for mail in mails.taken] == ["test"]


def test_running_daemon_sends_the_test_to_its_own_urls_and_shows_none(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with hook() as web:
        (tmp_path / "alert-urls").write_text(f"# the hook\n{web.url}\n")
        credentials = {**box.environ, "CREDENTIALS_DIRECTORY": str(tmp_path)}
        with DaemonProcess(box, credentials) as daemon:
            done = box.run("alerts", "test", "--config", "box")
            shown = daemon.get("/readyz").text + daemon.output()
    assert (done.returncode, done.stdout) == (0, "1 json (JSON): sent\n"), done.stderr
    assert web.titles == ["test"]
    assert "secret-path" not in shown


def test_box_without_urls_has_alarms_and_loads_nothing_for_them(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", **AT_ONCE, **DISK_IS_LOW)
    daemon = box.serve()
    try:
        daemon.start()  # it refuses requests for want of room, and so is not ready
        daemon.url = str(daemon.logged("http_listening")["url"])
        daemon.logged("alarm_raised")
        assert daemon.metrics()['edge_store_alarm{name="disk_low"}'] == 1
        first = daemon.get("/readyz").json()["alarms"][0]
        until(
            lambda: daemon.get("/readyz").json()["alarms"][0]["seen"] > first["seen"],
            "it is looked at again",
        )
        (alarm,) = daemon.get("/readyz").json()["alarms"]
        port = {"SERVER__PORT": daemon.url.rpartition(":")[2]}
        shown = {
            name: box.run(name, "--config", "box", **port).stdout for name in ("status", "doctor")
        }
        counted = daemon.metrics()
        listed = box.run("alerts", "ls", "--config", "box", "--csv")
        tried = box.run("alerts", "test", "--config", "box")
    finally:
        daemon.end()
    assert (alarm["name"], alarm["since"]) == ("disk_low", first["since"])
    assert counted['edge_store_alarm_since_seconds{name="disk_low"}'] == alarm["since"] / 1000
    assert counted['edge_store_alarm_seen_seconds{name="disk_low"}'] >= alarm["seen"] / 1000
    assert all("last seen 20" in text for text in shown.values()), shown
    assert listed.returncode == 1
    assert listed.stdout.splitlines()[0] == "alarm,since,seen,message"
    assert listed.stdout.splitlines()[1].startswith("disk_low,")
    assert "nobody is told" in listed.stderr
    assert tried.returncode == 1
    assert "no alert URLs" in tried.stderr


def test_alarm_of_retention_stands_over_a_kill_until_a_pass_is_good(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.touch()  # where its folder should be
    box = Box.init(tmp_path / "box", RETENTION__KEEP_DAYS="1e-9", RETENTION__ARCHIVE=str(archive),
                   **AT_ONCE)  # fmt: skip
    soon = {"RETENTION__INTERVAL_S": "1"}

    def raised(daemon: DaemonProcess) -> Any:
        return daemon.get("/readyz").json()["alarms"]

    with box.serve(**soon) as daemon:
        assert daemon.chat("put away").status_code == 200
        (alarm,) = until(lambda: raised(daemon), "a pass has failed")
        spool = tmp_path / "box/alerts.jsonl"
        until(lambda: "retention_failing" in spool.read_text(), "it is kept")
        daemon.kill()
    with box.serve() as daemon:  # whose first pass is not due yet
        (known,) = raised(daemon)
        assert (known["name"], known["since"]) == ("retention_failing", alarm["since"])
        daemon.kill()
    archive.unlink()
    with hook() as web:
        with box.serve(ALERT_URLS=web.url, **soon) as daemon:  # somebody is to be told now
            assert web.wait(2) == ["retention_failing: raised", "retention_failing: resolved"]
            assert raised(daemon) == []
            daemon.kill()
        with box.serve() as daemon:
            assert raised(daemon) == []


BY_TIME = {
    AlarmName.RESULTS_LOST
}  # a loss is over at once: its alarm stands for an hour, by design


def test_every_alarm_of_a_boot_before_ends_where_what_it_is_of_is_off(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", **AT_ONCE)  # no replica, sinks, retention, queue or drill
    names = {name for name in AlarmName if not name.is_of_fleet}
    path = tmp_path / "box/alerts.jsonl"
    spool = Spool(path, ())
    spool.open()
    for name in sorted(names):
        alarm = Alarm(name=name, since=1, seen=1, message="of a boot before", fields={})
        spool.add(Due(Kind.RAISED, alarm, 1), "box")
    spool.write(spool.take())
    spool.close()
    with box.serve() as daemon:
        for number in range(1, len(names - BY_TIME) + 1):
            daemon.logged("alarm_resolved", number=number)
        over = [line["alarm"] for line in daemon.log if line.get("event") == "alarm_resolved"]
        assert sorted(over) == sorted(names - BY_TIME)
        assert {each["name"] for each in daemon.get("/readyz").json()["alarms"]} == BY_TIME
        assert daemon.stop() == 0
    spool.open()  # nor does the next boot know them
    with closing(spool):
        assert {message.alarm for message in spool.standing} == BY_TIME


def test_message_spooled_offline_is_sent_after_sigkill_once_and_in_order(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", **AT_ONCE)
    port = free_port()
    url = hook_url(port)
    daemon = box.serve(ALERT_URLS=url, **DISK_IS_LOW)
    try:
        daemon.start()
        daemon.logged("alert_not_delivered")  # so it is on the disk
        daemon.kill()
        assert "secret-path" not in daemon.output()
    finally:
        daemon.end()
    with hook(port) as web:
        with box.serve(ALERT_URLS=url) as daemon:
            assert web.wait(2) == ["disk_low: raised", "disk_low: resolved"]
            daemon.logged("alert_delivered", number=2)
            assert daemon.stop() == 0
        assert len(web.taken) == 2
    assert web.taken[0]["type"] == "failure"
    assert web.taken[1]["type"] == "success"
    spooled = (tmp_path / "box/alerts.jsonl").read_text()
    assert "secret-path" not in spooled


def test_server_that_hangs_holds_up_neither_requests_nor_others_nor_the_stop(
    tmp_path: Path,
) -> None:
    box = Box.init(tmp_path / "box", **AT_ONCE)
    # low, but nothing is refused, as long as others neither free nor take a third of the disk
    reserve = str(int(1.4 * shutil.disk_usage(tmp_path).free))
    with silent_server() as port, mail_server() as (mails, mail_url):
        hung = f"mailto://127.0.0.1:{port}?from=box@example.com&to=ops@example.com&rto={HUNG_S}"
        settings = {"ALERT_URLS": f"{hung}\n{mail_url}", "STORE__DISK_RESERVE_BYTES": reserve}
        with box.serve(**settings) as daemon:
            delivered = daemon.logged("alert_delivered")  # a stop would cut what is not told yet
            assert daemon.chat("hello").status_code == 200
            assert daemon.stop() == 0, "within its deadline, which HUNG_S is beyond"
    assert delivered["target"] == "2 mailto"
    assert "disk_low: raised" in str(mails.taken[0]["subject"])


def test_damage_at_the_start_is_told_though_no_start_follows(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        assert daemon.stop() == 0
    box.database.write_bytes(b"not a database" + 100_000 * b"x")
    with hook() as web:
        daemon = box.serve(ALERT_URLS=web.url)
        try:
            daemon.start()
            assert daemon.wait() == 65
        finally:
            daemon.end()
        assert web.titles == ["chain_broken: raised"]


def test_daemon_watches_its_engine_its_queue_its_failures_and_its_boots(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", ALERTS__QUEUE_AGE_S="0.001")
    connection, boot = new_database(box.database, DeviceId(""))  # the id that it has
    write_batch(connection, boot, read_head(connection), 2, [make_result(1, boot.boot_id)])
    connection.close()
    upstream = {
        "ENGINE__KIND": "upstream",
        "ENGINE__UPSTREAM__BASE_URL": f"http://127.0.0.1:{free_port()}",
    }
    daemon = box.serve(**upstream)
    try:
        daemon.start()
        daemon.url = str(daemon.logged("http_listening")["url"])
        until(lambda: daemon.chat("hello").status_code == 502, "it admits")
        for _ in range(20):
            daemon.chat("hello")
        body = {"model": "m", "messages": [{"role": "user", "content": "later"}]}
        later = {"Prefer": "respond-async"}
        queued = daemon.post("/v1/chat/completions", json=body, headers=later)
        assert queued.status_code == 202, queued.text
        wanted = {"incomplete", "requests_failing", "queue_old", "engine_down"}

        def raised() -> set[str]:
            return {alarm["name"] for alarm in daemon.get("/readyz").json()["alarms"]}

        until(lambda: raised() == wanted, "these are raised")
    finally:
        daemon.end()


async def test_death_of_the_engine_is_told_before_the_daemon_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_S", DEADLINE_S)
    alarms = Alarms(Metrics())
    with hook() as web:
        monkeypatch.setenv("EDGE_STORE_ALERT_URLS", web.url)
        with pytest.raises(EngineCrashed):
            async with alerting(AlertsSection(), tmp_path / "results.db", alarms):
                raise EngineCrashed("the scheduler has died")
        assert web.titles == ["engine_down: raised"]
        assert "the scheduler has died" in web.taken[0]["message"]


def slow_disk(*arguments: Any) -> ThreadPoolExecutor:
    """What comes waits behind something else."""
    made = ThreadPoolExecutor(*arguments)
    made.submit(time.sleep, 0.3)
    return made


@pytest.mark.parametrize("last_words_s", [0.5, 0.0])
async def test_last_words_have_an_end_and_stay_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_words_s: float
) -> None:
    monkeypatch.setattr(module, "ThreadPoolExecutor", slow_disk)
    monkeypatch.setattr(module, "LAST_WORDS_S", last_words_s)
    alarms = Alarms(Metrics())
    with silent_server() as port:
        monkeypatch.setenv("EDGE_STORE_ALERT_URLS", f"json://127.0.0.1:{port}?rto={HUNG_S}")
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(EngineCrashed):
                async with alerting(AlertsSection(), tmp_path / "results.db", alarms):
                    raise EngineCrashed("the scheduler has died")
    assert "engine_down" in (tmp_path / "alerts.jsonl").read_text()


async def test_quiet_hours_hold_what_is_not_urgent_until_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    at = [1_800_057_600_000]  # 2027-01-16T00:00Z
    config = AlertsSection(quiet_hours="22:00-07:00", timezone="UTC", after_s=0)
    alarms = Alarms(Metrics(), lambda: at[0])
    with hook() as web:
        target = module.Target(1, web.url)
        spool = Spool(tmp_path / "alerts.jsonl", [target.key])
        told = Alerting(alarms, spool, (target,), config, lambda: at[0])
        running = asyncio.ensure_future(told.run())
        try:
            alarms.raise_(AlarmName.QUEUE_OLD, "at night")
            alarms.raise_(AlarmName.ENGINE_DOWN, "at night")
            await asyncio.to_thread(web.wait, 1)
            await asyncio.to_thread(until, lambda: told.state[0].waiting == 1, "one waits")
            at[0] += 7 * 3600 * 1000
            await asyncio.to_thread(web.wait, 2)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await told.close()
    assert web.titles == ["engine_down: raised", "queue_old: raised"]
    assert "or it was quiet" in web.taken[1]["message"]
