"""Secrets: from systemd's credentials or the environment, never from the configuration file."""

import os
from collections.abc import Mapping
from pathlib import Path

from edge_store.errors import ConfigError

__all__ = ["read_credential", "read_secrets"]

BYTES_MAX = 4096
LIST_BYTES_MAX = 64 * 1024


def read_credential(name: str, variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """The credential ``name`` of the unit (``LoadCredential=``, systemd.exec(5)), else the
    environment's ``variable``, else an empty string.

    Raises:
        ConfigError: it cannot be read, or no key looks like that. The message never quotes it.
    """
    source, value = _read(name, variable, BYTES_MAX, environ)
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"{source} has characters that no key has", hint="check the credential")
    return value


def read_secrets(
    name: str, variable: str, file: str = "", environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Several, from where ``read_credential`` looks, else from ``file``: what stands between white
    space, but for lines that begin with ``#``.

    Raises:
        ConfigError: they cannot be read, or something there is no text.
    """
    source, value = _read(name, variable, LIST_BYTES_MAX, environ)
    if not value and file:
        source, value = file, _text(Path(file), LIST_BYTES_MAX)
    lines = [line for line in value.splitlines() if not line.lstrip().startswith("#")]
    found = tuple(word for line in lines for word in line.split())
    if not all(word.isascii() and word.isprintable() for word in found):
        raise ConfigError(f"{source} has characters that no URL has", hint="check the credential")
    return tuple(dict.fromkeys(found))


def _read(name: str, variable: str, bytes_max: int, environ: Mapping[str, str]) -> tuple[str, str]:
    """Where it was found, and what."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder and (path := Path(folder, name)).exists():
        return str(path), _text(path, bytes_max)
    return f"${variable}", environ.get(variable, "")


def _text(path: Path, bytes_max: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(bytes_max).decode("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{path} cannot be read as a credential: {type(exc).__name__}",
            hint="check the credential",
        ) from None
