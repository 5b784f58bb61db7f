"""Replication to Google's and Azure's stores: real requests of both clients to their emulators.

Azurite and fake-gcs-server both keep conditions on writes; of those on reads only Azurite does.
"""

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.azureserver import ACCOUNT_KEY, AzureServer
from support.cloud import CloudServer
from support.daemon import Box, chat_until_replicated, until
from support.flakyproxy import FlakyProxy
from support.gcsserver import GcsServer
from support.replicating import Database, contents, replicate
from support.s3server import free_port

from edge_store.errors import ReplicaNotFound
from edge_store.fleet.copies import copy_path
from edge_store.fleet.find import FoundBox
from edge_store.fleet.pull import PullPlan, pull
from edge_store.fleet.report import Manner
from edge_store.ids import DeviceId
from edge_store.replica.check import check_location
from edge_store.replica.extent import list_devices, read_extent
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.points import Txid
from edge_store.replica.restore import restore
from edge_store.result import Check, CheckState

BOX = DeviceId("box-a")
CHECKS = ("keys", "write", "list", "read", "clock", "range", "conditions", "delete", "litestream")
SERVICE_ACCOUNT = {
    "type": "service_account",
    "client_email": "edge@example.com",
    "private_key_id": "1",
    "private_key": "Never/seen+anywhere",
}


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with AzureServer(tmp_path_factory.mktemp("azure") / "store") as server:
        yield server


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    with GcsServer(tmp_path_factory.mktemp("google") / "store") as server:
        yield server


@pytest.fixture(params=["azure", "google"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CloudServer:
    server: CloudServer = request.getfixturevalue(request.param)
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    return server


def checked(url: str, environ: dict[str, str]) -> dict[str, Check]:
    async def run() -> dict[str, Check]:
        return {each.name: each async for each in check_location(parse_location(url), environ)}

    return asyncio.run(run())


def objects_of(url: str) -> Objects:
    location = parse_location(url)
    return Objects(location, read_credentials(location))


def asked(box: Box, *arguments: str) -> list[dict[str, Any]]:
    done = box.run(*arguments)
    assert done.returncode == 0, done.stderr
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


def test_check_passes_everything(cloud: CloudServer) -> None:
    checks = checked(cloud.url("checked"), cloud.environ)
    states = {name: each.state for name, each in checks.items()}
    assert states == dict.fromkeys(CHECKS, CheckState.OK), checks
    assert "one is refused" in checks["conditions"].found
    assert asyncio.run(objects_of(cloud.url("checked")).list("check")) == {}


async def test_replica_is_restored_and_pulled(cloud: CloudServer, tmp_path: Path) -> None:
    database = Database(tmp_path / "results.db", BOX)
    url = cloud.url("fleet")
    location = parse_location(url)
    credentials = read_credentials(location)
    with pytest.raises(ReplicaNotFound, match="no box has replicated"):
        await list_devices(location, credentials)
    async with replicate(database.path, BOX, url) as litestream:
        database.write(50)
        first = await litestream.sync(60)
        then = contents(database.path)
        database.write(50)
        second = await litestream.sync(60)
    assert await list_devices(location, credentials) == [BOX]
    assert (await read_extent(location, credentials, BOX)).txid == second.txid
    restored = await restore(location, BOX, tmp_path / "restored.db", timeout_s=60)
    assert contents(restored.path) == contents(database.path)
    earlier = await restore(location, BOX, tmp_path / "back.db", at=Txid(first.txid), timeout_s=60)
    assert contents(earlier.path) == then
    manner = Manner(into=tmp_path / "fleet", timeout_s=60)
    box = FoundBox(device_id=BOX, location=location)
    for _ in range(2):  # the second brings nothing
        (report,) = (await pull(PullPlan(manner=manner), [box])).reports
        assert report.error is None
    assert contents(copy_path(tmp_path / "fleet", BOX)) == contents(database.path)
    database.close()


async def test_objects_are_whole_and_their_conditions_kept(cloud: CloudServer) -> None:
    objects = objects_of(cloud.url("objects"))
    assert await objects.get("heads/a.json") is None
    created = await asyncio.gather(*(objects.create("heads/a.json", b"%d" % i) for i in range(4)))
    assert sorted(created) == [False, False, False, True]
    found = await objects.get("heads/a.json")
    assert found is not None
    assert found.content == b"%d" % created.index(True)
    assert await objects.replace("heads/a.json", b"0123456789", found)
    assert not await objects.replace("heads/a.json", b"of another", found)
    assert await objects.get_range("heads/a.json", 2, 3) == b"234"
    listed = await objects.list("heads")
    assert {name: entry.size for name, entry in listed.items()} == {"a.json": 10}
    newest = await objects.get("heads/a.json")
    assert newest is not None
    await objects.delete("heads/a.json")
    await objects.delete("heads/a.json")
    assert not await objects.replace("heads/a.json", b"anew", newest)
    assert await objects.list("heads") == {}


def test_box_is_told_of_proven_restored_and_goes_on_elsewhere(
    cloud: CloudServer, tmp_path: Path
) -> None:
    url = cloud.url("appliance")
    settings = {
        "REPLICA__URL": url,
        "REPLICA__ENABLED": "true",
        "REPLICA__OWNER_CHECK_S": "1",
        "REPLICA__STOP_TIMEOUT_S": "50",
        "REPLICA__DRILL_IDLE_S": "0",  # the machine may be full
    }
    first = Box.init(tmp_path / "first", "--device-id", BOX, **settings)
    first.environ |= cloud.environ
    first.deadline_s = 120
    config = ("--config", str(first.directory))
    with first.serve() as daemon:
        chat_until_replicated(daemon)
        done = first.run("replica", "drill", *config, "--json")
        assert msgspec.json.decode(done.stdout)["drills"][0]["proof"]["rows"] == 1
        assert daemon.stop() == 0
        assert ACCOUNT_KEY not in daemon.output()
    (head,) = asked(first, "fleet", "heads", "--from", url, "--nl")
    assert (head["device_id"], head["state"], head["rows"]) == (BOX, "alive", 1)
    (states,) = asked(first, "replica", "points", *config, "--json")
    assert states["points"][-1]["txid"]
    second = Box(tmp_path / "second", REPLICA__STOP_TIMEOUT_S="50")
    second.environ |= cloud.environ
    second.deadline_s = 120
    done = second.run("init", str(second.directory), "--engine", "demo", "--from-replica", url)
    assert done.returncode == 0, done.stderr
    assert contents(second.database)[0] == contents(first.database)[0]
    with second.serve(REPLICA__ENABLED="true") as daemon:
        chat_until_replicated(daemon)
        assert daemon.stop() == 0
    (head,) = asked(first, "fleet", "heads", "--from", url, "--nl")
    assert head["rows"] == 2
    with first.serve() as daemon:

        def is_taken() -> bool:  # at first it is not known
            found = daemon.get("/readyz").json()["replica"]
            return bool((found["state"], found["cause"]) == ("broken", "taken"))

        until(is_taken, "the path is another's", 120)
        assert daemon.chat("served all the same").status_code == 200


async def test_store_that_goes_away_and_returns_has_all_of_it(
    cloud: CloudServer, tmp_path: Path
) -> None:
    """What was written in between is sent when it is back."""
    database = Database(tmp_path / "results.db", BOX)
    with type(cloud)(tmp_path / "store") as server:
        location = parse_location(server.url("fleet"))
        async with replicate(database.path, BOX, server.url("fleet")) as litestream:
            database.write(5)
            await litestream.sync(60)
            server.stop()
            database.write(5)
            server.start()
            await litestream.sync(60)
        await restore(location, BOX, tmp_path / "back.db", timeout_s=60)
    assert contents(tmp_path / "back.db") == contents(database.path)
    database.close()


def test_azure_out_of_reach_is_told_and_holds_up_no_stop(tmp_path: Path) -> None:
    """Litestream itself asks for minutes more, and told to end it goes on asking."""
    with AzureServer(tmp_path / "store") as server:
        url = server.url("fleet")
        settings = {"REPLICA__URL": url, "REPLICA__ENABLED": "true", "REPLICA__STOP_TIMEOUT_S": "1"}
        box = Box.init(tmp_path / "box", **settings)
        box.environ |= server.environ
        with box.serve() as daemon:
            chat_until_replicated(daemon)
            server.stop()
            assert daemon.chat("served all the same").status_code == 200
            until(
                lambda: daemon.get("/readyz").json()["replica"]["cause"] == "unreachable", "", 120
            )
            assert daemon.stop(60) == 0


async def test_download_over_a_breaking_connection_goes_on_where_it_broke(
    cloud: CloudServer, tmp_path: Path
) -> None:
    database = Database(tmp_path / "results.db", BOX)
    async with replicate(database.path, BOX, cloud.url("breaking")) as litestream:
        database.write(1, body_bytes=1_500_000)
        await litestream.sync(60)
    database.close()
    port = cloud.front_port if isinstance(cloud, GcsServer) else cloud.port
    with FlakyProxy(port) as proxy:
        proxy.cut_after, proxy.cuts = 700_000, 2  # less than the file has
        location = parse_location(cloud.url("breaking", port=proxy.port))
        done = await restore(location, BOX, tmp_path / "copy.db", timeout_s=60)
        assert proxy.was_cut == 2
        assert proxy.passed < 2 * 1_500_000
    assert done.downloaded_bytes > 1_500_000
    assert contents(tmp_path / "copy.db") == contents(database.path)


def test_missing_container_and_a_dead_address_are_explained(cloud: CloudServer) -> None:
    write = checked(cloud.url("x", container="nowhere"), cloud.environ)["write"]
    assert write.state is CheckState.FAILED
    assert "there is no such" in write.found
    write = checked(cloud.url("x", port=free_port()), cloud.environ)["write"]
    assert "the connection is refused" in write.found


@pytest.mark.parametrize(
    ("environ", "found", "advice"),
    [
        ({"AZURE_STORAGE_ACCOUNT_KEY": "{wrong}"}, "refuses the keys", "copied whole"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "no base64"}, "account key is not whole", "ends in"),
        ({"AZURE_STORAGE_SAS_TOKEN": "{ended}"}, "refuses the keys", "not expired"),
        ({"AZURE_STORAGE_SAS_TOKEN": "{reads}"}, "no permission", "sp=racwdl"),
    ],
)
def test_refusal_of_azure_is_explained(
    azure: AzureServer, environ: dict[str, str], found: str, advice: str
) -> None:
    given = {
        "wrong": base64.b64encode(b"another key").decode(),
        "ended": azure.sas_token(hours=-1),
        "reads": azure.sas_token("rl"),
    }
    environ = {name: value.format(**given) for name, value in environ.items()}
    write = checked(azure.url("x"), environ)["write"]
    assert write.state is CheckState.FAILED
    assert found in write.found
    assert advice in write.advice
    assert not [each for each in given.values() if each in f"{write.found} {write.advice}"]


def test_signature_that_may_not_delete_is_found_out(azure: AzureServer) -> None:
    delete = checked(azure.url("kept"), {"AZURE_STORAGE_SAS_TOKEN": azure.sas_token("racwl")})[
        "delete"
    ]
    assert delete.state is CheckState.FAILED
    assert "refuses the keys" in delete.found


@pytest.mark.parametrize("content", ["no JSON", json.dumps(SERVICE_ACCOUNT)])
def test_key_file_that_is_none_of_google_is_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "account.json").write_text(content)
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json")}
    write = checked("gs://edge/fleet", environ)["write"]
    assert write.found.endswith("its key file is not that of a service account")
    assert "gcloud iam" in write.advice


async def test_signature_of_shared_access_is_enough_and_not_told(
    azure: AzureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside another account's key in the environment, of which neither client may hear."""
    token = azure.sas_token()
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"?{token}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"another's").decode())
    checks = [
        each async for each in check_location(parse_location(azure.url("shared")), os.environ)
    ]
    assert [each for each in checks if each.state is not CheckState.OK] == []
    database = Database(tmp_path / "results.db", BOX)
    database.write(10)
    async with replicate(database.path, BOX, azure.url("shared")) as litestream:
        await litestream.sync(60)
    location = parse_location(azure.url("shared"))
    credentials = read_credentials(location)
    assert token not in repr(credentials)
    await restore(location, BOX, tmp_path / "back.db", timeout_s=60)
    assert contents(tmp_path / "back.db") == contents(database.path)
    database.close()
