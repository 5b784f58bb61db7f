"""Percentiles by two looks are those of the sorted values."""

import math

from hypothesis import example, given
from hypothesis import strategies as st

from edge_store.ranks import PERCENTILES, Ranks, _bucket_of, _range_of

TIMES = st.one_of(
    st.floats(0, 1e7),
    st.integers(0, 10**7).map(lambda parts: parts / 1000),
    st.sampled_from([0.0, 0.01, 0.127, 0.128, 1.0, 1e15, 1e308, math.inf, -0.5, 5e-324]),
)


def nearest_ranks(values: list[float]) -> tuple[float, ...]:
    ordered = sorted(values)
    return tuple(ordered[-(-share * len(values) // 100) - 1] for share in PERCENTILES)


@given(st.lists(TIMES, min_size=1, max_size=300))
@example([0.01] * 250 + [7.25])
def test_they_are_what_sorting_gives(values: list[float]) -> None:
    ranks = Ranks()
    for value in values:
        ranks.count([value])
    ranges = ranks.ranges()
    expected = nearest_ranks(values)
    for (low, high), value in zip(ranges, expected, strict=True):
        assert low <= value <= high
    ranks.keep([value for value in values if any(low <= value <= high for low, high in ranges)])
    assert ranks.percentiles() == expected


@given(TIMES, TIMES)
def test_buckets_are_in_the_order_of_values_and_narrow(one: float, other: float) -> None:
    if one <= other:
        assert _bucket_of(one) <= _bucket_of(other)
    low, high = _range_of(_bucket_of(one))
    assert low <= one <= high
    if 1 <= one < 1e15:
        assert high - low <= one / 32


def test_of_nothing_there_is_none() -> None:
    ranks = Ranks()
    assert ranks.ranges() == ()
    assert ranks.percentiles() == (None, None, None)
