"""Replication over SFTP to a real OpenSSH server: only to the host whose key is pinned."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.daemon import Box, chat_until_replicated
from support.flakyproxy import FlakyProxy
from support.replicating import Database, contents, replicate
from support.sshserver import SSHD, SshServer, make_key, public_key, secret_lines

from edge_store.errors import ConfigError, LitestreamUnavailable, ReplicaNotFound, ReplicationError
from edge_store.fleet.copies import copy_path
from edge_store.fleet.find import FoundBox
from edge_store.fleet.pull import PullPlan, pull
from edge_store.fleet.report import Manner
from edge_store.ids import DeviceId
from edge_store.replica.bucket import open_bucket
from edge_store.replica.check import check_location
from edge_store.replica.extent import list_devices, read_extent
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.restore import restore
from edge_store.result import CheckState

pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server")
BOX = DeviceId("box-a")


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


async def test_replica_over_sftp_is_restored_and_pulled(ssh: SshServer, tmp_path: Path) -> None:
    database = Database(tmp_path / "results.db", BOX)
    database.write(50)
    url = ssh.url("fleet")
    async with replicate(database.path, BOX, url) as litestream:
        synced = await litestream.sync(60)
    location = parse_location(url)
    assert await list_devices(location, None) == [BOX]
    extent = await read_extent(location, None, BOX)
    assert extent.txid == synced.txid
    restored = await restore(location, BOX, tmp_path / "restored.db", timeout_s=60)
    assert contents(restored.path) == contents(database.path)
    manner = Manner(into=tmp_path / "fleet", timeout_s=60)
    box = FoundBox(device_id=BOX, location=location)
    (report,) = (await pull(PullPlan(manner=manner), [box])).reports
    assert report.error is None
    assert contents(copy_path(tmp_path / "fleet", BOX)) == contents(database.path)
    database.close()


async def test_objects_over_sftp_are_whole_and_created_once(ssh: SshServer) -> None:
    objects = Objects(parse_location(ssh.url("objects")), None)
    assert await objects.get("heads/a.json") is None
    created = await asyncio.gather(*(objects.create("heads/a.json", b"%d" % i) for i in range(4)))
    assert sorted(created) == [False, False, False, True]
    found = await objects.get("heads/a.json")
    assert found is not None
    assert found.content == b"%d" % created.index(True)
    assert await objects.replace("heads/a.json", b"0123456789", found)
    assert await objects.get_range("heads/a.json", 2, 3) == b"234"
    assert list(await objects.list("heads")) == ["a.json"]
    await objects.delete("heads/a.json")
    await objects.delete("heads/a.json")
    assert await objects.list("heads") == {}


def test_more_at_a_time_than_sshd_lets_in_are_served(ssh: SshServer) -> None:
    """With ten that have not logged in yet, it drops others (MaxStartups)."""
    bucket = open_bucket(parse_location(ssh.url("many")), None)
    with ThreadPoolExecutor(40) as threads:
        puts = [threads.submit(bucket.put, f"heads/{n}", b"x", "overwrite") for n in range(40)]
    assert all(each.result() for each in puts)


async def test_only_folders_with_a_replica_are_boxes(ssh: SshServer) -> None:
    for number in range(40):
        (ssh.files / "others" / f"box-{number}" / "results.db").mkdir(parents=True)
    (ssh.files / "others" / "no-box" / "photos").mkdir(parents=True)
    boxes = await list_devices(parse_location(ssh.url("others")), None)
    assert boxes == sorted(f"box-{number}" for number in range(40))


def test_box_over_sftp_is_told_of_restored_and_goes_on_elsewhere(
    ssh: SshServer, tmp_path: Path
) -> None:
    url = ssh.url("appliance")
    first = Box.init(tmp_path / "first", "--device-id", BOX)
    (first.directory / "edge-store.toml").write_text(
        f"[replica]\nurl = '{url.partition('?')[0]}'\nsftp_host_key = '{ssh.host_key}'\n"
        f"sftp_key_file = '{ssh.key_file}'\n[engine]\nkind = 'demo'\n"
        "[store]\npath = 'results.db'\n"
    )
    config = ("--config", str(first.directory))
    with first.serve(REPLICA__ENABLED="true") as daemon:
        chat_until_replicated(daemon)
        assert daemon.stop() == 0
    said = daemon.output() + (first.directory / "edge-store.toml").read_text()
    assert not [line for line in secret_lines(ssh.key_file) if line in said]
    owner = msgspec.json.decode((ssh.files / "appliance" / BOX / "owner.json").read_bytes())
    assert owner["device_id"] == BOX
    (head,) = asked(first, "fleet", "heads", "--from", url, "--nl")
    assert (head["device_id"], head["state"], head["rows"]) == (BOX, "alive", 1)
    (states,) = asked(first, "replica", "points", *config, "--json")
    assert states["points"][-1]["txid"]
    back = tmp_path / "back.db"
    done = first.run("replica", "restore", *config, "--to", str(back))
    assert done.returncode == 0, done.stderr
    assert contents(back) == contents(first.database)
    second = Box(tmp_path / "second")
    done = second.run("init", str(second.directory), "--engine", "demo", "--from-replica", url)
    assert done.returncode == 0, done.stderr
    with second.serve(REPLICA__ENABLED="true") as daemon:
        chat_until_replicated(daemon)
        assert daemon.stop() == 0
    (head,) = asked(first, "fleet", "heads", "--from", url, "--nl")
    assert head["rows"] == 2


def asked(box: Box, *arguments: str) -> list[dict[str, Any]]:
    done = box.run(*arguments)
    assert done.returncode == 0, done.stderr
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


async def test_download_over_a_breaking_connection_goes_on_where_it_broke(
    ssh: SshServer, tmp_path: Path
) -> None:
    url = ssh.url("breaking")
    database = Database(tmp_path / "results.db", BOX)
    async with replicate(database.path, BOX, url) as litestream:
        database.write(1, body_bytes=1_500_000)
        await litestream.sync(60)
    database.close()
    with FlakyProxy(ssh.port) as proxy:
        proxy.cut_after, proxy.cuts = 700_000, 2  # less than the file has
        location = msgspec.structs.replace(parse_location(url), port=proxy.port)
        done = await restore(location, BOX, tmp_path / "copy.db", timeout_s=60)
        assert proxy.was_cut == 2
        assert proxy.passed < 2 * 1_500_000
    assert done.downloaded_bytes > 1_500_000
    assert contents(tmp_path / "copy.db") == contents(database.path)


async def test_check_passes_over_sftp(ssh: SshServer) -> None:
    checks = [each async for each in check_location(parse_location(ssh.url("checked")))]
    assert [each for each in checks if each.state is not CheckState.OK] == []
    assert checks[-1].name == "litestream"


async def test_pinned_key_that_litestream_does_not_ask_for_is_found_out(ssh: SshServer) -> None:
    location = parse_location(ssh.url("checked", host_key=ssh.second_host_key))
    checks = {each.name: each async for each in check_location(location)}
    assert checks["write"].state is CheckState.OK
    assert checks["litestream"].state is CheckState.FAILED
    assert "ssh-keyscan -t ecdsa" in checks["litestream"].advice


async def test_host_with_another_key_gets_nothing(ssh: SshServer, tmp_path: Path) -> None:
    make_key(tmp_path / "other", "ed25519")
    url = ssh.url("pinned", host_key=public_key(tmp_path / "other.pub"))
    with pytest.raises(ReplicationError, match="another key than the pinned one"):
        await Objects(parse_location(url), None).put("a", b"x")
    database = Database(tmp_path / "results.db", BOX)
    database.write(1)
    with pytest.raises(LitestreamUnavailable, match="host key"):
        async with replicate(database.path, BOX, url):
            pass
    database.close()
    assert not (ssh.files / "pinned").exists()


async def test_refusals_are_explained(ssh: SshServer, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger", "ed25519")
    make_key(tmp_path / "locked", "ed25519", "a passphrase")
    for name, words in (("stranger", "refuses this user's key"), ("locked", "passphrase")):
        location = parse_location(ssh.url("x", key_file=tmp_path / name))
        with pytest.raises(ReplicationError, match=words):
            await Objects(location, None).get("a")
    with pytest.raises(ReplicaNotFound, match="no such folder"):
        await list_devices(parse_location(ssh.url("nowhere")), None)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_credentials(parse_location(ssh.url("x", key_file=tmp_path / "absent")), {})
