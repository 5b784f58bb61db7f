"""What the copy of a box says of the box. To count its gaps takes a look at each result, so the
facts are kept for as long as the file is the same one.
"""

from contextlib import closing
from pathlib import Path

import msgspec

from edge_store.chain import find_link
from edge_store.errors import EdgeStoreError
from edge_store.replica.heads import Head
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, translated

__all__ = ["Facts", "Gap", "HeadHere", "facts_of"]

GAPS_MAX = 16  # boots with gaps, the newest


class Gap(Record, frozen=True, kw_only=True):
    """A boot of which admitted requests are in no row. ``at``: UTC ms of its last sign."""

    at: int
    missing: int


class HeadHere(Record, frozen=True, kw_only=True):
    """The commit of the copy that carried the head's newest result. ``at``: UTC ms by the box."""

    seq: int
    commit_id: int
    at: int
    digest: str


class Facts(Record, frozen=True, kw_only=True):
    """``size`` and ``modified_ns`` are of the file that was read. Times are UTC ms by the box.

    ``error``: why it cannot be read; then nothing else is known. ``drilled_at`` and ``drilled_seq``
    are of the newest drill that passed, ``drill_failure`` of the newest if that failed.
    """

    size: int
    modified_ns: int
    error: str | None = None
    timeline: str | None = None
    seq: int = 0
    began_at: int | None = None  # the first start of the daemon
    drilled_at: int | None = None
    drilled_seq: int = 0
    drill_failure: str | None = None
    clock_synced: bool | None = None
    gaps: tuple[Gap, ...] = ()
    here: HeadHere | None = None


def facts_of(path: Path, head: Head | None, known: Facts | None) -> Facts | None:
    """What the copy at ``path`` says; of ``known`` what still holds. None: there is no copy."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    if known is not None and (known.size, known.modified_ns) != (state.st_size, state.st_mtime_ns):
        known = None
    if known is not None and known.error is not None:  # its cause may be gone: an owner, a disk
        known = None
    if known is not None and not _lacks(known, head):
        return known
    try:
        with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
            facts = known or _read(connection, state.st_size, state.st_mtime_ns)
            if head is None or not _lacks(facts, head):
                return facts
            return msgspec.structs.replace(facts, here=_here(connection, head.seq))
    except (EdgeStoreError, TypeError, ValueError, AttributeError) as exc:  # it may hold anything
        return Facts(size=state.st_size, modified_ns=state.st_mtime_ns, error=str(exc))


def _lacks(known: Facts, head: Head | None) -> bool:
    """Whether the head names a commit of the copy that has not been looked up."""
    if head is None or head.timeline != known.timeline or not 0 < head.seq <= known.seq:
        return False
    return known.here is None or known.here.seq != head.seq


def _here(connection: Connection, seq: int) -> HeadHere:
    link = find_link(connection, seq)
    if link is None:
        return HeadHere(seq=seq, commit_id=0, at=0, digest="")
    return HeadHere(seq=seq, commit_id=link.commit_id, at=link.at, digest=link.digest.hex())


def _read(connection: Connection, size: int, modified_ns: int) -> Facts:
    timeline, seq = connection.execute(sql("select_copy_extent")).fetchone()
    began_at, drilled_at, drilled_seq, passed, failure, synced = connection.execute(
        sql("select_copy_health")
    ).fetchone()
    gaps = connection.execute(sql("select_copy_gaps"), {"limit": GAPS_MAX}).fetchall()
    return Facts(
        size=size,
        modified_ns=modified_ns,
        timeline=timeline,
        seq=seq,
        began_at=began_at,
        drilled_at=drilled_at,
        drilled_seq=drilled_seq or 0,
        drill_failure=None if passed in (None, 1) else failure or "it failed",
        clock_synced=None if synced is None else bool(synced),
        gaps=tuple(Gap(at=at, missing=missing) for at, missing in gaps),
    )
