"""``replica.url`` means one thing or is refused; keys are shown nowhere."""

from pathlib import Path

import pytest

from edge_store.errors import ConfigError, ReplicaNotFound
from edge_store.ids import DeviceId
from edge_store.replica.location import Credentials, Scheme, parse_location, read_credentials

DEVICE = DeviceId("box-a")
S3 = "s3://edge/fleet/north?endpoint=http://127.0.0.1:9000&region=eu-west-1"
SECRET = "never-to-be-seen"


def test_folder_is_written_below_the_device_id() -> None:
    location = parse_location("file:///var/backups/edge/")
    assert location.litestream_replica(DEVICE) == {
        "type": "file",
        "path": "/var/backups/edge/box-a/results.db",
    }
    assert location.key_prefix(DEVICE) == "box-a/results.db"
    assert location.key_prefix() is None


def test_file_address_is_taken_literally() -> None:
    assert parse_location("file:///a b/%41#1").path == "/a b/%41#1"


def test_plain_folder_is_a_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_location("replicas").path == str(tmp_path / "replicas")


def test_bucket_with_an_endpoint_is_addressed_by_path() -> None:
    location = parse_location(S3)
    assert location.scheme is Scheme.S3
    assert location.litestream_replica(DEVICE) == {
        "type": "s3",
        "bucket": "edge",
        "path": "fleet/north/box-a/results.db",
        "region": "eu-west-1",
        "endpoint": "http://127.0.0.1:9000",
        "force-path-style": True,
    }
    assert location.key_prefix() == "fleet/north"


def test_bucket_without_a_prefix_starts_at_the_device_id() -> None:
    location = parse_location("s3://edge")
    assert location.for_device(DEVICE) == "box-a/results.db"
    assert location.key_prefix() is None
    assert "endpoint" not in location.litestream_replica(DEVICE)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "not an address"),
        ("gs://bucket/prefix", "not an address"),
        ("file://relative/folder", "three slashes"),
        ("file:///folder?region=x", "no options"),
        ("s3:///prefix", "no bucket"),
        ("s3://edge/a#b", "`#`"),
        ("s3://edge/a?regoin=x", "'regoin' is not one of"),
        ("s3://edge/a?region=", "is empty"),
        ("s3://edge/a?region=x&region=y", "given twice"),
        ("s3://edge/a?endpoint=127.0.0.1:9000", "not an http"),
        (f"s3://key:{SECRET}@edge/a", "before `@`"),
        (f"s3://edge/a?secret-access-key={SECRET}", "is not one of"),
        (f"s3://edge/a?endpoint=http://key:{SECRET}@host", "not an http"),
    ],
)
def test_wrong_address_names_the_key_and_no_secret(url: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_location(url)
    assert str(caught.value).startswith("replica.url")
    assert part in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_folder_needs_no_keys() -> None:
    assert read_credentials(parse_location("/replicas"), {}) is None


def test_keys_come_from_systemd_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "aws-access-key-id").write_text("from-file\n")
    environ = {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "from-environment",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    credentials = read_credentials(parse_location(S3), environ)
    assert credentials == Credentials(access_key_id="from-file", secret_access_key=SECRET)
    assert SECRET not in repr(credentials)


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY is not set"):
        read_credentials(parse_location(S3), {"AWS_ACCESS_KEY_ID": "a"})


def test_absent_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(ReplicaNotFound, match="no such folder"):
        parse_location(str(tmp_path / "absent")).store(None)
