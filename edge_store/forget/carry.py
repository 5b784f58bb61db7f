"""The deletion of what was chosen: changes, each one bounded transaction. All may be repeated."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.errors import StoreError
from edge_store.forget.choice import PAGE, as_array, held_path, pages
from edge_store.recorder.deletions import Reason, delete_here
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["ForgetKept", "ForgetResults", "forget_everywhere", "forget_kept", "forget_results"]

Ids = Annotated[tuple[str, ...], Meta(max_length=PAGE)]

BESIDE = (
    "forget_queued_requests",
    "forget_responses",
    "forget_conversations",
    "forget_annotations",
    "forget_marks_of_requests",
    "forget_loss_messages",
)


class ForgetResults(Record, frozen=True, kw_only=True):
    """Results for one transaction, by place and id."""

    seqs: Annotated[tuple[int, ...], Meta(max_length=PAGE)]
    ids: Ids


class ForgetKept(Record, frozen=True, kw_only=True):
    """Queued requests, responses and conversations by id, and lines of batches."""

    ids: Ids = ()
    lines: Annotated[tuple[tuple[str, str | None], ...], Meta(max_length=PAGE)] = ()


def forget_results(connection: Connection, params: ForgetResults) -> int:
    """Delete those that are still here, with all that hangs on them; how many there were."""
    chosen = {"seqs": as_array(params.seqs)}
    here = dict(connection.execute(sql("select_ids_of"), chosen).fetchall())
    asked = zip(params.seqs, params.ids, strict=True)
    those = {seq: name for seq, name in asked if here.get(seq) == name}
    count = _forget_results(connection, list(those))
    _forget_beside(connection, those.values())
    return count


def forget_kept(connection: Connection, params: ForgetKept) -> int:
    """Delete what is no result, and leave a tombstone of each; how many there were. Of a line only
    its marks are in the database.
    """
    ids = {"ids": as_array(params.ids)}
    count = connection.execute(sql("note_forgotten"), {**ids, "at": now_ms()}).rowcount
    _forget_beside(connection, params.ids)
    _forget_marks(connection, params.lines)
    return count


def forget_everywhere(connection: Connection, names: Iterable[str]) -> int:
    """Delete all that has one of these ids, and leave the tombstones; how many results there were.
    Within a transaction.
    """
    count = 0
    for page in pages(names):
        found = connection.execute(sql("select_seqs_of_ids"), {"ids": as_array(page)})
        count += _forget_results(connection, [seq for (seq,) in found.fetchall()])
        forget_kept(connection, ForgetKept(ids=tuple(page)))
    return count


def _forget_results(connection: Connection, seqs: list[int]) -> int:
    lines = connection.execute(sql("select_lines_of"), {"seqs": as_array(seqs)}).fetchall()
    count = delete_here(connection, seqs, Reason.FORGET)
    # the line itself is gone, so it needs no mark that it is done; its name may be a person's
    _forget_marks(connection, lines)
    return count


def _forget_marks(connection: Connection, lines: Iterable[tuple[str, str | None]]) -> None:
    for batch_id, custom_id in lines:
        params = {"batch_id": batch_id, "custom_id": custom_id}
        connection.execute(sql("forget_marks_of_line"), params)


def _forget_beside(connection: Connection, ids: Iterable[str]) -> None:
    names = list(ids)
    for block in BESIDE:
        connection.execute(sql(block), {"ids": as_array(names)})
    for name in names:
        _remove(held_path(connection, name))


def _remove(path: Path) -> None:
    """Write over a held text, and remove it."""
    try:
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StoreError(
            f"{path} cannot be removed: {exc.strerror}",
            hint="run it as the daemon's user, or while the daemon runs",
        ) from exc
