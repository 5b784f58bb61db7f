"""The grammar of ``replica.url``: a scheme, a place, a prefix, and the options of that scheme.

Nothing is looked up here. A file URL is taken literally (no percent-decoding), because the default
one is made from a path. Keys never enter a URL; messages show the value of an option only where it
cannot well be a misplaced secret.
"""

import base64
import binascii
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from edge_store.errors import ConfigError

__all__ = ["SCHEMES", "Scheme", "host_key_type", "read_address"]

HOST_KEY_TYPES = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
)  # fmt: skip
SFTP_PORT = 22
CONCURRENCY_MAX = 64


class Scheme(StrEnum):
    """The kinds of replica that are supported."""

    FILE = "file"
    S3 = "s3"
    SFTP = "sftp"
    GCS = "gs"
    AZURE = "abs"


SCHEMES = ", ".join(f"{scheme}://" for scheme in Scheme)


def read_address(url: str, *, key: str) -> dict[str, Any]:
    """The parts of a URL, by the names of ``Location``'s fields.

    Raises:
        ConfigError: it is not an address of replicas. ``key`` names the setting in the message.
    """
    shown = f"{key} = {url.partition('?')[0]!r}"
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return _read_file(rest, shown)
    if scheme not in (*READERS,):
        raise ConfigError(
            f"{shown} is not an address of replicas",
            hint=f"use one of {SCHEMES}, as in file:///folder or "
            "s3://bucket/prefix?endpoint=https://host",
        )
    if scheme not in ("sftp", "abs") and "@" in urlsplit(url).netloc:
        raise ConfigError(
            f"{key} holds a user or key before `@`",
            hint="keys come from the environment or from systemd's credentials",
        )
    parts = urlsplit(url)
    if ":" in parts.netloc.rpartition("@")[0]:
        raise ConfigError(
            f"{key} holds a password before `@`",
            hint="keys come from the environment or from systemd's credentials",
        )
    if parts.fragment:
        raise ConfigError(f"{shown} has a `#`", hint="drop the part from `#`")
    reader, options = READERS[Scheme(scheme)]
    given = _read_options(parts.query, options, key, Scheme(scheme))
    return {"scheme": Scheme(scheme), **reader(parts, shown), **given}


def _read_file(rest: str, shown: str) -> dict[str, Any]:
    if not rest.startswith("/"):
        raise ConfigError(
            f"{shown}: a file address needs three slashes and an absolute folder",
            hint="as in file:///var/backups/edge",
        )
    if "?" in rest:
        raise ConfigError(f"{shown}: a file address has no options", hint="drop the part from `?`")
    return {"scheme": Scheme.FILE, "path": str(Path(rest))}


def _read_bucket(parts: SplitResult, shown: str) -> dict[str, Any]:
    if not parts.netloc:
        raise ConfigError(f"{shown} names no bucket", hint="as in s3://bucket/prefix")
    return {"bucket": parts.netloc, "path": _prefix(parts)}


def _read_container(parts: SplitResult, shown: str) -> dict[str, Any]:
    account, _, container = parts.netloc.rpartition("@")
    if not account or not container:
        raise ConfigError(
            f"{shown} names no storage account and container",
            hint="as in abs://account@container/a",
        )
    return {"account": account, "bucket": container, "path": _prefix(parts)}


def _read_host(parts: SplitResult, shown: str) -> dict[str, Any]:
    try:
        port = parts.port or SFTP_PORT
    except ValueError:
        raise ConfigError(f"{shown} has no such port", hint="as in sftp://user@host:22/x") from None
    if not parts.username or not parts.hostname or parts.path in ("", "/"):
        raise ConfigError(
            f"{shown} needs a user, a host and a folder", hint="as in sftp://edge@host:22/srv/edge"
        )
    return {
        "user": parts.username,
        "host": parts.hostname,
        "port": port,
        "path": "/" + _prefix(parts),
    }


def _prefix(parts: SplitResult) -> str:
    return "/".join(part for part in parts.path.split("/") if part)


def _read_options(
    query: str, options: dict[str, "Reader"], key: str, scheme: Scheme
) -> dict[str, Any]:
    """Each option at most once, with a value that its reader takes. A ``+`` is a ``+``: it is a
    digit of base64.
    """
    found: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        name, text = unquote(name), unquote(text)
        if name not in options:
            known = f"one of {', '.join(options)}" if options else f"known: {scheme} has none"
            raise ConfigError(f"{key}: the option {name!r} is not {known}", hint=EXAMPLES[scheme])
        if name in found:
            raise ConfigError(f"{key}: the option {name!r} is given twice", hint=EXAMPLES[scheme])
        if not text:
            raise ConfigError(f"{key}: the option {name!r} is empty", hint=EXAMPLES[scheme])
        try:
            found[name] = options[name](text)
        except ValueError as exc:
            shown = f" = {text!r}" if name in SHOWN and SHOWN[name].fullmatch(text) else ""
            raise ConfigError(
                f"{key}: its {name}{shown} {exc}", hint=OPTION_EXAMPLES.get(name, EXAMPLES[scheme])
            ) from None
    return found


def _endpoint(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
        raise ValueError("is not an http:// or https:// address")
    return text.rstrip("/")


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text == "true"


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= CONCURRENCY_MAX:
        raise ValueError(f"is not a number from 1 to {CONCURRENCY_MAX}")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:/-]{1,512}", text):
        raise ValueError("has characters that no such name has")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("is not an absolute path")
    return text


def _host_key(text: str) -> str:
    """The base64 part of a public key, alone or as ``ssh-keyscan`` prints it after the host."""
    words = text.split()
    blob = words[1] if len(words) > 1 and words[0] in HOST_KEY_TYPES else words[0] if words else ""
    host_key_type(blob)
    return blob


def host_key_type(blob: str) -> str:
    """What kind of key it is: the first field inside it says so.

    Raises:
        ValueError: it is no public key of SSH.
    """
    try:
        content = base64.b64decode(blob, validate=True)
        kind = content[4 : 4 + int.from_bytes(content[:4], "big")].decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        kind = ""
    if kind not in HOST_KEY_TYPES:
        raise ValueError("is not a public key of an SSH server (AAAA…)")
    return kind


Reader = Callable[[str], Any]
READERS: dict[Scheme, tuple[Callable[[SplitResult, str], dict[str, Any]], dict[str, Reader]]] = {
    Scheme.S3: (
        _read_bucket,
        {
            "endpoint": _endpoint,
            "region": _name,
            "path_style": _boolean,
            "kms_key": _name,
            "concurrency": _count,
        },
    ),
    Scheme.SFTP: (_read_host, {"host_key": _host_key, "key_file": _absolute}),
    Scheme.GCS: (_read_bucket, {"endpoint": _endpoint}),
    Scheme.AZURE: (_read_container, {"endpoint": _endpoint}),
}
# Mistyped, and not misplaced: what cannot well be a secret is shown.
SHOWN = {
    "endpoint": re.compile(r"[A-Za-z0-9.:/_-]{1,100}"),
    "path_style": re.compile(r"[A-Za-z0-9]{1,8}"),
    "concurrency": re.compile(r"[A-Za-z0-9.+-]{1,8}"),
}
OPTION_EXAMPLES = {
    "endpoint": "as in endpoint=https://host:9000; keys come from the environment",
    "path_style": "path_style=true: the bucket is in the path, as most stores but AWS want it",
    "concurrency": "how many parts of one upload are sent at once, as in concurrency=4",
}
EXAMPLES = {
    Scheme.S3: "as in s3://bucket/prefix?endpoint=https://host:9000&region=us-east-1",
    Scheme.SFTP: "as in sftp://edge@host:22/srv/edge?host_key=AAAA…&key_file=/etc/edge/id_ed25519",
    Scheme.GCS: "as in gs://bucket/prefix",
    Scheme.AZURE: "as in abs://account@container/prefix",
}
