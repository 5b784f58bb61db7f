"""What Litestream is given: a configuration that it accepts, and a clean environment."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_store.config import ReplicaSection
from edge_store.errors import LitestreamUnavailable
from edge_store.ids import DeviceId
from edge_store.replica.litestream import (
    check_config,
    child_environment,
    find_litestream,
    render_config,
)
from edge_store.replica.location import Credentials, parse_location

URLS = [
    "file:///replicas/$HOME and more",
    "s3://edge/fleet?endpoint=http://127.0.0.1:9000",
    "s3://edge/fleet?region=eu-central-1&kms_key=alias/edge&concurrency=2&path_style=true",
    (
        "sftp://edge@host:2222/srv?key_file=/k&host_key="
        "AAAAC3NzaC1lZDI1NTE5AAAAIB+5Q7sWgMLjK0mPT8UJ0oW5wqTqZbqg5D/7m1vZq2nR"
    ),
    "gs://edge/fleet",
    "abs://account@edge/fleet?endpoint=http://127.0.0.1:10000",
]


def rendered(folder: Path, url: str) -> bytes:
    return render_config(
        database=folder / "results.db",
        meta_path=folder / "litestream",
        socket=folder / "litestream.sock",
        replica=parse_location(url).litestream_replica(DeviceId("box-a")),
        section=ReplicaSection(snapshot_retention_s=1e7, monitor_interval_s=0.25),
    )


@pytest.mark.parametrize("url", URLS)
def test_litestream_accepts_the_configuration(tmp_path: Path, url: str) -> None:
    config = tmp_path / "litestream.yml"
    config.write_bytes(rendered(tmp_path, url))
    check_config(find_litestream(), config, tmp_path / "results.db")


def test_configuration_without_our_database_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "litestream.yml"
    config.write_text("{}")
    with pytest.raises(LitestreamUnavailable, match="does not accept"):
        check_config(find_litestream(), config, tmp_path / "results.db")


def test_sftp_settings_are_part_of_the_address() -> None:
    section = ReplicaSection(
        url="sftp://edge@host/srv", sftp_host_key="AAAA+/=", sftp_key_file="keys/id"
    )
    resolved = section.resolved(Path("/etc/edge"), Path("/var/x.db"))
    assert resolved.url == "sftp://edge@host/srv?host_key=AAAA+/=&key_file=/etc/edge/keys/id"


def test_durations_are_what_go_reads(tmp_path: Path) -> None:
    config: dict[str, Any] = msgspec.json.decode(rendered(tmp_path, URLS[0]))
    assert config["snapshot"] == {"interval": "43200000ms", "retention": "10000000000ms"}
    assert config["dbs"][0]["monitor-interval"] == "250ms"
    assert config["dbs"][0]["replica"]["path"] == "/replicas/$HOME and more/box-a/results.db"


def test_child_sees_its_keys_and_nothing_that_breaks_it() -> None:
    environ = {
        "PATH": "/bin",
        "AWS_CA_BUNDLE": "/etc/ca.pem",
        "AWS_PROFILE": "other",
        "EDGE_STORE_STORE__PATH": "x",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    keys = Credentials(access_key_id="a", secret_access_key="b")
    assert child_environment(keys, environ) == {
        "PATH": "/bin",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
