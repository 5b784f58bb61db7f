"""What every section is."""

from pathlib import Path

import msgspec

__all__ = ["KIB", "MIB", "Section", "absolute", "is_there"]

KIB = 1024
MIB = 1024 * KIB


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the TOML file."""


def absolute(directory: Path, path: str) -> str:
    """A path of the file's folder; empty stays empty."""
    return str((directory / path).absolute()) if path else ""


def is_there(path: Path) -> bool:
    """Whether it exists. What may not be looked at does: whoever opens it will say why not."""
    try:
        return path.exists()
    except OSError:
        return True
