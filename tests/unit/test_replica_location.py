"""``replica.url`` means one thing or is refused; keys are shown nowhere."""

import re
from pathlib import Path

import pytest

from edge_store.errors import ConfigError, ReplicaNotFound
from edge_store.ids import DeviceId
from edge_store.replica.bucket import open_bucket
from edge_store.replica.location import Credentials, Scheme, parse_location, read_credentials
from edge_store.replica.signatures import unsigned

DEVICE = DeviceId("box-a")
S3 = "s3://edge/fleet/north?endpoint=http://127.0.0.1:9000&region=eu-west-1"
SECRET = "never-to-be-seen"
HOST_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIB+5Q7sWgMLjK0mPT8UJ0oW5wqTqZbqg5D/7m1vZq2nR"
SERVICE_ACCOUNT = (
    '{"type":"service_account","client_email":"edge@example.com","private_key_id":"1",'
    '"private_key":"","gcs_base_url":"http://127.0.0.1:1","disable_oauth":true}'
)


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


def test_options_of_other_stores_reach_litestream() -> None:
    aws = parse_location("s3://edge/a?region=eu-central-1&kms_key=alias/edge&concurrency=2")
    assert aws.litestream_replica(DEVICE) == {
        "type": "s3",
        "path": "a/box-a/results.db",
        "bucket": "edge",
        "region": "eu-central-1",
        "sse-kms-key-id": "alias/edge",
        "concurrency": 2,
    }
    ceph = parse_location("s3://edge/a?endpoint=https://rgw.lan&path_style=false")
    assert ceph.litestream_replica(DEVICE)["force-path-style"] is False


def test_host_key_gives_its_own_type() -> None:
    options = f"host_key=ssh-ed25519%20{HOST_KEY}&key_file=/etc/edge/key"
    location = parse_location(f"sftp://edge@[::1]:2222/srv/edge/?{options}", environ={})
    assert str(location) == "sftp://edge@[::1]:2222/srv/edge"
    assert location.litestream_replica(DEVICE) == {
        "type": "sftp",
        "path": "/srv/edge/box-a/results.db",
        "host": "[::1]:2222",
        "user": "edge",
        "key-path": "/etc/edge/key",
        "host-key": f"ssh-ed25519 {HOST_KEY}",
    }
    assert location.key_prefix(DEVICE) == "box-a/results.db"


def test_private_key_of_systemd_comes_before_the_setting(tmp_path: Path) -> None:
    (tmp_path / "sftp-key").write_text(SECRET)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    url = f"sftp://edge@host/srv?host_key={HOST_KEY}&key_file=/absent"
    location = parse_location(url, environ=environ)
    assert location.key_file == str(tmp_path / "sftp-key")
    assert read_credentials(location, environ) is None


@pytest.mark.parametrize(
    ("url", "environ", "replica"),
    [
        (
            "gs://edge/a",
            {"GOOGLE_APPLICATION_CREDENTIALS": "{file}"},
            {"type": "gs", "path": "a/box-a/results.db", "bucket": "edge"},
        ),
        (
            "abs://account@edge/a",
            {"AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"},
            {
                "type": "abs",
                "path": "a/box-a/results.db",
                "bucket": "edge",
                "account-name": "account",
            },
        ),
        (
            "abs://account@edge?endpoint=https://account.blob.core.windows.net",
            {"AZURE_STORAGE_SAS_TOKEN": "?sv=2021&sig=a", "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"},
            {
                "type": "abs",
                "path": "box-a/results.db",
                "bucket": "edge",
                "account-name": "account",
                "endpoint": "https://account.blob.core.windows.net",
            },
        ),
    ],
)
def test_google_and_azure_are_passed_through(
    tmp_path: Path, url: str, environ: dict[str, str], replica: dict[str, str]
) -> None:
    file = tmp_path / "account.json"
    file.write_text(SERVICE_ACCOUNT)
    environ = {name: value.format(file=file) for name, value in environ.items()}
    location = parse_location(url)
    assert location.litestream_replica(DEVICE) == replica
    credentials = read_credentials(location, environ)
    assert credentials is not None
    open_bucket(location, credentials)
    (handed_over,) = credentials.environment().items()
    assert handed_over in {
        ("GOOGLE_APPLICATION_CREDENTIALS", str(file)),
        ("LITESTREAM_AZURE_ACCOUNT_KEY", "c2VjcmV0"),
        ("LITESTREAM_AZURE_SAS_TOKEN", "sv=2021&sig=a"),
    }


def test_emulator_of_google_is_asked_without_keys() -> None:
    """Litestream has its address from the environment alone, as all of Google's clients."""
    location = parse_location("gs://edge/a?endpoint=http://127.0.0.1:4443/")
    assert location.litestream_replica(DEVICE) == {
        "type": "gs",
        "path": "a/box-a/results.db",
        "bucket": "edge",
    }
    credentials = read_credentials(location, {})
    assert credentials is not None
    assert credentials.environment() == {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:4443"}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://storage.googleapis.com",
        "http://STORAGE.googleapis.com:443/",
        "https://googleapis.com.",
    ],
)
def test_google_itself_is_not_asked_without_keys(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="asked without keys") as caught:
        read_credentials(parse_location(f"gs://edge/a?endpoint={endpoint}"), {})
    assert caught.value.hint == "leave out endpoint= for Google itself"
    for other in ("https://googleapis.com.lan", "https://mygoogleapis.com"):
        assert read_credentials(parse_location(f"gs://edge/a?endpoint={other}"), {}) is not None


def test_signature_in_what_litestream_says_is_not_passed_on() -> None:
    """It logs the whole address that it could not reach."""
    line = rb'"error":"Get \"http://a.net/edge?restype=container\u0026sig=Eh%2FA%3D\u0026sp=rl\""'
    assert unsigned(line) == line.replace(b"Eh%2FA%3D", b"(not shown)")
    assert unsigned(b"?sig=Eh/A= failed") == b"?sig=(not shown) failed"
    assert unsigned(b"to=a.net%3Fsig%3DEh%252FA%253D") == b"to=a.net%3Fsig%3D(not shown)"
    assert unsigned(b"to=a.net%253Fsig%253dEh%25252FA x") == b"to=a.net%253Fsig%253d(not shown) x"


def test_bucket_without_a_prefix_starts_at_the_device_id() -> None:
    location = parse_location("s3://edge")
    assert location.for_device(DEVICE) == "box-a/results.db"
    assert location.key_prefix() is None
    assert "endpoint" not in location.litestream_replica(DEVICE)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "not an address"),
        ("nats://host/bucket", "not an address"),
        ("gs://", "no bucket"),
        ("abs://container/a", "no storage account"),
        ("sftp://host/folder", "needs a user"),
        ("sftp://edge@host:22/", "a folder"),
        (f"sftp://edge:{SECRET}@host/folder", "a password before"),
        ("sftp://edge@host/folder", "names no host key"),
        ("sftp://edge@host/folder?host_key=AAAA", "is not a public key"),
        ("s3://edge/a?path_style=yes", "path_style = 'yes' is neither true nor false"),
        ("s3://edge/a?concurrency=0", "concurrency = '0' is not a number from 1"),
        (f"s3://edge/a?path_style={SECRET}", "its path_style is neither"),
        ("gs://edge/a?region=x", "'region' is not one of endpoint"),
        ("file://relative/folder", "three slashes"),
        ("file:///folder?region=x", "no options"),
        ("s3:///prefix", "no bucket"),
        ("s3://edge/a#b", "`#`"),
        ("s3://edge/a?regoin=x", "'regoin' is not one of"),
        ("s3://edge/a?region=", "is empty"),
        ("s3://edge/a?region=x&region=y", "given twice"),
        ("s3://edge/a?endpoint=127.0.0.1:9000", "endpoint = '127.0.0.1:9000' is not an http"),
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


def test_wrong_option_is_answered_with_an_example_of_it() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_location("s3://edge/a?concurrency=many")
    assert str(caught.value.hint).endswith("as in concurrency=4")


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


def test_addresses_in_the_documentation_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "replica.md").read_text()
    found = set(re.findall(r"(?:file|s3|sftp|gs|abs)://[^\s`'\"|)]+\w", text))
    addresses = {each for each in found if "…" not in each}
    assert {Scheme(each.partition("://")[0]) for each in addresses} == {*Scheme}
    for address in addresses:
        pinned = f"?host_key={HOST_KEY}" if address.startswith("sftp://") else ""
        parse_location(address + pinned)


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY is not set"):
        read_credentials(parse_location(S3), {"AWS_ACCESS_KEY_ID": "a"})


def test_absent_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(ReplicaNotFound, match="no such folder"):
        open_bucket(parse_location(str(tmp_path / "absent")), None)


def test_each_s3_address_of_the_documentation_is_opened() -> None:
    page = Path(__file__).parents[2] / "docs" / "replica.md"
    addresses = set(re.findall(r"`(s3://[^`\s]+)`", page.read_text(encoding="utf-8")))
    assert "s3://bucket/prefix?region=eu-central-1" in addresses
    keys = Credentials(access_key_id="name", secret_access_key="key")
    for address in addresses:
        open_bucket(parse_location(address), keys)
