"""The deletion of what was chosen: changes, each a short transaction on the writer's thread.

A change looks again: what was pinned, held or forgotten meanwhile is passed over. So is what was
annotated or repaired since its file was begun, which is not in there: the next pass takes it.
"""

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.recorder.deletions import Reason, What, delete_here, last_tombstones
from edge_store.result import Record
from edge_store.retention.choice import PAGE_ROWS, kept
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["DeleteOld", "Deleted", "delete_old"]


class DeleteOld(Record, frozen=True, kw_only=True):
    """Parameters of ``retention.delete``. ``archive_no``: of the verified file that has them, with
    what was said of them up to the annotation and the repair ``said``; None: up to its time.
    """

    seqs: Annotated[tuple[int, ...], Meta(max_length=PAGE_ROWS)]
    what: What
    archive_no: int | None = None
    said: tuple[int, int] | None = None


class Deleted(Record, frozen=True, kw_only=True):
    """How many went, how many stay, how long it took before its COMMIT, and the newest result."""

    count: int
    kept: int
    took_s: float
    newest: int


def delete_old(connection: Connection, params: DeleteOld) -> Deleted:
    """Delete those that are here and that nothing keeps."""
    started = time.monotonic()
    stay = kept(connection, list(params.seqs)).all | _said_since(connection, params)
    seqs = [seq for seq in params.seqs if seq not in stay]
    after, _ = last_tombstones(connection)
    count = delete_here(connection, seqs, Reason.RETENTION, params.what)
    if params.archive_no is not None and count:
        chosen = {
            "archive_no": params.archive_no,
            "seqs": msgspec.json.encode(seqs).decode(),
            "what": params.what.value,
            "after": after,
        }
        connection.execute(sql("note_archived"), chosen)
    (newest,) = connection.execute(sql("select_newest_seq")).fetchone()
    took_s = time.monotonic() - started
    return Deleted(count=count, kept=len(stay), took_s=took_s, newest=newest)


def _said_since(connection: Connection, params: DeleteOld) -> set[int]:
    if params.archive_no is None or params.what is What.CONTENT:
        return set()
    seqs = msgspec.json.encode(params.seqs).decode()
    if params.said is not None:
        annotation, repair = params.said
        asked = {"seqs": seqs, "annotation": annotation, "repair": repair}
        return {seq for (seq,) in connection.execute(sql("select_said_after"), asked)}
    asked = {"seqs": seqs, "archive_no": params.archive_no, "now": now_ms()}
    return {seq for (seq,) in connection.execute(sql("select_said_since"), asked)}
