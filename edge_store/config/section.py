"""What every section is."""

import msgspec

__all__ = ["KIB", "MIB", "Section"]

KIB = 1024
MIB = 1024 * KIB


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the TOML file."""
