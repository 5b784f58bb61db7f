"""What checking the digest chain takes per result, by all cores and by one."""

import os
import time
from pathlib import Path

from edge_store.bench.figures import Figure, median
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
    by_all: list[float] = []
    by_one: list[float] = []
    for number in range(rounds + 1):
        for processes, found in ((cores, by_all), (1, by_one)):
            began = time.perf_counter()
            check = verify_file(path, processes=processes)
            spent = time.perf_counter() - began
            assert (check.results, check.faults) == (rows, ()), check
            if number:  # the first round warms the page cache up
                found.append(spent / rows * 1e6)
    return [
        Figure(
            name=f"verify, {cores} cores",
            value=median(by_all),
            unit="µs/row",
            bound=f"≤ {ROW_US_MAX:g}",
            holds=median(by_all) <= ROW_US_MAX,
        ),
        Figure(name="verify, one core", value=median(by_one), unit="µs/row"),
    ]
