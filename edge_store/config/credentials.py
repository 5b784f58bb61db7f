"""Secrets: from systemd's credentials or the environment, never from the configuration file."""

import os
from collections.abc import Mapping
from pathlib import Path

from edge_store.errors import ConfigError

__all__ = ["read_credential"]

BYTES_MAX = 4096


def read_credential(name: str, variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """The credential ``name`` of the unit (``LoadCredential=``, systemd.exec(5)), else the
    environment's ``variable``, else an empty string.

    Raises:
        ConfigError: it cannot be read, or no key looks like that. The message never quotes it.
    """
    source, value = f"${variable}", environ.get(variable, "")
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        path = Path(folder, name)
        try:
            with path.open("rb") as file:
                source, value = str(path), file.read(BYTES_MAX).decode("ascii")
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"{path} cannot be read as a key: {type(exc).__name__}", hint="check the credential"
            ) from None
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"{source} has characters that no key has", hint="check the credential")
    return value
