"""The daemon with its Litestream and an S3 server: what was acknowledged is in the replica, whoever
dies meanwhile.
"""

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, proven, rows, until
from support.flakyproxy import FlakyProxy
from support.load import Load
from support.s3server import BUCKET, S3Server

MIB = 1 << 20
CATCH_UP_S = 120.0  # Litestream's pauses between attempts grow with the outage


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        yield server


def replicated_box(s3: S3Server, directory: Path, device_id: str = "box-1") -> Box:
    box = Box.init(
        directory, "--engine", "demo", "--device-id", device_id,
        REPLICA__ENABLED="true", REPLICA__URL=s3.url("fleet"),
    )  # fmt: skip
    box.environ.update(s3.environ)
    return box


def contents(database: Path) -> list[tuple[Any, ...]]:
    """What makes two files the same to their reader."""
    return [
        *rows(database, "SELECT seq, id, digest FROM results ORDER BY seq"),
        *rows(database, "SELECT commit_id, digest FROM commits ORDER BY commit_id"),
        *rows(database, "SELECT boot_id, event FROM boots ORDER BY boot_id, event"),
    ]


def restored(box: Box, to: Path) -> Path:
    """By the command, right now."""
    done = box.run("replica", "restore", "--config", str(box.directory), "--to", str(to))
    assert done.returncode == 0, done.stderr
    assert f"{box.scalar('SELECT count(*) FROM results')} results" in done.stdout
    proven(to)
    return to


def litestream_process(daemon: DaemonProcess, number: int = 1) -> int:
    return int(daemon.logged("litestream_started", number=number)["process_id"])


def newest_litestream(daemon: DaemonProcess) -> int:
    """One that does not get ready in time is started again."""
    started = [line for line in daemon.log if line["event"] == "litestream_started"]
    return int(started[-1]["process_id"])


def has_ended(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def lag_s(daemon: DaemonProcess) -> float:
    """As of the last look at the replica: right after a commit it may be 0 still."""
    return daemon.metrics()["edge_store_replica_lag_seconds"]


def wait_replicated(daemon: DaemonProcess, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the newest result is in the replica, and the lag says so."""
    newest = daemon.box.scalar("SELECT id FROM results ORDER BY seq DESC LIMIT 1")

    def state() -> Any:
        return daemon.get(f"/v1/results/{newest}/receipt").json()["replicated"]["state"]

    until(lambda: state() == "replicated" and lag_s(daemon) == 0, "it is replicated", deadline_s)


def test_clean_stop_ships_the_last_commit_and_a_restart_uploads_little(
    s3: S3Server, tmp_path: Path
) -> None:
    box = replicated_box(s3, tmp_path / "box")
    with box.serve() as daemon:
        for n in range(10):
            text = os.urandom(MIB // 2).hex()  # a MiB of text
            assert daemon.chat(f"{n} {text}").status_code == 200
        wait_replicated(daemon, CATCH_UP_S)  # a stop has 20 s, which are for the last
        assert daemon.chat("the last").status_code == 200
        litestream = litestream_process(daemon)
        assert daemon.stop() == 0
        assert daemon.logged("litestream_stopped")["is_replicated"] is True
        assert has_ended(litestream)
    assert contents(restored(box, tmp_path / "first.db")) == contents(box.database)

    level_0 = s3.folder / BUCKET / "fleet" / "box-1" / "results.db" / "0000"
    before = {file.name for file in level_0.glob("*.ltx")}
    assert before
    with box.serve() as daemon:
        assert daemon.chat("after the restart").status_code == 200
        wait_replicated(daemon)
        assert daemon.stop() == 0
    uploaded = [file for file in level_0.glob("*.ltx") if file.name not in before]
    assert uploaded
    database_bytes = box.scalar("SELECT page_count * page_size FROM pragma_page_count, "
                                "pragma_page_size")  # fmt: skip
    assert database_bytes > 8 * MIB
    assert sum(file.stat().st_size for file in uploaded) < MIB
    assert contents(restored(box, tmp_path / "second.db")) == contents(box.database)


def test_killed_litestream_is_started_again_and_catches_up(s3: S3Server, tmp_path: Path) -> None:
    box = replicated_box(s3, tmp_path / "box")
    with box.serve() as daemon, Load(daemon.url, 4) as load:
        load.wait_acknowledged(20)
        os.kill(litestream_process(daemon), signal.SIGKILL)
        litestream_process(daemon, number=2)
        load.wait_acknowledged(len(load.acknowledged) + 20)
        load.leave()
        wait_replicated(daemon, CATCH_UP_S)
        assert not has_ended(newest_litestream(daemon))
        assert daemon.stop() == 0
    assert (load.refused, load.cut, load.broken) == ([], [], [])
    copy = restored(box, tmp_path / "copy.db")
    assert contents(copy) == contents(box.database)
    assert box.texts() == load.acknowledged


@pytest.mark.parametrize(
    "away_s",
    [
        8.0,
        pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_requests_go_on_while_the_store_is_away(
    s3: S3Server, tmp_path: Path, away_s: float
) -> None:
    box = replicated_box(s3, tmp_path / "box")
    with box.serve() as daemon:
        assert daemon.chat("before").status_code == 200
        wait_replicated(daemon)
        s3.stop()
        answers: list[int] = []

        def goes_on() -> bool:
            answers.append(daemon.chat(f"away {len(answers)}").status_code)
            return lag_s(daemon) >= away_s

        until(goes_on, "the lag rises", away_s + DEADLINE_S)
        assert set(answers) == {200}
        assert daemon.get("/readyz").status_code == 200
        s3.start()
        wait_replicated(daemon, away_s + 2 * CATCH_UP_S)
        assert daemon.stop() == 0
    assert contents(restored(box, tmp_path / "copy.db")) == contents(box.database)


def test_a_slow_link_costs_lag_and_nothing_else(s3: S3Server, tmp_path: Path) -> None:
    with FlakyProxy(s3.port) as link:
        link.delay_s, link.bytes_per_s = 0.05, 100_000.0
        box = replicated_box(s3, tmp_path / "box")
        url = s3.url("fleet").replace(s3.endpoint, link.endpoint)
        with box.serve(REPLICA__URL=url) as daemon:
            with Load(daemon.url, 4) as load:
                load.wait_acknowledged(300)
            wait_replicated(daemon, CATCH_UP_S)
            assert daemon.stop() == 0
            assert daemon.logged("litestream_stopped")["is_replicated"] is True
    assert (load.refused, load.cut, load.broken) == ([], [], [])
    copy = restored(box, tmp_path / "copy.db")
    assert contents(copy) == contents(box.database)
    assert box.texts() == load.acknowledged


def test_killed_daemon_takes_litestream_with_it_and_goes_on_after_a_restart(
    s3: S3Server, tmp_path: Path
) -> None:
    box = replicated_box(s3, tmp_path / "box")
    acknowledged: dict[str, str] = {}
    for number in range(2):
        with box.serve() as daemon:
            with Load(daemon.url, 16, str(number)) as load:
                load.wait_acknowledged(100)
                litestream = litestream_process(daemon)
                daemon.kill()
            until(partial(has_ended, litestream), "litestream has ended")
        acknowledged |= load.acknowledged
    with box.serve() as daemon:
        wait_replicated(daemon, CATCH_UP_S)
        assert daemon.stop() == 0
    copy = restored(box, tmp_path / "copy.db")
    assert contents(copy) == contents(box.database)
    stored = dict(rows(copy, "SELECT id, output_text FROM results JOIN outputs USING (seq)"))
    assert acknowledged.items() <= stored.items()


def test_fleet_is_pulled_and_asked_from_one_place(s3: S3Server, tmp_path: Path) -> None:
    boxes = [replicated_box(s3, tmp_path / name, name) for name in ("ship-1", "ship-2")]
    for number, box in enumerate(boxes, 1):
        with box.serve() as daemon:
            for n in range(5 * number):
                assert daemon.chat(f"{n}").status_code == 200
            wait_replicated(daemon)
            assert daemon.stop() == 0
    centre = tmp_path / "fleet"
    pulled = boxes[0].run("fleet", "pull", "--from", s3.url("fleet"), "--into", str(centre))
    assert pulled.returncode == 0, pulled.stderr
    assert "2 of 2 boxes" in pulled.stderr
    for box, name in zip(boxes, ("ship-1", "ship-2"), strict=True):
        # a pulled copy starts no timeline: it is the same history, to be read
        assert contents(centre / f"{name}.db") == contents(box.database)
        proven(centre / f"{name}.db")
    asked = boxes[0].run(
        "fleet", "query", "--in", str(centre), "--nl",
        "SELECT device_id, count(*) AS answers FROM results GROUP BY 1 ORDER BY 1",
    )  # fmt: skip
    assert [json.loads(line) for line in asked.stdout.splitlines()] == [
        {"device_id": "ship-1", "answers": 5},
        {"device_id": "ship-2", "answers": 10},
    ]
