"""Forgets what is in the archive: by tombstones first, so that nothing brings it back; a pass then
writes the files anew without it.
"""

from typing import Annotated

from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.recorder.deletions import Reason, What
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["ForgetArchived", "forget_archived"]

PAGE = 256


class ForgetArchived(Record, frozen=True, kw_only=True):
    """Results that retention has deleted, by seq."""

    seqs: Annotated[tuple[int, ...], Meta(max_length=PAGE)]


def forget_archived(connection: Connection, params: ForgetArchived) -> int:
    """Leave a tombstone of each that ``forget`` has not met yet; how many there were."""
    count = 0
    for what in (What.CONTENT, What.RESULT):
        chosen = {
            "seqs": "[" + ",".join(map(str, params.seqs)) + "]",
            "what": what.value,
            "reason": Reason.FORGET.value,
            "at": now_ms(),
        }
        noted = connection.execute(sql("note_forgotten_again"), chosen).rowcount
        count += noted if what is What.RESULT else 0
    return count
