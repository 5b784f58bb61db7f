"""Where replicas lie: ``replica.url`` as one record, and the keys to it.

A location is a prefix; each box writes below it under its device id, at
``<prefix>/<device id>/results.db``. Keys never enter a URL, a ``repr`` or a log.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edge_store.config import read_credential
from edge_store.errors import ConfigError
from edge_store.ids import DeviceId
from edge_store.replica.address import Scheme, host_key_type, read_address
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
AWS_KEYS = {
    "AWS_ACCESS_KEY_ID": "aws-access-key-id",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-access-key",
}
AZURE_KEY = {"AZURE_STORAGE_ACCOUNT_KEY": "azure-account-key"}
AZURE_SAS = ("AZURE_STORAGE_SAS_TOKEN", "azure-sas-token")
GCS_FILE = ("GOOGLE_APPLICATION_CREDENTIALS", "gcs-service-account")
SFTP_CREDENTIAL = "sftp-key"


class Credentials(Record, frozen=True, kw_only=True):
    """The keys of an object store; only those of its scheme are set. Shown nowhere."""

    access_key_id: str = ""
    secret_access_key: str = ""
    account_key: str = ""
    sas_token: str = ""  # a query string without its `?`, at Azure
    file: str = ""  # of a service account, at Google
    emulator: str = ""  # the address of one of Google's store, which asks for no keys

    def __repr__(self) -> str:
        return "Credentials(…)"

    def environment(self) -> dict[str, str]:
        """As Litestream reads them."""
        names = {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "LITESTREAM_AZURE_ACCOUNT_KEY": self.account_key,
            "LITESTREAM_AZURE_SAS_TOKEN": self.sas_token,
            "GOOGLE_APPLICATION_CREDENTIALS": self.file,
            "STORAGE_EMULATOR_HOST": self.emulator,
        }
        return {name: value for name, value in names.items() if value}


class Location(Record, frozen=True, kw_only=True):
    """A prefix under which boxes write. ``path`` is an absolute folder, or a key prefix without
    slashes at its ends. ``bucket`` is Azure's container, too.
    """

    scheme: Scheme
    path: str
    bucket: str = ""
    endpoint: str | None = None
    region: str = DEFAULT_REGION
    path_style: bool | None = None  # None: with an endpoint, as all but AWS want it
    kms_key: str | None = None
    concurrency: int | None = None  # of the parts of one upload
    account: str = ""
    user: str = ""
    host: str = ""
    port: int = 0
    host_key: str = ""  # in base64, without its type
    key_file: str = ""
    keys: str = ""  # which of several sets of keys: see ``read_credentials``

    def __str__(self) -> str:
        match self.scheme:
            case Scheme.FILE:
                return f"file://{self.path}"
            case Scheme.SFTP:
                return f"sftp://{self.user}@{self._host_and_port}{self.path}"
            case Scheme.AZURE:
                place = f"{self.account}@{self.bucket}"
            case Scheme.S3 | Scheme.GCS:
                place = self.bucket
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"{self.scheme}://{place}/{self.path}".rstrip("/") + at

    @property
    def _host_and_port(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def variable(self, name: str) -> str:
        """What the variable ``name``, of a key, is called for this place."""
        return f"{self.keys.upper().replace('-', '_')}_{name}" if self.keys else name

    def for_device(self, device_id: DeviceId) -> str:
        """The path of one box's replica: a folder, or a key prefix in the bucket."""
        return "/".join(part for part in (self.path, device_id, DATABASE_NAME) if part)

    def litestream_replica(self, device_id: DeviceId) -> dict[str, Any]:
        """Litestream's ``replica`` table for that box. Keys come from its environment."""
        return {
            "type": self.scheme.value,
            "path": self.for_device(device_id),
            **{name: value for name, value in self._litestream_options() if value is not None},
        }

    def _litestream_options(self) -> Iterator[tuple[str, Any]]:
        match self.scheme:
            case Scheme.FILE:
                return
            case Scheme.SFTP:
                yield "host", self._host_and_port
                yield "user", self.user
                yield "key-path", self.key_file
                yield "host-key", f"{host_key_type(self.host_key)} {self.host_key}"
                return
            case Scheme.S3:
                yield "region", self.region
                yield "force-path-style", self.is_path_style if self._has_style else None
                yield "sse-kms-key-id", self.kms_key
                yield "concurrency", self.concurrency
            case Scheme.AZURE:
                yield "account-name", self.account
        yield "bucket", self.bucket
        if self.scheme is not Scheme.GCS:  # Litestream knows none there but of its environment
            yield "endpoint", self.endpoint

    @property
    def _has_style(self) -> bool:
        return self.endpoint is not None or self.path_style is not None

    @property
    def is_path_style(self) -> bool:
        """Whether the bucket is in the path of a request, and not in the name of the host."""
        return self.endpoint is not None if self.path_style is None else self.path_style

    @property
    def is_folder(self) -> bool:
        """Whether ``path`` is where the keys of its bucket begin, and no prefix of them."""
        return self.scheme in (Scheme.FILE, Scheme.SFTP)

    def key_prefix(self, device_id: DeviceId | None = None) -> str | None:
        """What to list in its bucket: everything, or one box's replica."""
        root = "" if self.is_folder else self.path
        parts = (root, device_id, DATABASE_NAME) if device_id else (root,)
        return "/".join(part for part in parts if part) or None


def parse_location(
    url: str,
    *,
    key: str = "replica.url",
    keys: str = "",
    environ: Mapping[str, str] = os.environ,
) -> Location:
    """Parse the address of replicas (see ``read_address``), or a plain folder. ``keys`` names the
    set of keys that are its own, where there is more than one place.

    Raises:
        ConfigError: it is neither. ``key`` names the setting or flag in the message.
    """
    if "://" not in url and url:
        return Location(scheme=Scheme.FILE, path=str(Path(url).expanduser().absolute()))
    location = Location(**read_address(url, key=key), keys=keys)
    if location.scheme is not Scheme.SFTP:
        return location
    if not location.host_key:
        raise ConfigError(
            f"{key}: {location} names no host key: whoever stands between could pose as that host",
            hint=f"get it by `ssh-keyscan -t ecdsa -p {location.port} {location.host}`, compare "
            "it with the host's own, and set replica.sftp_host_key, or &host_key=AAAA… in the URL",
        )
    file = _credential_file(_credential(location, SFTP_CREDENTIAL), environ) or location.key_file
    return msgspec.structs.replace(location, key_file=file)


def _credential(location: Location, name: str) -> str:
    """What systemd calls the credential that serves ``location``."""
    return f"{location.keys}-{name}" if location.keys else name


def _credential_file(name: str, environ: Mapping[str, str]) -> str:
    """The file of a systemd credential; empty when there is none."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, name) if folder else None
    return str(path) if path is not None and path.exists() else ""


def read_credentials(
    location: Location, environ: Mapping[str, str] = os.environ
) -> Credentials | None:
    """The keys for ``location``; None where there are none to hand over. systemd's credential files
    come first. With ``location.keys`` the names of both begin with that: of ``site-a``,
    ``site-a-aws-access-key-id`` and ``SITE_A_AWS_ACCESS_KEY_ID``.

    Raises:
        ConfigError: a key is missing or cannot be read.
    """
    match location.scheme:
        case Scheme.FILE:
            return None
        case Scheme.SFTP:
            name = _credential(location, SFTP_CREDENTIAL)
            hint = f"set replica.sftp_key_file, or LoadCredential={name}: in the unit"
            _require_file(location, location.key_file, "a private key", hint)
            return None
        case Scheme.S3:
            found = _read_keys(location, AWS_KEYS, environ)
            return Credentials(access_key_id=found[0], secret_access_key=found[1])
        case Scheme.AZURE:
            return _read_azure(location, environ)
        case Scheme.GCS:
            return _read_google(location, environ)


def _read_azure(location: Location, environ: Mapping[str, str]) -> Credentials:
    """A signature of shared access comes before the account's key, which may do more."""
    variable, name = location.variable(AZURE_SAS[0]), _credential(location, AZURE_SAS[1])
    token = read_credential(name, variable, environ)
    if token:
        return Credentials(sas_token=token.removeprefix("?"))
    return Credentials(account_key=_read_keys(location, AZURE_KEY, environ)[0])


def _read_google(location: Location, environ: Mapping[str, str]) -> Credentials:
    if location.endpoint:
        if f".{urlsplit(location.endpoint).hostname}".rstrip(".").endswith(".googleapis.com"):
            raise ConfigError(
                f"{location}: an endpoint is an emulator, which is asked without keys",
                hint="leave out endpoint= for Google itself",
            )
        return Credentials(emulator=location.endpoint)
    variable, name = location.variable(GCS_FILE[0]), _credential(location, GCS_FILE[1])
    file = _credential_file(name, environ) or environ.get(variable, "")
    hint = f"name it in {variable}, or LoadCredential={name}: in the unit"
    _require_file(location, file, "the key file of a service account", hint)
    return Credentials(file=file)


def _require_file(location: Location, file: str, what: str, hint: str) -> None:
    if not file:
        raise ConfigError(f"{location} needs {what}, and none is named", hint=hint)
    try:
        with Path(file).open("rb"):
            pass
    except OSError as exc:
        raise ConfigError(
            f"{location} needs {what}: {file} cannot be read: {exc.strerror}", hint=hint
        ) from exc


def _read_keys(
    location: Location, names: Mapping[str, str], environ: Mapping[str, str]
) -> list[str]:
    found = []
    for plain_variable, plain_name in names.items():
        variable, name = location.variable(plain_variable), _credential(location, plain_name)
        value = read_credential(name, variable, environ)
        if not value:
            raise ConfigError(
                f"{location} needs a key, and {variable} is not set",
                hint=f"set it in the environment, or LoadCredential={name}: in the unit",
            )
        found.append(value)
    return found
