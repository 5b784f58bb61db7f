"""The deletion of what was chosen: a change in pieces, which are few while results come.

A piece looks again: what was pinned, held or forgotten meanwhile is passed over. So is what was
annotated or repaired since its file was begun, which is not in there: the next pass takes it.
"""

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.recorder.deletions import Reason, What, delete_here, last_tombstones
from edge_store.recorder.transactions import InPieces
from edge_store.result import Record
from edge_store.retention.choice import PAGE_ROWS, kept
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["ROW_S", "DeleteOld", "Deleted", "delete_old"]

ROW_S = 0.001  # at first: one result to the first piece, as it may be large
FOLLOW = 2  # times as many as came


class DeleteOld(Record, frozen=True, kw_only=True):
    """Parameters of ``retention.delete``. ``archive_no``: of the verified file that has them, with
    what was said of them up to the annotation and the repair ``said``; None: up to its time.
    """

    seqs: Annotated[tuple[int, ...], Meta(max_length=PAGE_ROWS)]
    what: What
    archive_no: int | None = None
    said: tuple[int, int] | None = None
    row_s: float = ROW_S


class Deleted(Record, frozen=True, kw_only=True):
    """How many went, how many stay, and how far it is: ``left`` of those asked for, ``row_s`` that
    each takes before its COMMIT, the ``newest`` result by then.
    """

    count: int = 0
    kept: int = 0
    left: int
    row_s: float
    newest: int

    @property
    def is_done(self) -> bool:
        """Whether none is left."""
        return not self.left


def _delete_some(
    connection: Connection, params: DeleteOld, before: Deleted | None, seconds: float
) -> Deleted:
    """Delete those that are here and that nothing keeps, as many as fit; at least more than have
    come since ``before``, or a busy box would grow all the same.
    """
    (newest,) = connection.execute(sql("select_newest_seq")).fetchone()
    so_far = before or Deleted(left=len(params.seqs), row_s=params.row_s, newest=newest)
    came = newest - so_far.newest
    fits = round(min(seconds / so_far.row_s, so_far.left))
    rows = min(so_far.left, max(1, fits, FOLLOW * came))
    started = time.monotonic()
    place = len(params.seqs) - so_far.left
    count, stay = _delete(
        connection, msgspec.structs.replace(params, seqs=params.seqs[place : place + rows])
    )
    took_s = (time.monotonic() - started) / rows
    return Deleted(
        count=so_far.count + count,
        kept=so_far.kept + stay,
        left=so_far.left - rows,
        row_s=max(took_s, so_far.row_s / 2),
        newest=newest,
    )


delete_old = InPieces(_delete_some)


def _delete(connection: Connection, params: DeleteOld) -> tuple[int, int]:
    """How many went, and how many stay."""
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
    return count, len(stay)


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
