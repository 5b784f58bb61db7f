"""Keeps a signature of Azure's shared access out of what is told: whoever has it, may."""

import re

__all__ = ["unsigned"]

# also where the address is a value in another one, and its `=` is written as %3D or %253D
SIGNATURE = re.compile(rb"(sig(?:=|%(?:25)*3[Dd]))[\w%+/=.~-]+")


def unsigned(said: bytes) -> bytes:
    """What Litestream says, without the signature in an address that it could not reach."""
    return SIGNATURE.sub(rb"\1(not shown)", said)
