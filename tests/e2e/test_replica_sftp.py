"""Replication over SFTP to a real OpenSSH server: only to the host whose key is pinned."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.replicating import Database, contents, replicate
from support.sshserver import SSHD, SshServer, make_key, public_key

from edge_store.errors import ConfigError, LitestreamUnavailable, ReplicaNotFound, ReplicationError
from edge_store.fleet.pull import copy_path, pull
from edge_store.ids import DeviceId
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
        synced = await litestream.sync(20)
    location = parse_location(url)
    assert await list_devices(location, None) == [BOX]
    extent = await read_extent(location, None, BOX)
    assert extent.txid == synced.txid
    restored = await restore(location, BOX, tmp_path / "restored.db", timeout_s=30)
    assert contents(restored.path) == contents(database.path)
    (report,) = await pull(location, [BOX], tmp_path / "fleet", timeout_s=30)
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
