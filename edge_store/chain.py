"""The digest chain over commits: made by the writer, checked on any copy of the file.

Each ``commits`` row carries ``digest = SHA-256(previous, its own columns, the digests of its
results)``. Whoever changes, removes or inserts a row must rewrite every later digest, and cannot
rewrite the newest one where it was published.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from edge_store.rows import RESULT_COLUMNS, content_digest, row_digest
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["GENESIS", "ChainCheck", "commit_digest", "verify_chain"]

GENESIS = bytes(32)
encode = msgspec.msgpack.Encoder().encode


class ChainCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What ``verify_chain`` found: the extent of the file, and every fault in words."""

    commits: int
    results: int
    newest_at: int | None  # UTC ms of the newest commit
    newest_digest: bytes
    faults: tuple[str, ...]


def commit_digest(
    previous: bytes,
    columns: tuple[str, int, int, int | None, int | None],
    rows: Iterable[bytes],
) -> bytes:
    """The link after ``previous``. ``columns``: boot_id, at, admitted_upto, seq_from, seq_to."""
    digest = hashlib.sha256(previous)
    digest.update(encode(columns))
    for row in rows:
        digest.update(row)
    return digest.digest()


def verify_chain(connection: Connection, *, faults_max: int = 20) -> ChainCheck:
    """Recompute every digest from what is stored, in one pass in the order of ``seq``.

    Stops looking after ``faults_max`` faults. Run it inside one read transaction on a live file.
    """
    faults: list[str] = []
    rows = _stored_digests(connection, faults)
    results = commits = 0
    previous, newest_at, expected_seq = GENESIS, None, None
    held = next(rows, None)
    for commit_id, boot_id, at, upto, seq_from, seq_to, digest, before in connection.execute(
        sql("select_commits")
    ):
        commits += 1
        newest_at = at
        if before != previous:
            faults.append(f"commit {commit_id} does not follow the commit before it")
        carried = []
        if seq_from is not None:
            if expected_seq is not None and seq_from != expected_seq:
                faults.append(f"commit {commit_id} begins at seq {seq_from}, not {expected_seq}")
            expected_seq = seq_to + 1
            while held is not None and held[0] < seq_from:
                faults.append(f"seq {held[0]} belongs to no commit")
                held = next(rows, None)
            while held is not None and held[0] <= seq_to:
                carried.append(held[1])
                held = next(rows, None)
            results += len(carried)
            if len(carried) != seq_to - seq_from + 1:
                faults.append(
                    f"commit {commit_id} carried seq {seq_from} to {seq_to}, "
                    f"but {len(carried)} of them are here"
                )
        if commit_digest(before, (boot_id, at, upto, seq_from, seq_to), carried) != digest:
            faults.append(f"commit {commit_id}: its digest does not match what is stored")
        previous = digest
        if len(faults) >= faults_max:
            break
    else:
        faults.extend(f"seq {seq} belongs to no commit" for seq, _ in ([held] if held else []))
    return ChainCheck(
        commits=commits,
        results=results,
        newest_at=newest_at,
        newest_digest=previous,
        faults=tuple(faults),
    )


def _stored_digests(connection: Connection, faults: list[str]) -> Iterator[tuple[int, bytes]]:
    """(seq, digest recomputed from the stored columns) of each result, deleted ones included."""
    outputs = groupby(connection.execute(sql("select_chain_outputs")), key=itemgetter(0))
    choices = next(outputs, None)
    width = len(RESULT_COLUMNS)
    for row in connection.execute(sql("select_chain_results")):
        seq, stored = row[0], row[width - 1]
        if row[width] == "deleted":
            yield seq, stored
            continue
        mine: list[tuple[Any, ...]] = []
        while choices is not None and choices[0] <= seq:
            group = [tuple(choice) for choice in choices[1]]
            if choices[0] == seq:
                mine = group
            else:
                faults.append(f"outputs of seq {choices[0]} have no result")
            choices = next(outputs, None)
        has_content, expired, *bodies = row[width + 1 :]
        content = content_digest(*bodies) if has_content else (expired or b"")
        digest = row_digest(row[: width - 1], mine, content)
        if digest != stored:
            faults.append(f"seq {seq} ({row[2]}) is not as it was committed")
        yield seq, digest
