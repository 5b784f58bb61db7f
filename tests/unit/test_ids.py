"""Identifiers sort by time and do not collide; clocks are what they say."""

import time

from uuid6 import UUID

from edge_store.clock import is_clock_synced, now_ms
from edge_store.ids import new_boot_id, new_device_id, new_result_id


def test_later_ids_sort_after_earlier_ones_though_the_clock_steps_back() -> None:
    ids = [new_result_id() for _ in range(1000)]
    real = time.time_ns
    try:
        time.time_ns = lambda: real() - 3600 * 10**9
        ids += [new_result_id() for _ in range(1000)]
    finally:
        time.time_ns = real
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(UUID(found).version == 7 for found in (*ids, new_boot_id()))


def test_a_device_id_is_one_that_the_settings_take() -> None:
    made = {new_device_id() for _ in range(100)}
    assert len(made) == 100
    assert all(name.startswith("box-") and len(name) == 14 for name in made)


def test_the_clock_counts_milliseconds_since_1970() -> None:
    assert abs(now_ms() - time.time() * 1000) < 5000
    assert is_clock_synced() in (True, False)
