"""In which order results are shown that hold what is asked for: by BM25, with the frequencies among
those that are ranked, and with the lengths of texts in characters.
"""

import math
from collections.abc import Sequence

from edge_store.search.sought import Sought

__all__ = ["scores"]

K1, B = 1.2, 0.75  # as FTS5 has them


def scores(results: Sequence[Sequence[str]], wanted: Sequence[Sought]) -> list[float]:
    """One for each result, the larger the better; a result is its folded texts."""
    counts = [[sum(map(each.count, texts)) for each in wanted] for texts in results]
    lengths = [sum(map(len, texts)) for texts in results]
    mean = max(1.0, sum(lengths) / max(1, len(lengths)))
    weights = [
        _weight(len(results), sum(1 for found in counts if found[n])) for n in range(len(wanted))
    ]
    return [
        sum(
            weight * count * (K1 + 1) / (count + K1 * (1 - B + B * length / mean))
            for weight, count in zip(weights, found, strict=True)
        )
        for found, length in zip(counts, lengths, strict=True)
    ]


def _weight(of: int, having: int) -> float:
    return math.log(1 + (of - having + 0.5) / (having + 0.5))
