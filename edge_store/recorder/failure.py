"""What a failed COMMIT means: for the file, for the next try, for who asks meanwhile."""

from edge_store.errors import Corrupt, DiskFull, NotAnEdgeStoreFile, StoreError
from edge_store.recorder.batch import Suspect

__all__ = ["is_damage", "may_pass", "refusal"]

NOT_ADMITTED = "this request was not admitted, and nothing was generated for it"


def is_damage(exc: StoreError) -> bool:
    """Whether another try would only write more into a file that is not sound."""
    return isinstance(exc, Corrupt | NotAnEdgeStoreFile)


def may_pass(exc: StoreError) -> bool:
    """A lock or an I/O error may; a full or damaged file will not."""
    return type(exc) in (StoreError, Suspect)


def refusal(exc: StoreError) -> StoreError:
    """What later requests are refused with. ``exc`` tells of results that were lost, which those
    requests have no part in; the log has it.
    """
    if isinstance(exc, DiskFull):
        return DiskFull(
            f"{NOT_ADMITTED}: the database's disk is full",
            hint="free space on that disk; the box goes on by itself",
        )
    if is_damage(exc):
        return type(exc)(f"{NOT_ADMITTED}: the database is damaged", hint=exc.hint)
    return StoreError(
        f"{NOT_ADMITTED}: the database cannot be written",
        hint="see the log, and `edge-store doctor`; the box goes on by itself",
    )
