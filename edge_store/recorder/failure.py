"""What a failure means. Of a COMMIT: for the file, for the next try, for who asks meanwhile. Of a
request: whether the same request may succeed later.
"""

from edge_store import errors
from edge_store.errors import (
    Corrupt,
    DiskFull,
    NotAnEdgeStoreFile,
    ResponseTooLarge,
    StoreError,
)
from edge_store.recorder.batch import Suspect

__all__ = ["is_damage", "may_pass", "may_succeed_later", "refusal", "stalled", "unknown"]

NOT_ADMITTED = "this request was not admitted, and nothing was generated for it"


def is_damage(exc: StoreError) -> bool:
    """Whether another try would only write more into a file that is not sound."""
    return isinstance(exc, Corrupt | NotAnEdgeStoreFile)


def may_pass(exc: StoreError) -> bool:
    """A lock or an I/O error may; a full or damaged file will not."""
    return type(exc) in (StoreError, Suspect)


def may_succeed_later(http_status: int, code: str) -> bool:
    """Whether a request that failed so is worth another attempt."""
    return code != ResponseTooLarge.code and errors.may_pass(http_status)


def refusal(exc: StoreError) -> StoreError:
    """What later requests are refused with. ``exc`` tells of results that were lost, which those
    requests have no part in; the log has it.
    """
    if isinstance(exc, DiskFull):
        return DiskFull(
            f"{NOT_ADMITTED}: the database's disk is full",
            hint="free space on that disk; the box goes on by itself",
        )
    if isinstance(exc, NotAnEdgeStoreFile):
        return type(exc)(f"{NOT_ADMITTED}: the database is not in its place", hint=exc.hint)
    if is_damage(exc):
        return type(exc)(f"{NOT_ADMITTED}: the database is damaged", hint=exc.hint)
    return StoreError(
        f"{NOT_ADMITTED}: the database cannot be written",
        hint="see the log, and `edge-store doctor`; the box goes on by itself",
    )


def unknown(result_id: str, bound_s: float) -> StoreError:
    """What a caller is told whose COMMIT takes too long."""
    return StoreError(
        f"result {result_id} may still be stored: its COMMIT is not known to have succeeded or "
        f"failed within {bound_s:g} s",
        hint="look it up by its id; for a stalled disk see `edge-store doctor`",
    )


def stalled(bound_s: float) -> StoreError:
    """What later requests are refused with meanwhile."""
    return StoreError(
        f"the database's disk is stalled: a COMMIT takes over {bound_s:g} s",
        hint="see `edge-store doctor`; the box goes on by itself",
    )
