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
    faults = [
        f"a deletion of seq {seq} ({what}) is noted, but this version deletes nothing"
        for what, seq in connection.execute(sql("select_deletions"))
    ][:faults_max]
    stored = Stored(_stored_digests(connection, faults))
    results = commits = 0
    previous, newest_at, expected_seq = GENESIS, None, None
    for commit_id, boot_id, at, upto, seq_from, seq_to, digest, before in connection.execute(
        sql("select_commits")
    ):
        commits += 1
        newest_at = at
        if before != previous:
            faults.append(f"commit {commit_id} does not follow the commit before it")
        carried: list[bytes] = []
        if seq_from is not None and seq_to is not None:
            if expected_seq not in (None, seq_from):
                faults.append(f"commit {commit_id} begins at seq {seq_from}, not {expected_seq}")
            expected_seq = seq_to + 1
            for seq, _digest in stored.upto(seq_from - 1):
                faults.append(f"seq {seq} belongs to no commit")
            carried = [row for _seq, row in stored.upto(seq_to)]
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
        faults += _unclaimed(connection, stored)
    return ChainCheck(
        commits=commits,
        results=results,
        newest_at=newest_at,
        newest_digest=previous,
        faults=tuple(faults),
    )


class Stored:
    """(seq, digest) of the stored results in the order of ``seq``, taken piece by piece."""

    def __init__(self, rows: Iterator[tuple[int, bytes]]) -> None:
        self._rows = rows
        self.next = next(rows, None)

    def upto(self, seq: int) -> list[tuple[int, bytes]]:
        """Take those not taken yet whose seq is at most ``seq``."""
        taken = []
        while self.next is not None and self.next[0] <= seq:
            taken.append(self.next)
            self.next = next(self._rows, None)
        return taken


def _unclaimed(connection: Connection, stored: Stored) -> list[str]:
    """What is stored and belongs to nothing."""
    faults = [
        f"{table} of seq {seq} have no result"
        for table, seq in connection.execute(sql("select_orphans"))
    ]
    if stored.next is not None:
        faults.append(f"seq {stored.next[0]} and what follows it belong to no commit")
    return faults


def _stored_digests(connection: Connection, faults: list[str]) -> Iterator[tuple[int, bytes]]:
    """(seq, digest recomputed from the stored columns) of each result."""
    outputs = groupby(connection.execute(sql("select_chain_outputs")), key=itemgetter(0))
    choices = next(outputs, None)
    width = len(RESULT_COLUMNS)
    for row in connection.execute(sql("select_chain_results")):
        seq, stored = row[0], row[width - 1]
        mine: list[tuple[Any, ...]] = []
        while choices is not None and choices[0] <= seq:
            group = [tuple(choice) for choice in choices[1]]
            if choices[0] == seq:
                mine = group
            choices = next(outputs, None)
        has_content, *bodies = row[width:]
        content = content_digest(*bodies) if has_content else b""  # no digest is empty
        digest = row_digest(row[: width - 1], mine, content)
        if digest != stored:
            faults.append(f"seq {seq} ({row[2]}) is not as it was committed")
        yield seq, digest
