"""What a commit carried, of what is stored now: the digests of results that are here, and of
declared deletions. What is missing, doubled or no commit's is a fault, in words.

Commits come in the order of ``seq``, and so do results and deletions: each row is passed once.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Generic, TypeVar

from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["SEQ_MAX", "SEQ_MIN", "Carried", "Ordered"]

SEQ_MIN, SEQ_MAX = -(2**63), 2**63 - 1
ROWS_AT_ONCE = 1024
FIRST = itemgetter(0)
T = TypeVar("T", bound=Sequence[Any])


class Ordered(Generic[T]):
    """Rows in the order of their first column, taken piece by piece."""

    def __init__(self, rows: Iterator[T]) -> None:
        self._rows = rows
        self._piece: list[T] = list(islice(rows, ROWS_AT_ONCE))
        self.next = self._piece[0] if self._piece else None

    def upto(self, seq: int) -> list[T]:
        """Take those not taken yet whose seq is at most ``seq``."""
        taken: list[T] = []
        while self.next is not None and self.next[0] <= seq:
            end = bisect_right(self._piece, seq, key=FIRST)
            taken += self._piece[:end]
            self._piece = self._piece[end:] or list(islice(self._rows, ROWS_AT_ONCE))
            self.next = self._piece[0] if self._piece else None
        return taken


class Carried:
    """The digests that a commit carried: of results that are here, and of declared deletions."""

    def __init__(
        self,
        connection: Connection,
        faults: list[str],
        seq_from: int = SEQ_MIN,
        seq_to: int = SEQ_MAX,
    ) -> None:
        self._connection = connection
        self._passed = seq_from - 1
        span = {"what": "result", "seq_from": seq_from, "seq_to": seq_to}
        self._deleted = Ordered(connection.execute(sql("select_chain_deletions"), span))
        self._faults = faults
        self.results = 0

    def _stored(self, seq: int) -> list[tuple[int, bytes]]:
        """Take the results not passed yet whose seq is at most ``seq``."""
        if seq <= self._passed:
            return []
        span = {"seq_from": self._passed + 1, "seq_to": seq}
        self._passed = seq
        return self._connection.execute(sql("select_digests"), span).fetchall()

    def skip(self, seq: int) -> None:
        """Pass over those up to ``seq``: no commit carried them."""
        self._faults += [f"seq {row[0]} belongs to no commit" for row in self._stored(seq)]
        for row in self._deleted.upto(seq):
            self._faults.append(f"the deletion of seq {row[0]} ({row[2]}) belongs to no commit")

    def _is_deleted(self, seq: int) -> bool:
        """Whether a deletion of what is not passed yet, up to ``seq``, is declared."""
        return self._deleted.next is not None and self._deleted.next[0] <= seq

    def has_all(self, seq_from: int, seq_to: int, results: int) -> bool:
        """Whether the next commit carried that many, which are all here, and nothing else is left
        before them. They are passed then: their digests in one piece are what it needs.
        """
        if (
            results != seq_to - seq_from + 1
            or seq_from != self._passed + 1
            or self._is_deleted(seq_to)
        ):
            return False
        self._passed = seq_to
        self.results += results
        return True

    def take(self, commit_id: int, boot_id: str, seq_from: int, seq_to: int) -> list[bytes]:
        """The digests in the order of ``seq``; what is missing or doubled is a fault."""
        self.skip(seq_from - 1)
        stored = self._stored(seq_to)
        self.results += len(stored)
        here: Mapping[int, bytes] = dict(stored)
        gone: dict[int, bytes] = {}
        for seq, _timeline, result_id, boot, _boot_seq, digest in self._deleted.upto(seq_to):
            if boot != boot_id:
                self._faults.append(f"the deletion of seq {seq} ({result_id}) names another boot")
            elif seq in here:
                self._faults.append(f"seq {seq} ({result_id}) is declared deleted, but it is here")
            elif gone.get(seq, digest) != digest:
                self._faults.append(f"seq {seq} ({result_id}) is declared deleted in two ways")
            else:
                gone[seq] = digest
        holes = seq_to - seq_from + 1 - len(here) - len(gone)
        merged = {**here, **gone}
        order = sorted(merged) if gone else list(here)
        if holes:
            first = next((n for n, seq in enumerate(order, seq_from) if n != seq), None)
            self._faults.append(
                f"commit {commit_id} carried seq {seq_from} to {seq_to}, but {holes} of them are "
                "neither here nor declared deleted, the first is seq "
                f"{seq_from + len(order) if first is None else first}"
            )
        return [merged[seq] for seq in order]
