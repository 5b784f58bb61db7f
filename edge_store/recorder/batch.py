"""One COMMIT: a batch of results, what was lost before it, its mark and its digest.

Plain functions on the writer's thread. A datum that cannot be stored costs its own row a retry, not
the batch.
"""

import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from edge_store.chain import GENESIS, commit_digest
from edge_store.clock import now_ms
from edge_store.errors import EdgeStoreError, StoreError
from edge_store.loggers import get_logger
from edge_store.recorder.losses import Loss, insert_losses
from edge_store.result import Boot, Content, Receipt, Result
from edge_store.rows import Row, insert_rows, salvaged, to_row
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = [
    "ChainHead",
    "Suspect",
    "Written",
    "is_untrustworthy",
    "read_head",
    "without_content",
    "write_batch",
]

log = get_logger(__name__)

SLOW_S = 1.0  # a COMMIT that takes longer is told

# What binding or a CHECK says of one bad value; everything else is the file's or the disk's fault.
DATA_ERRORS = (
    UnicodeEncodeError,
    OverflowError,
    driver.IntegrityError,
    driver.DataError,
    driver.InterfaceError,
    driver.ProgrammingError,
)

# After one of these neither the connection nor the page cache is to be believed; a file system that
# was read-only for a while leaves a connection that stays so.
UNTRUSTWORTHY = (
    driver.SQLITE_IOERR,
    driver.SQLITE_READONLY,
    driver.SQLITE_CANTOPEN,
    driver.SQLITE_PROTOCOL,
)


class ChainHead(msgspec.Struct, frozen=True):
    """Where the next commit continues."""

    seq: int
    digest: bytes


class Written(msgspec.Struct, frozen=True):
    """What one COMMIT made: each result's receipt or the error of its row, and the new head."""

    outcomes: list[Receipt | EdgeStoreError]
    head: ChainHead
    seconds: float


class Suspect(StoreError):
    """The disk failed: open the file again before anything is written or acknowledged.

    ``written`` is what the COMMIT has made if it got in all the same; None if it was not reached,
    or for a change that is no batch. ``is_unknown``: a COMMIT may have been reached.
    """

    def __init__(
        self, cause: StoreError, written: Written | None, *, is_unknown: bool = False
    ) -> None:
        self.written = written
        self.is_unknown = is_unknown or written is not None
        doubt = "; whether it is stored is known when the file can be read again"
        super().__init__(f"{cause}{doubt if self.is_unknown else ''}", hint=cause.hint)


def is_untrustworthy(error: StoreError) -> bool:
    """Whether the connection and the page cache are not to be believed after it."""
    code = getattr(error.__cause__, "sqlite_errorcode", None) or 0
    return code & 0xFF in UNTRUSTWORTHY


def read_head(connection: Connection) -> ChainHead:
    """The head that the file holds: taken at start, then kept in memory."""
    (seq,) = connection.execute(sql("select_last_seq")).fetchone()
    row = connection.execute(sql("select_last_digest")).fetchone()
    return ChainHead(seq, row[0] if row else GENESIS)


def write_batch(
    connection: Connection,
    boot: Boot,
    head: ChainHead,
    admitted_upto: int,
    results: Sequence[Result],
    losses: Sequence[Loss] = (),
) -> Written:
    """Commit ``results``, ``losses`` and their mark in one transaction; the mark at least.

    Raises:
        Suspect: an I/O error. Only the file itself can tell what it holds.
        StoreError: nothing was committed.
    """
    started = time.perf_counter()
    at = now_ms()
    written: Written | None = None
    try:
        with translated(f"{len(results)} results could not be committed"):
            try:
                connection.execute(sql("begin"))
                outcomes, digests = _insert_all(connection, boot, head.seq, at, results)
                if losses:
                    insert_losses(connection, losses)
                first, last = (head.seq + 1, head.seq + len(digests)) if digests else (None, None)
                columns = (boot.boot_id, at, admitted_upto, first, last)
                digest = commit_digest(head.digest, columns, digests)
                connection.execute(sql("insert_commit"), (*columns, digest, head.digest))
                written = Written(outcomes, ChainHead(last or head.seq, digest), 0.0)
                flushed = time.perf_counter()
                connection.execute(sql("commit"))
            except BaseException:
                with suppress(driver.Error):  # the failure may have ended the transaction by itself
                    connection.execute(sql("rollback"))
                raise
    except StoreError as exc:
        if is_untrustworthy(exc):
            raise Suspect(exc, written) from exc
        raise
    ended = time.perf_counter()
    if ended - started > SLOW_S:
        took = {"seconds": round(ended - started, 3), "flush_seconds": round(ended - flushed, 3)}
        log.warning("commit_slow", rows=len(results), **took)
    return Written(written.outcomes, written.head, ended - started)


def _insert_all(
    connection: Connection, boot: Boot, seq: int, at: int, results: Sequence[Result]
) -> tuple[list[Receipt | EdgeStoreError], list[bytes]]:
    """All rows at once; after a data error, one by one."""
    try:
        rows = [to_row(seq + n, boot.timeline, result) for n, result in enumerate(results, 1)]
        insert_rows(connection, rows)
    except DATA_ERRORS:
        # From the start again, not to a savepoint: having one open copies every page it touches.
        connection.execute(sql("rollback"))
        connection.execute(sql("begin"))
    else:
        receipts: list[Receipt | EdgeStoreError] = [
            Receipt(id=result.id, seq=seq + n, committed_at=at)
            for n, result in enumerate(results, 1)
        ]
        return receipts, [row.digest for row in rows]

    outcomes: list[Receipt | EdgeStoreError] = []
    digests: list[bytes] = []
    for result in results:
        here = seq + len(digests) + 1
        try:
            row = _insert_one(connection, here, boot.timeline, result)
        except DATA_ERRORS as exc:
            outcomes.append(StoreError(f"result {result.id} cannot be stored: {exc}"))
        else:
            digests.append(row.digest)
            outcomes.append(Receipt(id=result.id, seq=here, committed_at=at))
    return outcomes, digests


def _insert_one(connection: Connection, seq: int, timeline: str, result: Result) -> Row:
    """One result as it is; if that cannot be, with the offending field escaped or dropped."""
    connection.execute(sql("savepoint"))
    try:
        row = to_row(seq, timeline, result)
        insert_rows(connection, [row])
    except DATA_ERRORS as exc:
        connection.execute(sql("rollback_to_savepoint"))
        row = to_row(seq, timeline, salvaged(result, connection, exc))
        try:
            insert_rows(connection, [row])
        except DATA_ERRORS:  # nothing of it may stay: the next result takes this seq
            connection.execute(sql("rollback_to_savepoint"))
            raise
    connection.execute(sql("release_savepoint"))
    return row


def without_content(result: Result) -> Result:
    """The result without its bodies, for a disk that has no room for them. The row says so."""
    return msgspec.structs.replace(
        result,
        content=Content(input_text=None, request_body=b"", response_body=b""),
        error_type=result.error_type or "content_not_recorded",
        error_message=result.error_message
        or "recorded without its bodies: the disk was low (store.disk_reserve_bytes)",
    )
