"""The statistics of the benchmarks, on values whose answer is known."""

import os
import subprocess
import sys

import pytest

from edge_store.bench.figures import cpu_seconds, lower_bound, percentile, tree_cpu_seconds
from edge_store.bench.order import request_bytes


def test_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.99) == 100.0
    assert percentile(values, 0.5) == 51.0
    assert percentile([7.0], 0.99) == 7.0


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
        child.communicate("\n", timeout=10)


@pytest.mark.parametrize("mode", ["plain", "streamed"])
def test_every_request_of_a_load_differs(mode: str) -> None:
    requests = [request_bytes(n, stream=mode == "streamed") for n in range(200)]
    assert len(set(requests)) == len(requests)
