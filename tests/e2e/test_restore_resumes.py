"""Restores that are cut short, by a bad network, by SIGKILL or by a live box, and go on."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.flakyproxy import FlakyProxy
from support.motoserver import MotoServer
from support.replicating import ROOT, Database, contents, replicate
from support.s3server import S3Server

from edge_store.errors import ReplicationError, RestoreFailed, RestoreTimedOut
from edge_store.ids import DeviceId
from edge_store.replica.bucket import open_bucket
from edge_store.replica.location import Location, parse_location, read_credentials
from edge_store.replica.restore import Progress, Stage, restore

DEVICE = DeviceId("box-a")
BODY_BYTES = 1_500_000  # random: LZ4 makes nothing smaller of it
STALL_AFTER = 2_000_000  # of the 3,000,000 that two of them have
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from edge_store.replica.location import parse_location
from edge_store.replica.restore import restore

url, to, stage, share = sys.argv[1:]

def on_progress(progress):
    if progress.stage == stage and progress.done >= float(share) * progress.expected:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(
    restore(parse_location(url), "box-a", Path(to), timeout_s=60, on_progress=on_progress)
)
"""


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", MotoServer.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MotoServer.secret_access_key)


async def replicated(tmp_path: Path, url: str) -> Path:
    """Leave a replica of two big results, in a file each; and perhaps in one together, where
    Litestream has come to the first snapshot meanwhile.
    """
    database = tmp_path / "results.db"
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        for _ in range(2):
            writing.write(1, body_bytes=BODY_BYTES)
            await litestream.sync(60)
    writing.close()
    return database


def through(proxy: FlakyProxy, url: str) -> Location:
    return parse_location(f"{url.partition('?')[0]}?endpoint={proxy.endpoint}")


async def test_download_over_a_breaking_connection_goes_on_where_it_broke(
    tmp_path: Path, moto: MotoServer
) -> None:
    url = moto.url(tmp_path.name)
    database = await replicated(tmp_path, url)
    copy = tmp_path / "copies" / "copy.db"
    with FlakyProxy(moto.port) as proxy:
        proxy.cut_after = (
            400_000  # less than either file has: from the start again, none would ever be whole
        )
        await restore(through(proxy, url), DEVICE, copy, timeout_s=60)
        assert proxy.was_cut >= 4
    assert contents(copy) == contents(database)
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]


async def test_second_run_uses_what_a_stalled_one_has_downloaded(
    tmp_path: Path, moto: MotoServer
) -> None:
    url = moto.url(tmp_path.name)
    database = await replicated(tmp_path, url)
    copy = tmp_path / "copies" / "copy.db"
    with FlakyProxy(moto.port) as proxy:

        def stall_later(progress: Progress) -> None:
            """What it has read before, of the head of a file, may be as much as all of that."""
            if progress.stage is Stage.DOWNLOADING and proxy.stall_after is None:
                proxy.drop()
                proxy.stall_after = proxy.passed + STALL_AFTER

        while proxy.stall_after is None or proxy.passed < proxy.stall_after:  # once, as a rule
            with pytest.raises(RestoreTimedOut, match="within 15 s"):
                await restore(
                    through(proxy, url), DEVICE, copy, timeout_s=15, on_progress=stall_later
                )
            assert not copy.exists()
        proxy.stall_after = None
        done = await restore(through(proxy, url), DEVICE, copy, timeout_s=60)
    assert done.reused_bytes > 0
    assert done.downloaded_bytes < 2 * BODY_BYTES
    assert contents(copy) == contents(database)
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]


async def test_file_with_a_short_path_is_restored_as_any_other(
    tmp_path: Path, moto: MotoServer
) -> None:
    """Litestream refuses a file of less than 100 bytes: a link's length is that of its target."""
    url = moto.url(tmp_path.name)
    database = await replicated(tmp_path, url)
    with TemporaryDirectory(prefix="r") as folder:
        copy = Path(folder) / "c.db"
        await restore(parse_location(url), DEVICE, copy, timeout_s=60)
        assert contents(copy) == contents(database)
        assert [path.name for path in copy.parent.iterdir()] == ["c.db"]


@pytest.mark.parametrize(
    ("stage", "share"),
    [("downloading", 0.5), ("downloading", 1), ("rebuilding", 0), ("checking", 0)],
)
async def test_restore_goes_on_after_sigkill(
    tmp_path: Path, moto: MotoServer, stage: str, share: float
) -> None:
    url = moto.url(tmp_path.name)
    database = await replicated(tmp_path, url)
    copy = tmp_path / "copies" / "copy.db"
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, url, str(copy), stage, str(share)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not copy.exists()

    done = await restore(parse_location(url), DEVICE, copy, timeout_s=60)

    assert done.reused_bytes >= share * BODY_BYTES
    assert (stage == "downloading" and share < 1) or done.downloaded_bytes == 0
    assert contents(copy) == contents(database)
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]


async def test_store_without_ranges_is_read_from_the_start_again(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server, FlakyProxy(server.port) as proxy:
        url = server.url("fleet")
        database = await replicated(tmp_path, url)
        proxy.cut_after, proxy.cuts = 400_000, 2
        copy = tmp_path / "copy.db"
        await restore(through(proxy, url), DEVICE, copy, timeout_s=60)
        assert proxy.was_cut == 2
    assert contents(copy) == contents(database)


async def test_store_that_always_breaks_is_given_up_and_said_so(
    tmp_path: Path, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_store.replica.download.RETRY_PAUSE_S", 0.01)
    url = moto.url(tmp_path.name)
    await replicated(tmp_path, url)
    copy = tmp_path / "copies" / "copy.db"
    with FlakyProxy(moto.port) as proxy:

        def on_progress(progress: Progress) -> None:
            if progress.stage is Stage.DOWNLOADING and progress.done:
                proxy.cut_after = 0

        proxy.cut_after = 100_000
        with pytest.raises(ReplicationError, match="cannot be reached"):
            await restore(through(proxy, url), DEVICE, copy, timeout_s=60, on_progress=on_progress)
    assert not copy.exists()


async def test_file_that_is_merged_meanwhile_is_found_in_the_next_listing(
    tmp_path: Path, moto: MotoServer
) -> None:
    url = moto.url(tmp_path.name)
    database = await replicated(tmp_path, url)
    location = parse_location(url)
    bucket = open_bucket(location, read_credentials(location))
    replica, name = location.key_prefix(DEVICE), "0000000000000002-0000000000000002.ltx"
    merged: list[Progress] = []

    def merge(progress: Progress) -> None:
        if not merged:
            merged.append(progress)
            found = bucket.get(f"{replica}/0000/{name}")
            assert found is not None
            bucket.put(f"{replica}/0001/{name}", found.content, "overwrite")
            bucket.delete(f"{replica}/0000/{name}")

    copy = tmp_path / "copy.db"
    await restore(location, DEVICE, copy, timeout_s=60, on_progress=merge)
    assert merged
    assert contents(copy) == contents(database)


async def test_file_of_a_folder_that_is_merged_meanwhile_is_found_too(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/replica"
    database = await replicated(tmp_path, url)
    levels = tmp_path / "replica" / DEVICE / "results.db" / "ltx"
    newest = max((levels / "0").iterdir())

    def merge(_progress: Progress) -> None:
        if newest.exists():
            (levels / "1").mkdir(exist_ok=True)
            newest.rename(levels / "1" / newest.name)

    copy = tmp_path / "copy.db"
    await restore(parse_location(url), DEVICE, copy, timeout_s=60, on_progress=merge)
    assert not newest.exists()
    assert contents(copy) == contents(database)


async def test_truncated_file_fails_clearly_and_nothing_stays(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        url = server.url("fleet")
        await replicated(tmp_path, url)
        replica = tmp_path / "s3" / "edge" / "fleet" / DEVICE / "results.db"
        for file in replica.rglob("*.ltx"):
            os.truncate(file, file.stat().st_size - 20)
        copy = tmp_path / "copies" / "copy.db"
        with pytest.raises(RestoreFailed, match="cannot be restored"):
            await restore(parse_location(url), DEVICE, copy, timeout_s=60)
    assert list(copy.parent.iterdir()) == []
