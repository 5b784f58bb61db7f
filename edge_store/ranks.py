"""Exact percentiles, by nearest rank, of more values than are to be held: they are looked at twice.

The first look counts how many values are in each bucket, a hundredth of them wide; then it is known
in which buckets the ranks are. The second counts the values of these alone. (SQLite sorts in memory
where it is built so, as pysqlite3 is: ten million values take a gigabyte.)
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

__all__ = ["PERCENTILES", "Ranks"]

PERCENTILES = (50, 95, 99)
PARTS = 1000  # of a millisecond: below, values are rarely told apart
BITS = 7  # 64 to 128 buckets for each doubling of the value
MOST = 1e15

Range = tuple[float, float]


class Ranks:
    """Of one list of values, in no order."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._places: list[tuple[int, int]] = []  # of each percentile: bucket, rank within it
        self._values: dict[int, Counter[float]] = {}

    def count(self, values: Iterable[float]) -> None:
        """The first look at some."""
        self._buckets.update(map(_bucket_of, values))

    def ranges(self) -> Sequence[Range]:
        """After it: between which values, both included, each percentile is. Empty without any."""
        number = self._buckets.total()
        if not number:
            return ()
        ranks = [-(-share * number // 100) for share in PERCENTILES]
        self._places = []
        before = 0
        for bucket in sorted(self._buckets):
            upto = before + self._buckets[bucket]
            self._places += [(bucket, rank - before) for rank in ranks if before < rank <= upto]
            before = upto
        self._buckets.clear()
        self._values = {bucket: Counter() for bucket, _ in self._places}
        return [_range_of(bucket) for bucket, _ in self._places]

    def keep(self, values: Iterable[float]) -> None:
        """The second look at some; those out of the ranges may be left out."""
        found: dict[int, list[float]] = defaultdict(list)
        for value in values:
            bucket = _bucket_of(value)
            if bucket in self._values:
                found[bucket].append(value)
        for bucket, those in found.items():
            self._values[bucket].update(those)

    def percentiles(self) -> tuple[float | None, ...]:
        """After it. None where there is no value."""
        if not self._places:
            return (None,) * len(PERCENTILES)
        return tuple(_at(self._values[bucket], rank) for bucket, rank in self._places)


def _at(values: Counter[float], rank: int) -> float:
    for value in sorted(values):
        rank -= values[value]
        if rank <= 0:
            return value
    raise AssertionError("both looks are at the same values")


def _bucket_of(value: float) -> int:
    """Larger values are in none that is smaller."""
    parts = int(min(value, MOST) * PARTS)
    shift = parts.bit_length() - BITS
    return parts if shift <= 0 or parts < 0 else (shift << BITS) + (parts >> shift)


def _range_of(bucket: int) -> Range:
    """Around all its values: a part wider at both ends, as a fraction is no exact number."""
    shift = max(bucket, 0) >> BITS
    first = (bucket & (1 << BITS) - 1) << shift if shift else bucket
    high = (first + (1 << shift) + 1) / PARTS if bucket != _bucket_of(MOST) else float("inf")
    return (first - 1) / PARTS, high
