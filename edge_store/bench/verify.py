"""What checking the digest chain takes per result: time by all cores, and CPU of all processes."""

import os
import time
from pathlib import Path

from edge_store.bench.figures import Figure, median, tree_cpu_seconds
from edge_store.bench.writer import prepare, sample_result
from edge_store.recorder.batch import read_head, write_batch
from edge_store.sqlite import open_writer
from edge_store.verify import verify_file

__all__ = ["bench_verify"]

ROW_US_MAX = 10.0
BATCH_ROWS = 64


async def bench_verify(folder: Path, *, rows: int, rounds: int) -> list[Figure]:
    """Write ``rows`` results of ordinary size, then check the whole file again and again."""
    path = folder / "results.db"
    connection = open_writer(path)
    try:
        boot = prepare(connection)
        head = read_head(connection)
        for first in range(1, rows + 1, BATCH_ROWS):
            last = min(first + BATCH_ROWS - 1, rows)
            results = [sample_result(boot, n) for n in range(first, last + 1)]
            head = write_batch(connection, boot, head, last, results).head
    finally:
        connection.close()
    cores = len(os.sched_getaffinity(0))
    took: list[float] = []
    cost: list[float] = []
    for number in range(rounds + 1):
        began, spent = time.perf_counter(), tree_cpu_seconds(os.getpid(), with_ended=True)
        check = verify_file(path)
        assert (check.results, check.faults) == (rows, ()), check
        if number:  # the first round warms the page cache up, and starts what starts processes
            took.append((time.perf_counter() - began) / rows * 1e6)
            cost.append((tree_cpu_seconds(os.getpid(), with_ended=True) - spent) / rows * 1e6)
    return [
        Figure(
            name=f"verify, {cores} cores",
            value=median(took),
            unit="µs/row",
            bound=f"≤ {ROW_US_MAX:g}",
            holds=median(took) <= ROW_US_MAX,
        ),
        Figure(
            name="verify, CPU",
            value=median(cost),
            unit="µs/row",
            bound=f"≤ {ROW_US_MAX:g}",
            holds=median(cost) <= ROW_US_MAX,
        ),
    ]
