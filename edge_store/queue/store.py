"""Files and batches in the database: plain functions of a connection. Those that write are changes,
one transaction each.
"""

from typing import Any

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound
from edge_store.paging import Paging
from edge_store.queue.records import (
    Batch,
    BatchDetail,
    BatchState,
    StoredFile,
    Usage,
    merged,
    seconds_of,
)
from edge_store.recorder.caller import EVERYBODY, Caller
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "CancelBatch",
    "add_batch",
    "add_event",
    "add_file",
    "batch_usage",
    "cancel_batch",
    "drop_expired_files",
    "drop_file",
    "find_batch",
    "find_batches",
    "find_file",
    "find_files",
    "needed_sha256s",
    "open_batches",
    "restored_at",
]

NUMBER_MAX = 2**63 - 1
# of all files, and of one tenant's; each descending and ascending
FILE_PAGES = (
    ("select_files_before", "select_files_after"),
    ("select_files_of_tenant_before", "select_files_of_tenant_after"),
)


class CancelBatch(Record, frozen=True, kw_only=True):
    """Parameters of ``batch.cancel``."""

    batch_id: str


# files


def add_file(connection: Connection, file: StoredFile) -> None:
    """Enter a file whose bytes are on the disk."""
    connection.execute(sql("insert_file"), msgspec.structs.asdict(file))


def find_file(connection: Connection, file_id: str, caller: Caller = EVERYBODY) -> StoredFile:
    """Raises ``NotFound`` where it is not there, or not the caller's."""
    with translated("the files cannot be read"):
        row = connection.execute(
            sql("select_file"), {"file_id": file_id, "now": now_ms(), **_seeing(caller)}
        ).fetchone()
    if row is None:
        raise NotFound(f"there is no file {file_id!r}")
    return _file(row)


def find_files(
    connection: Connection, caller: Caller, page: Paging, purpose: str | None
) -> tuple[list[StoredFile], bool]:
    """A page of the caller's files, and whether there are more.

    Raises:
        InvalidRequest: the page comes after none of them.
    """
    blocks = FILE_PAGES[caller.only_tenant is not None]
    limit = page.limit + 1
    params = {"limit": limit, "purpose": purpose, "now": now_ms(), **_seeing(caller)}
    with translated("the files cannot be read"):
        params["place"] = _place(connection, "select_file_no", page, caller)
        block = blocks[not page.is_descending]
        rows = connection.execute(sql(block), params).fetchall()
    return [_file(row) for row in rows[: page.limit]], len(rows) > page.limit


def _place(connection: Connection, block: str, page: Paging, caller: Caller) -> int:
    """The number that a page comes after."""
    if page.after is None:
        return NUMBER_MAX if page.is_descending else 0
    row = connection.execute(sql(block), {"id": page.after, **_seeing(caller)}).fetchone()
    if row is None:
        raise InvalidRequest(f"`after` = {page.after!r} is none of this list", param="after")
    return int(row[0])


def drop_file(connection: Connection, file_id: str) -> None:
    """Take a file out of the list."""
    connection.execute(sql("delete_file"), {"file_id": file_id})


def drop_expired_files(connection: Connection) -> None:
    """Take those out of the list whose time is over."""
    connection.execute(sql("delete_expired_files"), {"now": now_ms()})


def restored_at(connection: Connection) -> int:
    """When this database was last restored, UTC ms; 0: never."""
    with translated("the timelines cannot be read"):
        (at,) = connection.execute(sql("select_restored_at")).fetchone()
    return int(at)


def needed_sha256s(connection: Connection, sha256s: list[str]) -> set[str]:
    """Those of them whose bytes a file in the list or a batch that has not ended needs."""
    params = {"sha256s": msgspec.json.encode(sha256s).decode()}
    with translated("the files cannot be read"):
        needed = {row[0] for row in connection.execute(sql("select_needed_sha256s"), params)}
    return needed.intersection(sha256s)


def _file(row: tuple[Any, ...]) -> StoredFile:
    return StoredFile(**dict(zip(StoredFile.__struct_fields__, row, strict=True)))


# batches


def add_batch(connection: Connection, batch: Batch) -> None:
    """Enter a new batch; its first state is ``validating``."""
    row = {name: getattr(batch, name) for name in BATCH_COLUMNS if name != "batch_no"}
    row["caller"] = msgspec.json.encode(batch.caller).decode()
    connection.execute(sql("insert_batch"), row)
    add_event(connection, batch.batch_id, BatchState.VALIDATING)


def add_event(
    connection: Connection,
    batch_id: str,
    state: BatchState,
    detail: BatchDetail | None = None,
    expires_at: int | None = None,
    files: tuple[StoredFile, ...] = (),
) -> Batch:
    """Bring a batch to another state, with the files it has made; the batch as it is then."""
    for file in files:
        add_file(connection, file)
    said = {k: v for k, v in msgspec.to_builtins(detail or BatchDetail()).items() if v}
    connection.execute(
        sql("insert_batch_event"),
        {
            "batch_id": batch_id,
            "at": now_ms(),
            "event": state.value,
            "expires_at": expires_at,
            "detail": msgspec.json.encode(said).decode(),
        },
    )
    block = "delete_open_batch" if state.is_end else "insert_open_batch"
    connection.execute(sql(block), {"batch_id": batch_id})
    return find_batch(connection, batch_id)


def cancel_batch(connection: Connection, params: CancelBatch) -> Batch:
    """Have a batch end early.

    Raises:
        NotFound, InvalidRequest: there is none, or it has ended.
    """
    batch = find_batch(connection, params.batch_id)
    if batch.state in (BatchState.CANCELLING, BatchState.CANCELLED):
        return batch
    if batch.state.is_end or batch.state is BatchState.FINALIZING:
        raise InvalidRequest(f"the batch {batch.batch_id} is {batch.state}: it cannot be cancelled")
    return add_event(connection, batch.batch_id, BatchState.CANCELLING)


def find_batch(connection: Connection, batch_id: str, caller: Caller = EVERYBODY) -> Batch:
    """Raises ``NotFound`` where it is not there, or not the caller's."""
    with translated("the batches cannot be read"):
        row = connection.execute(
            sql("select_batch"), {"batch_id": batch_id, **_seeing(caller)}
        ).fetchone()
        if row is None:
            raise NotFound(f"there is no batch {batch_id!r}")
        return _batch(connection, row)


def find_batches(connection: Connection, caller: Caller, page: Paging) -> tuple[list[Batch], bool]:
    """A page of the caller's batches, the newest first, and whether there are more.

    Raises:
        InvalidRequest: the page comes after none of them.
    """
    is_all = caller.only_tenant is None
    block = "select_batches_before" if is_all else "select_batches_of_tenant_before"
    params = {"limit": page.limit + 1, **_seeing(caller)}
    with translated("the batches cannot be read"):
        params["place"] = _place(connection, "select_batch_no", page, caller)
        rows = connection.execute(sql(block), params).fetchall()
        found = [_batch(connection, row) for row in rows[: page.limit]]
    return found, len(rows) > page.limit


def open_batches(connection: Connection, limit: int) -> list[Batch]:
    """Batches that have not ended: the oldest of each tenant, then the second of each."""
    with translated("the batches cannot be read"):
        rows = connection.execute(sql("select_open_batches"), {"limit": limit}).fetchall()
        return [_batch(connection, row) for row in rows]


BATCH_COLUMNS = Batch.__struct_fields__[: Batch.__struct_fields__.index("state")]


def _batch(connection: Connection, row: tuple[Any, ...]) -> Batch:
    columns = dict(zip(BATCH_COLUMNS, row, strict=True))
    columns["caller"] = msgspec.json.decode(columns["caller"], type=Caller)
    at: dict[str, int] = {}
    details: list[BatchDetail] = []
    expires_at = columns["created_at"] + seconds_of(columns["completion_window"]) * 1000
    state = BatchState.VALIDATING
    events = connection.execute(sql("select_batch_events"), {"batch_id": columns["batch_id"]})
    for moment, event, ends_at, detail in events.fetchall():
        state = BatchState(event)
        if state is BatchState.IN_PROGRESS:  # again, maybe: what it had ended with counts no more
            known = merged(details)
            details = [BatchDetail(lines=known.lines, model=known.model)]
            at = {k: v for k, v in at.items() if k == BatchState.VALIDATING}
        at[event] = moment
        expires_at = ends_at or expires_at
        details.append(msgspec.json.decode(detail, type=BatchDetail))
    return Batch(**columns, state=state, expires_at=expires_at, at=at, detail=merged(details))


def batch_usage(connection: Connection, batch_id: str) -> Usage:
    """Tokens of its completed lines."""
    with translated("the results of a batch cannot be read"):
        row = connection.execute(sql("select_batch_usage"), {"batch_id": batch_id}).fetchone()
    return Usage(**dict(zip(Usage.__struct_fields__, row, strict=True)))


def _seeing(caller: Caller) -> dict[str, Any]:
    return {"tenant": caller.only_tenant}
