"""Identifiers sort by time and do not collide; clocks are what they say."""

import time
from uuid import RFC_4122, UUID

import pytest

from edge_store.clock import is_clock_synced, now_ms
from edge_store.ids import Uuid7, new_boot_id, new_device_id, new_result_id


def test_later_ids_sort_after_earlier_ones_though_the_clock_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, real = Uuid7(), time.time_ns
    ids = [make() for _ in range(1000)]
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    ids += [make() for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_an_id_is_a_uuid_of_version_7() -> None:
    for made in (Uuid7()(), new_boot_id(), new_result_id()):
        assert str(UUID(made)) == made
        assert (UUID(made).version, UUID(made).variant) == (7, RFC_4122)


def test_many_ids_of_one_millisecond_carry_the_true_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_ms = 1_760_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: at_ms * 10**6)
    make = Uuid7()
    times = [UUID(make()).int >> 80 for _ in range(5000)]
    assert times == [at_ms] * 4096 + [at_ms + 1] * 904


def test_a_device_id_is_one_that_the_settings_take() -> None:
    made = {new_device_id() for _ in range(100)}
    assert len(made) == 100
    assert all(name.startswith("box-") and len(name) == 14 for name in made)


def test_the_clock_counts_milliseconds_since_1970() -> None:
    assert abs(now_ms() - time.time() * 1000) < 5000
    assert is_clock_synced() in (True, False)
