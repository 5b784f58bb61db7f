"""Whose request it is. Until keys are issued here, a tenant is whoever shares a key."""

import hashlib
from functools import lru_cache

from edge_store.engine import Scope

__all__ = ["tenant_of"]

KEY_HEADERS = (b"authorization", b"x-api-key")  # OpenAI's and everyone's, Anthropic's
DIGITS = 16


def tenant_of(scope: Scope) -> str | None:
    """``key-`` and the beginning of the SHA-256 of the caller's key; None without a key."""
    for name, value in scope["headers"]:
        if name.lower() in KEY_HEADERS and value:
            return _named(value)
    return None


@lru_cache(maxsize=1024)  # asked at admission and for the row
def _named(value: bytes) -> str:
    key = value.removeprefix(b"Bearer ").strip()
    return f"key-{hashlib.sha256(key).hexdigest()[:DIGITS]}"
