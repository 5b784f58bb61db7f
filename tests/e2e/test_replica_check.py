"""``replica check`` against real servers: what works is said to, what does not is explained."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from support.motoserver import MotoServer
from support.s3server import S3Server, free_port

from edge_store.cli.main import cli
from edge_store.replica.check import check_location
from edge_store.replica.location import parse_location
from edge_store.result import Check, CheckState


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "store") as server:
        yield server


def checked(url: str, environ: dict[str, str]) -> dict[str, Check]:
    async def run() -> dict[str, Check]:
        return {each.name: each async for each in check_location(parse_location(url), environ)}

    return asyncio.run(run())


def failures(checks: dict[str, Check]) -> list[str]:
    return [name for name, each in checks.items() if each.state is CheckState.FAILED]


def test_folder_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    checks = checked(str(tmp_path), {})
    assert failures(checks) == []
    assert "one is refused" in checks["conditions"].found
    assert list(tmp_path.iterdir()) == []


def test_folder_on_a_disk_with_too_little_room_is_a_warning_with_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "edge-store.toml"
    config.write_text(f'[replica]\nurl = "file://{tmp_path}/a/b"\n')
    for reserve, state in ((2**62, "warning"), (0, "ok")):
        before = shutil.disk_usage(tmp_path).free
        monkeypatch.setenv("EDGE_STORE_STORE__DISK_RESERVE_BYTES", str(reserve))
        done = CliRunner().invoke(cli, ["replica", "check", "--config", str(config), "--json"])
        assert done.exit_code == 0, done.stderr
        (room,) = [each for each in msgspec.json.decode(done.stdout) if each["name"] == "room"]
        assert room["state"] == state
        assert room["found"].endswith(f"bytes are free; store.disk_reserve_bytes = {reserve}")
        free = sorted((before, shutil.disk_usage(tmp_path).free))  # others write there, too
        assert free[0] - 2**30 < int(room["found"].split()[0]) < free[1] + 2**30


def test_folder_that_is_not_there_is_told_and_not_left_behind(tmp_path: Path) -> None:
    checks = checked(f"file://{tmp_path}/backups/edge", {})
    assert failures(checks) == []
    assert checks["folder"].state is CheckState.WARNING
    assert checks["litestream"].state is CheckState.OK
    assert list(tmp_path.iterdir()) == []


def test_failure_of_a_folder_speaks_of_no_bucket_and_no_network(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("a file")
    write = checked(f"file://{tmp_path}/backups/edge", {})["write"]
    assert write.state is CheckState.FAILED
    assert write.found.endswith("there is no such folder")
    assert write.advice == "check the address, and that the disk is mounted"


def test_store_with_conditions_passes_everything() -> None:
    with MotoServer() as moto:
        checks = checked(moto.url("fleet"), moto.environ)
    assert {name: each.state for name, each in checks.items()} == dict.fromkeys(
        ("keys", "write", "list", "read", "clock", "range", "conditions", "delete", "litestream"),
        CheckState.OK,
    )
    assert "one is refused" in checks["conditions"].found


def test_store_that_ignores_conditions_and_ranges_is_found_out(s3: S3Server) -> None:
    checks = checked(s3.url("fleet"), s3.environ)
    assert failures(checks) == []
    assert checks["conditions"].state is CheckState.WARNING
    assert "not kept" in checks["conditions"].found
    assert checks["range"].state is CheckState.WARNING
    assert checks["litestream"].state is CheckState.OK
    assert not [path for path in s3.folder.rglob("check/*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "found", "advice"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret is not this key id's", "AWS_SECRET"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "no such access key id", "AWS_ACCESS_KEY_ID"),
        ({"bucket": "edgy"}, "no such bucket", "bucket's name"),
        ({"scheme": "https"}, "does not speak TLS", "http://"),
        ({"port": ""}, "the connection is refused", "is the store up"),
        ({"host": "store.invalid"}, "its host is not known", "typo"),
    ],
)
def test_failure_is_explained(
    s3: S3Server, changes: dict[str, str], found: str, advice: str
) -> None:
    port = free_port() if "port" in changes else s3.port
    host, scheme = changes.get("host", "127.0.0.1"), changes.get("scheme", "http")
    bucket = changes.get("bucket", "edge")
    url = f"s3://{bucket}/fleet?endpoint={scheme}://{host}:{port}"
    environ = s3.environ | {name: value for name, value in changes.items() if name.isupper()}
    write = checked(url, environ)["write"]
    assert write.state is CheckState.FAILED
    assert found in write.found
    assert advice in write.advice
    assert s3.secret_access_key not in f"{write.found} {write.advice}"


def test_missing_key_is_the_first_failure(s3: S3Server) -> None:
    checks = checked(s3.url("fleet"), {})
    assert failures(checks) == ["keys"]
    assert list(checks) == ["keys"]


def test_command_exits_by_the_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = CliRunner().invoke(cli, ["replica", "check", "--from", str(tmp_path), "--json"])
    assert good.exit_code == 0
    assert {each["state"] for each in msgspec.json.decode(good.stdout)} == {"ok"}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    dead = f"s3://edge/fleet?endpoint=http://127.0.0.1:{free_port()}"
    bad = CliRunner().invoke(cli, ["replica", "check", "--from", dead])
    assert bad.exit_code == 1
    assert "the connection is refused" in bad.stdout
