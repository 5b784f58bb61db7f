"""Keeps a signature of Azure's shared access out of what is told: whoever has it, may."""

import re

__all__ = ["unsigned"]

SIGNATURE = re.compile(rb"sig=[\w%+/=.~-]+")


def unsigned(said: bytes) -> bytes:
    """What Litestream says, without the signature in an address that it could not reach."""
    return SIGNATURE.sub(b"sig=(not shown)", said)
