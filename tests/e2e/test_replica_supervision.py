"""Litestream killed, its store away, its owner gone: writes go on and the replica catches up."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.processes import is_alive
from support.replicating import DEADLINE_S, ROOT, Database, contents, replicate, wait_for
from support.s3server import S3Server

from edge_store.errors import ConfigError, LitestreamUnavailable
from edge_store.ids import DeviceId
from edge_store.replica import litestream as litestream_module
from edge_store.replica import supervisor
from edge_store.replica.litestream import NICE
from edge_store.replica.location import parse_location
from edge_store.replica.restore import restore
from edge_store.replica.status import Cause, ReplicaState

DEVICE = DeviceId("box-a")
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
CATCH_UP_S = 180.0  # Litestream's pauses between attempts grow with the outage
BEHIND = (ReplicaState.LAGGING, ReplicaState.OFFLINE, ReplicaState.STALLED)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    writing = Database(tmp_path / "results.db", DEVICE)
    yield writing
    writing.close()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


async def test_killed_litestream_is_started_again_and_catches_up(
    tmp_path: Path, database: Database
) -> None:
    url = f"file://{tmp_path}/replica"
    async with replicate(database.path, DEVICE, url, stop_timeout_s=DEADLINE_S) as litestream:
        database.write(2)
        await litestream.sync(DEADLINE_S)
        first = litestream.process_id
        assert first is not None
        os.kill(first, signal.SIGKILL)
        database.write(3)
        await wait_for(
            lambda: litestream.status.cause is Cause.RESTARTING and litestream.status.lag_s > 0,
            "its end is noticed",
        )
        await wait_for(lambda: litestream.process_id not in (None, first), "another one runs")
        await wait_for(
            lambda: litestream.status.state is ReplicaState.OK and litestream.status.lag_s == 0.0,
            "it has caught up",
        )
    assert litestream.is_replicated
    done = await restore(parse_location(url), DEVICE, tmp_path / "copy.db", timeout_s=60)
    assert done.results == 5


async def away_and_back(tmp_path: Path, database: Database, s3: S3Server, away_s: float) -> None:
    """Write through an outage of that length, at whose end the replica is known to be behind."""
    url = s3.url("fleet")
    async with replicate(database.path, DEVICE, url, stop_timeout_s=DEADLINE_S) as litestream:
        database.write(2)
        await litestream.sync(DEADLINE_S)
        s3.stop()
        gone_at = time.monotonic()
        await wait_for(lambda: time.monotonic() - gone_at > 1, "the last look is over")
        for _ in range(5):
            database.write(10)
        await wait_for(
            lambda: (
                time.monotonic() - gone_at > away_s
                and litestream.status.state in BEHIND
                and litestream.status.lag_s > away_s / 2  # it counts from when that was seen
            ),
            "the replica is behind",
            2 * away_s + DEADLINE_S,
        )
        s3.start()
        await wait_for(  # what it wrote of its last failure may be read after that it is there
            lambda: (litestream.status.lag_s, litestream.status.error) == (0.0, None),
            "it has caught up",
            CATCH_UP_S,
        )
    assert litestream.is_replicated
    await restore(parse_location(url), DEVICE, tmp_path / "copy.db", timeout_s=60)
    assert contents(tmp_path / "copy.db") == contents(database.path)


async def test_writes_go_on_while_the_store_is_away(
    tmp_path: Path, database: Database, s3: S3Server
) -> None:
    await away_and_back(tmp_path, database, s3, 10)


@pytest.mark.slow
async def test_store_away_for_a_minute_is_caught_up_with(
    tmp_path: Path, database: Database, s3: S3Server
) -> None:
    await away_and_back(tmp_path, database, s3, 60)


@pytest.mark.slow
async def test_box_that_starts_without_its_store_catches_up_later(
    tmp_path: Path, database: Database, s3: S3Server
) -> None:
    s3.stop()
    async with replicate(
        database.path, DEVICE, s3.url("fleet"), stop_timeout_s=DEADLINE_S
    ) as litestream:
        database.write(5)
        await wait_for(lambda: litestream.status.cause is Cause.UNREACHABLE, "it is noticed")
        await wait_for(lambda: litestream.status.lag_s > 30, "that is how long it is away", 120)
        s3.start()
        await wait_for(lambda: litestream.status.lag_s == 0.0, "it has caught up", CATCH_UP_S)
    assert litestream.is_replicated


async def test_stop_without_the_store_is_bounded_and_says_what_is_missing(
    database: Database, s3: S3Server
) -> None:
    async with replicate(database.path, DEVICE, s3.url("fleet")) as litestream:
        database.write(2)
        await litestream.sync(DEADLINE_S)
        s3.stop()
        database.write(1)
        assert not await litestream.stop(1)  # without a bound, the test's own timeout ends it
        assert litestream.status.cause is Cause.STOPPED
        await wait_for(lambda: litestream.status.lag_s > 0, "it lags from then at the latest")
        assert litestream.process_id is None


async def test_keys_reach_neither_files_nor_log(
    tmp_path: Path, database: Database, s3: S3Server
) -> None:
    with capture_logs() as logs:
        async with replicate(database.path, DEVICE, s3.url("fleet")) as litestream:
            database.write(1)
            await litestream.sync(DEADLINE_S)
    config = tmp_path / "litestream" / "litestream.yml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert s3.secret_access_key not in config.read_text() + str(logs)
    assert "litestream_started" in {line["event"] for line in logs}


async def test_error_inside_the_context_stays_what_it_is_and_ends_the_child(
    tmp_path: Path, database: Database
) -> None:
    process_id = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (the context is what is tested)
        async with replicate(database.path, DEVICE, f"file://{tmp_path}/replica") as litestream:
            process_id = litestream.process_id
            raise ZeroDivisionError
    assert process_id is not None
    assert not is_alive(process_id)


async def test_database_whose_path_litestream_would_misread_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "box #1"
    folder.mkdir()
    writing = Database(folder / "results.db", DEVICE)
    try:
        with pytest.raises(ConfigError, match=r"store\.path"):
            async with replicate(writing.path, DEVICE, f"file://{tmp_path}/replica"):
                pass
    finally:
        writing.close()


async def test_deep_folder_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 25)
    folder.mkdir()
    writing = Database(folder / "results.db", DEVICE)
    try:
        async with replicate(writing.path, DEVICE, f"file://{tmp_path}/replica") as litestream:
            writing.write(1)
            assert (await litestream.sync(DEADLINE_S)).is_replicated
    finally:
        writing.close()


async def test_replica_that_cannot_be_written_is_an_error_of_its_stop(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "replica").write_text("a file where the folder should be")
    async with replicate(
        database.path, DEVICE, f"file://{tmp_path}/replica", stop_timeout_s=1
    ) as litestream:
        database.write(1)
        await wait_for(lambda: litestream.status.error, "the error is shown")
    assert not litestream.is_replicated


OWNER = """
import asyncio, sys
from pathlib import Path
from support.replicating import Database, replicate

async def main():
    database = Database(Path(sys.argv[1]), "box-a")
    async with replicate(database.path, "box-a", sys.argv[2]) as litestream:
        print("child", litestream.process_id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_litestream_ends_with_the_process_that_owns_it(tmp_path: Path) -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220  (started at once)
        [sys.executable, "-c", OWNER, str(tmp_path / "results.db"), f"file://{tmp_path}/replica"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        child = next(int(line.split()[1]) for line in owner.stdout if line.startswith("child "))
        assert is_alive(child)
    finally:
        owner.kill()
        owner.wait(DEADLINE_S)
        assert owner.stdout is not None
        owner.stdout.close()
    await wait_for(lambda: not is_alive(child), "litestream has ended")


def niceness(process_id: int) -> tuple[set[int], int | None]:
    """Of its threads; of its session, where the kernel groups by that."""
    folder = Path(f"/proc/{process_id}")
    threads = set()
    for thread in (folder / "task").iterdir():
        with suppress(ProcessLookupError):  # it has ended since
            threads.add(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    group = folder / "autogroup"
    return threads, int(group.read_text().split()[-1]) if group.exists() else None


async def test_litestream_yields_the_processor_and_not_all_of_it(
    tmp_path: Path, database: Database
) -> None:
    async with replicate(database.path, DEVICE, f"file://{tmp_path}/replica") as litestream:
        child = litestream.process_id
        assert child is not None
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert niceness(child)[0] == {min(19, own + NICE)}
        # where another session was made nice just before, the kernel takes it a little later
        await wait_for(lambda: niceness(child)[1] in (NICE, None), "its session is nice")
        assert os.sched_getscheduler(child) == os.SCHED_OTHER


async def test_program_that_is_too_old_is_refused(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    old = programs / "litestream"
    old.write_text("#!/bin/sh\necho 0.5.2\n")
    old.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    with pytest.raises(LitestreamUnavailable, match=r"0\.5\.2; 0\.5\.17 or newer"):
        async with replicate(database.path, DEVICE, f"file://{tmp_path}/replica"):
            pass


async def test_child_started_during_a_stop_is_ended_by_force(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets SIGTERM, hears nothing, and must not hold up the daemon's end: by itself it stays for
    longer than a test may take.
    """
    spawned, stopped = asyncio.Event(), asyncio.Event()
    deaf: list[int] = []

    async def spawn_slowly(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        if first is None:
            return await litestream_module.spawn(*arguments, **options)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DEAF, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()
        deaf.append(process.pid)
        spawned.set()
        await stopped.wait()
        return process

    first: int | None = None
    monkeypatch.setattr(supervisor, "spawn", spawn_slowly)
    monkeypatch.setattr(supervisor, "SHUTDOWN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(supervisor, "TERM_GRACE_S", 0.2)
    async with replicate(database.path, DEVICE, f"file://{tmp_path}/replica") as litestream:
        first = litestream.process_id
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            await spawned.wait()
        assert not await litestream.stop(1)
        stopped.set()
    assert [is_alive(process_id) for process_id in deaf] == [False]
