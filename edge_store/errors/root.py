"""The root of the errors, and those of the operator before start."""

from typing import ClassVar

from edge_store import exits

__all__ = [
    "AddressTaken",
    "ConfigError",
    "EdgeStoreError",
    "install",
    "may_pass",
]


def install(extra: str) -> str:
    """The hint where a package of that extra is missing."""
    return f"pip install 'edge-store[{extra}]'; from a checkout, pip install -e '.[{extra}]'"


def may_pass(http_status: int) -> bool:
    """Whether it is worth to ask again, where the status is all that is known: as the SDKs do."""
    return http_status in (408, 409, 429) or http_status >= 500


class EdgeStoreError(Exception):
    """The root. ``str(error)`` says what failed, with the value; ``hint`` says what to do next."""

    code: ClassVar[str] = "internal_error"
    http_status: int = 500
    exit_code: ClassVar[int] = exits.FAILURE
    retryable: bool = False
    retry_after_s: int = 0  # 0: nobody can tell
    param: str | None = None  # path of the fault in what was sent, as in ``messages[0].content``

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(EdgeStoreError):
    """A setting is unknown, malformed or contradicts another. ``bare`` says what is wrong without
    a value or a word of the operator's own; empty: nothing can be said so.
    """

    code = "config_invalid"
    exit_code = exits.CONFIG

    def __init__(self, message: str, *, hint: str = "", bare: str = "") -> None:
        super().__init__(message, hint=hint)
        self.bare = bare


class AddressTaken(ConfigError):
    """Something else listens there: it may be gone when systemd tries again."""

    code = "address_taken"
    exit_code = exits.TEMPORARY
