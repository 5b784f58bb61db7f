"""The statistics of the benchmarks, on values whose answer is known."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_store.bench.figures import cpu_seconds, lower_bound, percentile, tree_cpu_seconds
from edge_store.bench.order import request_bytes
from edge_store.bench.overload import bucket_percentile, jain
from edge_store.bench.shares import bench_shares


def test_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.99) == 100.0
    assert percentile(values, 0.5) == 51.0
    assert percentile([7.0], 0.99) == 7.0


def test_jains_index_is_one_for_equals_and_a_share_for_one_that_has_all() -> None:
    assert jain([5, 5, 5, 5]) == 1.0
    assert jain([9, 0, 0, 0]) == 0.25
    assert 0.25 < jain([7, 1, 1, 1]) < 0.5


def test_a_percentile_of_a_histogram_lies_within_its_bucket() -> None:
    buckets = {0.01: 90.0, 0.02: 98.0, 0.04: 100.0, float("inf"): 100.0}
    assert bucket_percentile(buckets, 0.9) == 0.01
    assert bucket_percentile(buckets, 0.94) == pytest.approx(0.015)
    assert bucket_percentile(buckets, 0.99) == pytest.approx(0.03)
    assert bucket_percentile({0.01: 0.0, float("inf"): 5.0}, 0.99) == float("inf")


async def test_shares_of_the_recorders_cost_make_up_the_whole(tmp_path: Path) -> None:
    *parts, whole = await bench_shares(tmp_path, rounds=1, requests=128)
    assert len(parts) == 17
    assert sum(part.value for part in parts) == pytest.approx(whole.value)
    costs = {part.name: part.value for part in parts}
    assert min(costs[name] for name in ("id", "digests", "log line", "parsing the request")) > 0
    assert max(costs, key=lambda name: costs[name]).startswith(("INSERTs", "exchange", "queue"))


def test_lower_bound_of_equal_values_is_that_value() -> None:
    assert lower_bound([0.98] * 10) == 0.98


def test_lower_bound_is_below_the_median_and_repeatable() -> None:
    values = [0.90, 0.95, 0.97, 0.98, 0.99, 1.00, 1.01, 1.02, 1.05, 1.10]
    bound = lower_bound(values)
    assert min(values) < bound < 0.995
    assert lower_bound(values) == bound


def test_more_pairs_bring_the_bound_nearer() -> None:
    values = [0.90, 0.95, 1.00, 1.05, 1.10]
    assert lower_bound(values) < lower_bound(values * 8) <= 1.0


BUSY = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"


def test_cpu_of_a_tree_counts_its_children() -> None:
    before = tree_cpu_seconds(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds(child.pid) >= 0.15
        assert tree_cpu_seconds(os.getpid()) - before >= 0.15
        child.communicate("\n", timeout=60)


@pytest.mark.parametrize("mode", ["plain", "streamed"])
def test_every_request_of_a_load_differs(mode: str) -> None:
    requests = [request_bytes(n, stream=mode == "streamed") for n in range(200)]
    assert len(set(requests)) == len(requests)
