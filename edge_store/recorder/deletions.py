"""Deletes results, or only their content, and says so in the same transaction.

Runs on the writer's connection. What went leaves a row of ``deletions``: what it was, why it went,
and the digest that takes its place in the chain. Everything that hangs on a result goes with it.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from edge_store.clock import now_ms
from edge_store.recorder.transactions import in_transaction
from edge_store.rows import content_digest, whole_body
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "Reason", "What", "delete_here", "delete_results", "is_forgotten_since", "last_tombstones",
]  # fmt: skip


class Reason(StrEnum):
    """Why it goes: ``forget`` travels to every copy, ``retention`` stays on this box."""

    FORGET = "forget"
    RETENTION = "retention"


class What(StrEnum):
    """The whole result, or the bodies only."""

    RESULT = "result"
    CONTENT = "content"


def delete_results(
    connection: Connection, seqs: Sequence[int], reason: Reason, what: What = What.RESULT
) -> int:
    """``delete_here`` in a transaction of its own.

    Raises:
        StoreError: nothing was deleted.
    """
    return in_transaction(connection, delete_here, seqs, reason, what)


def delete_here(
    connection: Connection, seqs: Sequence[int], reason: Reason, what: What = What.RESULT
) -> int:
    """Delete those of ``seqs`` that are here, within a transaction. Returns how many there were.

    To forget what retention has deleted already notes that too, as only ``forget`` travels; it is
    not counted again. The caller bounds ``seqs``: all of them are held by one COMMIT.
    """
    chosen: dict[str, Any] = {
        "seqs": msgspec.json.encode(list(seqs)).decode(),
        "reason": reason.value,
        "at": now_ms(),
    }
    if reason is Reason.FORGET:
        connection.execute(sql("note_forgotten_again"), {**chosen, "what": what.value})
    # what was asked of a response is content, too
    connection.execute(sql("delete_responses"), {"seqs": chosen["seqs"]})
    if what is What.CONTENT:
        return _delete_content(connection, chosen)
    # what becomes of a line is told by its results: without this it would be asked again
    connection.execute(sql("mark_deleted_lines"), {"seqs": chosen["seqs"], "at": chosen["at"]})
    count = connection.execute(sql("note_deleted_results"), chosen).rowcount
    for block in ("delete_annotations", "delete_repairs", "delete_results"):
        connection.execute(sql(block), {"seqs": chosen["seqs"]})
    return count


def _delete_content(connection: Connection, chosen: dict[str, Any]) -> int:
    count = 0
    for seq, text, sent, got in connection.execute(
        sql("select_contents"), {"seqs": chosen["seqs"]}
    ):
        bodies = (text, whole_body(connection, seq, sent), got)
        connection.execute(
            sql("note_deleted_content"),
            {
                "seq": seq,
                "reason": chosen["reason"],
                "at": chosen["at"],
                "digest": content_digest(bodies),
            },
        )
        count += 1
    connection.execute(sql("delete_contents"), {"seqs": chosen["seqs"]})
    return count


def last_tombstones(connection: Connection) -> tuple[int, int]:
    """The numbers of the newest: they grow with each deletion."""
    with translated("the tombstones cannot be read"):
        results, others = connection.execute(sql("select_last_tombstones")).fetchone()
    return results, others


def is_forgotten_since(connection: Connection, deletion_id: int) -> bool:
    """Whether one of the tombstones after this one is of something forgotten."""
    with translated("the tombstones cannot be read"):
        (found,) = connection.execute(sql("is_forgotten_since"), {"after": deletion_id}).fetchone()
    return bool(found)
