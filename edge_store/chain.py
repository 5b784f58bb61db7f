"""The digest chain over commits: made by the writer, checked on any copy of the file.

Each ``commits`` row carries ``digest = SHA-256(previous, its own columns, the digests of its
results)``. Whoever changes, removes or inserts a row must rewrite every later digest, and cannot
rewrite the newest one where it was published. Where a result or its content was deleted, its row of
``deletions`` holds the digest that takes its place; a hole without one is a fault.

The check has two halves that know nothing of each other: ``check_links`` walks the commits over the
digests that the results carry, ``check_rows`` takes the digest of each result in a range again. So
the ranges can be shared out; ``verify_chain`` does it all on one connection.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from edge_store.carried import SEQ_MAX, SEQ_MIN, Carried, Ordered
from edge_store.rows import (
    RESULT_COLUMNS,
    content_digest,
    content_function,
    digest_function,
    row_digest,
    whole_body,
)
from edge_store.sql import sql
from edge_store.sqlite import SQLITE_ERRORS, Connection

__all__ = [
    "GENESIS",
    "SEQ_MAX",
    "SEQ_MIN",
    "ChainCheck",
    "add_digest_function",
    "check_commit",
    "check_links",
    "check_rows",
    "commit_digest",
    "find_link",
    "verify_chain",
]

GENESIS = bytes(32)
FAULTS_MAX = 20
RESULTS_AT_ONCE = 128  # of 6 KB each: SQLite caches 2 MB
WIDTH = len(RESULT_COLUMNS)
BODY = WIDTH + 2  # behind the content's seq and its text
encode = msgspec.msgpack.Encoder().encode


class ChainCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found: the extent of the file, and every fault in words."""

    commits: int
    results: int  # that are here
    deleted_forget: int
    deleted_retention: int
    content_deleted: int  # results here or deleted whose content went earlier
    newest_at: int | None  # UTC ms of the newest commit
    newest_digest: bytes
    faults: tuple[str, ...]


class Link(NamedTuple):
    """A commit that carried results."""

    commit_id: int
    at: int
    digest: bytes


def commit_digest(
    previous: bytes,
    columns: Sequence[str | int | None],
    rows: Iterable[bytes],
) -> bytes:
    """The link after ``previous``. ``columns``: boot_id, at, admitted_upto, seq_from, seq_to."""
    digest = hashlib.sha256(previous)
    digest.update(encode(columns))
    digest.update(b"".join(rows))
    return digest.digest()


def verify_chain(
    connection: Connection, *, head: bytes | None = None, faults_max: int = FAULTS_MAX
) -> ChainCheck:
    """Recompute every digest from what is stored, in the order of ``seq``.

    Stops looking after ``faults_max`` faults. Run it inside one read transaction on a live file.
    """
    links = check_links(connection, head=head, faults_max=faults_max)
    left = max(0, faults_max - len(links.faults))
    faults = check_rows(connection, SEQ_MIN, SEQ_MAX, faults_max=left) if left else []
    return msgspec.structs.replace(links, faults=(*links.faults, *faults))


def check_links(
    connection: Connection, *, head: bytes | None = None, faults_max: int = FAULTS_MAX
) -> ChainCheck:
    """Check that every commit follows the one before it and carried what its results' digests and
    ``deletions`` say. With ``head``: also that this digest is one of the chain.
    """
    faults: list[str] = []
    carried = Carried(connection, faults)
    commits, previous, newest_at, expected_seq = 0, GENESIS, None, None
    is_held = head is None
    for commit_id, *columns, digest, before, results, joined in connection.execute(
        sql("select_commits")
    ):
        boot_id, at, _upto, seq_from, seq_to = columns
        commits += 1
        newest_at = at
        is_held = is_held or digest == head
        if before != previous:
            faults.append(f"commit {commit_id} does not follow the commit before it")
        digests: list[bytes] = []
        if seq_from is not None and seq_to is not None:
            if expected_seq not in (None, seq_from):
                faults.append(f"commit {commit_id} begins at seq {seq_from}, not {expected_seq}")
            expected_seq = seq_to + 1
            if carried.has_all(seq_from, seq_to, results):
                digests = [joined]
            else:
                digests = carried.take(commit_id, boot_id, seq_from, seq_to)
        if commit_digest(before, columns, digests) != digest:
            faults.append(f"commit {commit_id}: its digest does not match what it carried")
        previous = digest
        if len(faults) >= faults_max:
            break
    else:
        _skip_rest(carried, commits, faults)
        for seq, result_id in connection.execute(sql("select_orphan_deletions")):
            faults.append(f"the deletion of the content of seq {seq} ({result_id}) has no result")
        if not is_held:
            assert head is not None
            faults.append(
                f"no commit has the digest {head.hex()}: the chain was cut before it, or it is "
                "another chain's"
            )
    forget, retention, content = connection.execute(sql("select_deletion_counts")).fetchone()
    return ChainCheck(
        commits=commits,
        results=carried.results,
        deleted_forget=forget,
        deleted_retention=retention,
        content_deleted=content,
        newest_at=newest_at,
        newest_digest=previous,
        faults=tuple(faults[:faults_max]),
    )


def _skip_rest(carried: Carried, commits: int, faults: list[str]) -> None:
    """What no commit carried; one fault where there is no commit at all."""
    carried.skip(SEQ_MAX)
    if commits == 0 and faults:
        fault = (
            f"the file has no commits, and {len(faults)} results and deletions: so is one that "
            "`edge-store archive restore` made, whose digests were taken again then"
        )
        faults[:] = [fault]


def is_as_written(connection: Connection, link: Sequence[Any]) -> bool:
    """Whether one commit and the results that it carried are what was written. ``link``: its
    columns as ``commit_digest`` takes them, its digest, and the one before.
    """
    boot_id, at, upto, first, last, digest, previous = link
    digests: list[bytes] = []
    if first is not None:
        faults = check_rows(connection, first, last, faults_max=1)
        digests = Carried(connection, faults, first, last).take(0, boot_id, first, last)
        if faults:
            return False
    try:
        return bool(commit_digest(previous, (boot_id, at, upto, first, last), digests) == digest)
    except TypeError:  # what no writer writes
        return False


def find_link(connection: Connection, seq: int) -> Link | None:
    """The commit that carried ``seq``. Found by bisection: commits are many, and no index of them
    is worth what it costs at every COMMIT.
    """
    (last,) = connection.execute(sql("select_last_commit_id")).fetchone()
    low, high = 1, last
    while low <= high:
        middle = (low + high) // 2
        row = connection.execute(sql("select_commit_upwards"), {"commit_id": middle}).fetchone()
        if row is None or row[2] > seq:
            high = middle - 1
        elif row[3] < seq:
            low = row[0] + 1
        else:
            commit_id, at, _from, _to, digest = row
            return Link(commit_id, at, digest)
    return None


def check_commit(connection: Connection, commit_id: int) -> list[str]:
    """Check that one commit, which carried results, carried what is here, and nothing else."""
    faults: list[str] = []
    boot_id, at, upto, seq_from, seq_to, digest, before = connection.execute(
        sql("select_carrying_commit"), {"commit_id": commit_id}
    ).fetchone()
    carried = Carried(connection, faults, seq_from, seq_to)
    digests = carried.take(commit_id, boot_id, seq_from, seq_to)
    if commit_digest(before, (boot_id, at, upto, seq_from, seq_to), digests) != digest:
        faults.append(f"commit {commit_id}: its digest does not match what it carried")
    return faults


def check_rows(
    connection: Connection,
    seq_from: int,
    seq_to: int,
    *,
    faults_max: int = FAULTS_MAX,
    in_sql: bool = False,
) -> list[str]:
    """Take the digest of every result from ``seq_from`` to ``seq_to`` again from its stored
    columns, its outputs and its content, and find what belongs to no result there.

    ``in_sql``: ``add_digest_function`` has been called. Results of at most one output that are here
    with their content, and as they were written, cost two thirds then.
    """
    faults: list[str] = []
    while seq_from <= seq_to and len(faults) < faults_max:
        results, last = connection.execute(
            sql("select_piece"),
            {"seq_from": seq_from, "seq_to": seq_to, "results": RESULTS_AT_ONCE},
        ).fetchone()
        if results < RESULTS_AT_ONCE:
            last = seq_to
        span = {"seq_from": seq_from, "seq_to": last}
        if not (in_sql and _is_plain(connection, span, results)):
            _check_piece(connection, span, faults, faults_max)
        seq_from = last + 1
    return faults[:faults_max]


def add_digest_function(connection: Connection) -> bool:
    """Let SQL take the digest of a row; false where this driver's functions do not get every value
    as it is stored: pysqlite3's get a text up to its first NUL, and NULL for what is not UTF-8.
    """
    connection.create_function("length_of", 1, lambda text: None if text is None else len(text))
    probe = sql("probe_function")
    if connection.execute(probe, {"value": b"A\0B"}).fetchone() != (3,):
        return False
    try:
        connection.execute(probe, {"value": b"\xff"}).fetchone()
    except SQLITE_ERRORS:  # as it should
        connection.create_function("digest_of", -1, digest_function())
        connection.create_function("content_of", 5, content_function())
        return True
    return False


def _is_plain(connection: Connection, span: Mapping[str, int], results: int) -> bool:
    """Whether there is nothing between but ``results`` results as they were written, each with its
    content, of which no image was taken out, and at most one output. That is most of a file, and
    SQLite calls for each row with all its values, where to fetch them gives the interpreter up for
    every one.
    """
    if connection.execute(sql("select_seqs_with_blobs"), span).fetchone() is not None:
        return False
    rows, joined, outputs, expired, written = connection.execute(
        sql("count_as_written"), span
    ).fetchone()
    return bool(rows == written == results and joined == outputs and not expired)


def _check_piece(
    connection: Connection, span: Mapping[str, int], faults: list[str], faults_max: int
) -> None:
    """The same for so few that their pages are still in SQLite's cache when they are counted."""
    outputs = connection.execute(sql("select_chain_outputs"), span)
    expired = Ordered(
        connection.execute(sql("select_chain_deletions"), {"what": "content", **span})
    )
    with_blobs = {seq for (seq,) in connection.execute(sql("select_seqs_with_blobs"), span)}
    choice = next(outputs, None)
    choices = contents = 0
    for row in connection.execute(sql("select_chain_results"), span):
        seq = row[0]
        if seq in with_blobs and row[WIDTH] is not None:
            sent = whole_body(connection, seq, row[BODY])
            row = (*row[:BODY], sent, *row[BODY + 1 :])  # noqa: PLW2901
        mine: list[tuple[Any, ...]] = []
        while choice is not None and choice[0] <= seq:
            if choice[0] == seq:
                mine.append(choice)
            choice = next(outputs, None)
        choices += len(mine)
        contents += row[WIDTH] is not None
        if expired.next is not None and expired.next[0] <= seq:
            content = _expired_content(row, expired, faults)
        elif row[WIDTH] is None:
            content = b""  # no digest is empty
            faults.append(f"the content of seq {seq} ({row[2]}) is gone and not declared deleted")
        else:
            content = content_digest(row[WIDTH + 1 :])
        if row_digest(row[: WIDTH - 1], mine, content) != row[WIDTH - 1]:
            faults.append(f"seq {seq} ({row[2]}) is not as it was committed")
        if len(faults) >= faults_max:
            return
    if connection.execute(sql("count_parts"), span).fetchone() != (choices, contents):
        faults += [
            f"{table} of seq {seq} have no result"
            for table, seq in connection.execute(sql("select_orphans"), span)
        ]


def _expired_content(
    row: Sequence[Any], expired: Ordered[Sequence[Any]], faults: list[str]
) -> bytes:
    """The digest of a result's content where some up to it are declared deleted. A declaration may
    outlive its result.
    """
    seq, timeline, result_id, boot_id, boot_seq = row[0], row[1], row[2], row[4], row[5]
    declared = [d for d in expired.upto(seq) if d[0] == seq]
    if row[WIDTH] is not None:
        if declared:
            faults.append(
                f"the content of seq {seq} ({result_id}) is declared deleted, but it is here"
            )
        return content_digest(row[WIDTH + 1 :])
    for _seq, *named, digest in declared:
        if named == [timeline, result_id, boot_id, boot_seq]:
            return bytes(digest)
    faults.append(f"the content of seq {seq} ({result_id}) is gone and not declared deleted")
    return b""
