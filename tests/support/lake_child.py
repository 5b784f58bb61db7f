"""``python -m support.lake_child FOLDER LAKE``: work on a lake that is killed at a chosen moment.

For each line ``WHAT NUMBER MICROSECONDS`` it forks a process that does it, and SIGKILLs it so long
after; 0: not at all. It answers ``STATUS MICROSECONDS``, how long that took. Whoever forks here has
imported everything, and opened no lake: Delta's threads are the forked process's.
"""

import os
import signal
import sys
import time
from pathlib import Path

from edge_store.fleet.lake import care
from edge_store.fleet.lake.export import ExportPlan, export, find_all_copies
from edge_store.fleet.lake.store import Lake

TABLES = ("results", "outputs")


def work(what: str, number: int, folder: Path, lake: Lake) -> None:
    if what == "export":
        reports = export(ExportPlan(copies=find_all_copies(folder), buckets=2), lake)
        assert not any(each.failed for each in reports), reports
        return
    for table in TABLES:
        match what:
            case "compact":
                care.compact(lake, table, 2**20)
            case "vacuum":
                care.vacuum(lake, table, number)
            case "expire":
                care.expire(lake, table, number)


def main() -> None:
    folder, lake = Path(sys.argv[1]), Lake(sys.argv[2])
    print("ready", flush=True)
    for line in sys.stdin:
        what, number, after_us = line.split()
        began = time.monotonic_ns()
        child = os.fork()
        if not child:
            try:
                work(what, int(number), folder, lake)
                os._exit(0)
            finally:
                os._exit(3)
        if int(after_us):
            time.sleep(int(after_us) / 1e6)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        took_us = (time.monotonic_ns() - began) // 1000
        print(os.waitstatus_to_exitcode(status), took_us, flush=True)


if __name__ == "__main__":
    main()
