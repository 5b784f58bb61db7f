"""Where replicas lie: the one parser of ``replica.url``, and the keys to it.

A location is a prefix; each box writes below it under its device id, at
``<prefix>/<device id>/results.db``. A file URL is taken literally (no percent-decoding), because
the default one is made from a path. Keys never enter a URL, a ``repr`` or a log.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from obstore.store import LocalStore, S3Store

from edge_store.config import read_credential
from edge_store.errors import ConfigError, ReplicaNotFound
from edge_store.ids import DeviceId
from edge_store.result import Record

__all__ = [
    "DATABASE_NAME",
    "Credentials",
    "Location",
    "Scheme",
    "parse_location",
    "read_credentials",
]

DATABASE_NAME = "results.db"  # the last part of every box's path, whatever its file is called
DEFAULT_REGION = "us-east-1"  # what stores other than AWS's own expect
S3_OPTIONS = ("endpoint", "region")
CREDENTIAL_FILES = {
    "AWS_ACCESS_KEY_ID": "aws-access-key-id",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-access-key",
}

CONNECT_TIMEOUT, REQUEST_TIMEOUT = "3s", "10s"
DOWNLOAD_TIMEOUT = "1h"  # of one request; a read that stalls ends after REQUEST_TIMEOUT
RETRY_TIMEOUT = timedelta(seconds=10)


class Scheme(StrEnum):
    """The kinds of replica that are supported."""

    FILE = "file"
    S3 = "s3"


class Credentials(Record, frozen=True, kw_only=True):
    """The keys of an object store. Shown nowhere."""

    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return "Credentials(…)"


class Location(Record, frozen=True, kw_only=True):
    """A prefix under which boxes write. ``path`` is an absolute folder, or a key prefix without
    slashes at its ends.
    """

    scheme: Scheme
    path: str
    bucket: str = ""
    endpoint: str | None = None
    region: str = DEFAULT_REGION

    def __str__(self) -> str:
        if self.scheme is Scheme.FILE:
            return f"file://{self.path}"
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"s3://{self.bucket}/{self.path}".rstrip("/") + at

    def for_device(self, device_id: DeviceId) -> str:
        """The path of one box's replica: a folder, or a key prefix in the bucket."""
        return "/".join(part for part in (self.path, device_id, DATABASE_NAME) if part)

    def litestream_replica(self, device_id: DeviceId) -> dict[str, Any]:
        """Litestream's ``replica`` table for that box. Keys come from its environment."""
        path = self.for_device(device_id)
        if self.scheme is Scheme.FILE:
            return {"type": "file", "path": path}
        replica: dict[str, Any] = {
            "type": "s3",
            "bucket": self.bucket,
            "path": path,
            "region": self.region,
        }
        if self.endpoint:
            replica |= {"endpoint": self.endpoint, "force-path-style": True}
        return replica

    def key_prefix(self, device_id: DeviceId | None = None) -> str | None:
        """What to list in ``store()``: everything, or one box's replica."""
        root = self.path if self.scheme is Scheme.S3 else ""
        parts = (root, device_id, DATABASE_NAME) if device_id else (root,)
        return "/".join(part for part in parts if part) or None

    def store(
        self, credentials: Credentials | None, *, for_download: bool = False
    ) -> LocalStore | S3Store:
        """The store to list, with short timeouts and one retry. ``for_download`` it has no bound
        but of each read, and tries nothing again: what has arrived is the caller's to keep.

        Raises:
            ReplicaNotFound: the folder is not there.
        """
        if self.scheme is Scheme.FILE:
            if not Path(self.path).is_dir():
                raise ReplicaNotFound(
                    f"{self}: there is no such folder",
                    hint="check the address, and that the disk is mounted",
                )
            return LocalStore(self.path)
        assert credentials is not None, "read_credentials comes before store"
        return S3Store(
            bucket=self.bucket,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=credentials.access_key_id,
            secret_access_key=credentials.secret_access_key,
            virtual_hosted_style_request=self.endpoint is None,
            client_options={
                "allow_http": bool(self.endpoint and self.endpoint.startswith("http://")),
                "timeout": DOWNLOAD_TIMEOUT if for_download else REQUEST_TIMEOUT,
                "read_timeout": REQUEST_TIMEOUT,
                "connect_timeout": CONNECT_TIMEOUT,
            },
            retry_config={
                "max_retries": 0 if for_download else 1,
                "retry_timeout": RETRY_TIMEOUT,
            },
        )


def parse_location(url: str, *, key: str = "replica.url") -> Location:
    """Parse ``file:///folder``, ``s3://bucket/prefix?endpoint=…&region=…``, or a plain folder.

    Raises:
        ConfigError: it is none of these. ``key`` names the setting or flag in the message, which
            never shows the values of options: one of them may be a misplaced secret.
    """
    if "://" not in url and url:
        return Location(scheme=Scheme.FILE, path=str(Path(url).expanduser().absolute()))
    scheme, _, rest = url.partition("://")
    shown = f"{key} = {url.partition('?')[0]!r}"
    if scheme == "file":
        return _parse_file(rest, shown)
    if scheme == "s3":
        return _parse_s3(url, shown, key)
    raise ConfigError(
        f"{shown} is not an address of replicas",
        hint="use file:///folder or s3://bucket/prefix?endpoint=https://host",
    )


def _parse_file(rest: str, shown: str) -> Location:
    if not rest.startswith("/"):
        raise ConfigError(
            f"{shown}: a file address needs three slashes and an absolute folder",
            hint="as in file:///var/backups/edge",
        )
    if "?" in rest:
        raise ConfigError(f"{shown}: a file address has no options", hint="drop the part from `?`")
    return Location(scheme=Scheme.FILE, path=str(Path(rest)))


def _parse_s3(url: str, shown: str, key: str) -> Location:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{key} holds a user or key before `@`",
            hint="keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from systemd",
        )
    if not parts.netloc:
        raise ConfigError(f"{shown} names no bucket", hint="as in s3://bucket/prefix")
    if parts.fragment:
        raise ConfigError(f"{shown} has a `#`", hint="drop the part from `#`")
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in S3_OPTIONS or name in options or not value:
            problem = "is given twice" if name in options else "is empty"
            raise ConfigError(
                f"{key}: the option {name!r} "
                f"{problem if name in S3_OPTIONS else 'is not one of ' + ', '.join(S3_OPTIONS)}",
                hint="as in s3://bucket/prefix?endpoint=https://host:9000&region=us-east-1",
            )
        options[name] = value
    endpoint = options.get("endpoint")
    if endpoint is not None:
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
            raise ConfigError(
                f"{key}: its endpoint is not an http:// or https:// address",
                hint="as in endpoint=https://host:9000",
            )
        endpoint = endpoint.rstrip("/")
    prefix = "/".join(part for part in parts.path.split("/") if part)
    return Location(
        scheme=Scheme.S3,
        path=prefix,
        bucket=parts.netloc,
        endpoint=endpoint,
        region=options.get("region", DEFAULT_REGION),
    )


def read_credentials(
    location: Location, environ: Mapping[str, str] = os.environ
) -> Credentials | None:
    """The keys for ``location``; None for a folder. systemd's credential files come first.

    Raises:
        ConfigError: a key is missing or cannot be read.
    """
    if location.scheme is Scheme.FILE:
        return None
    found = {}
    for variable, name in CREDENTIAL_FILES.items():
        value = read_credential(name, variable, environ)
        if not value:
            raise ConfigError(
                f"{location} needs a key, and {variable} is not set",
                hint=f"set it in the environment, or LoadCredential={name}: in the unit",
            )
        found[variable] = value
    return Credentials(
        access_key_id=found["AWS_ACCESS_KEY_ID"], secret_access_key=found["AWS_SECRET_ACCESS_KEY"]
    )
