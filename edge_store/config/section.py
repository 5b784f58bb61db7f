"""What every section is."""

from pathlib import Path

import msgspec

__all__ = ["A_VALUE", "KIB", "MIB", "Fault", "Section", "absolute", "is_there"]

KIB = 1024
MIB = 1024 * KIB
A_VALUE = "(a value)"


class _Hidden:
    def __repr__(self) -> str:
        return A_VALUE


class Fault(ValueError):
    """What a rule finds wrong. ``text`` is a format with a field for each of ``values``; ``bare``
    is it without them, for who may not know them.
    """

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text.format(**values))
        self.bare = text.format(**dict.fromkeys(values, _Hidden()))


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
