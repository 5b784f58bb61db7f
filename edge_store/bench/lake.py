"""What exporting the copies of a fleet to a lake takes: CPU, bytes, memory.

Each export is a command of its own, start-up included. The copies are of ``History``: texts of some
160 bytes, ids and digests that nothing compresses, and results of ten days from each box.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from edge_store.bench.figures import Figure, at_least, at_most
from edge_store.bench.history import History

__all__ = ["bench_lake"]

DAYS = 10
ROWS_PER_CPU_S_MIN = 80_000.0
ROW_BYTES_MAX = 150.0
MEMORY_MIB_MAX = 1024.0
MEMORY_GROWTH_MAX = 1.25  # from a quarter of the boxes to all
MIB = 2**20


class Run(NamedTuple):
    """One export: CPU of the process and of each table, rows of each, and the most memory."""

    cpu_s: float
    tables: dict[str, tuple[int, float]]
    peak_mib: float


async def bench_lake(
    folder: Path, *, boxes: int, rows: int, say: Callable[[str], None]
) -> list[Figure]:
    """Export a quarter of the boxes, all of them to another lake, and all again."""
    copies = folder / "copies"
    few = max(1, boxes // 4)
    for number in range(boxes):
        part = copies / ("few" if number < few else "rest")
        part.mkdir(parents=True, exist_ok=True)
        device_id = f"box-{number:04}"
        path = part / f"{device_id}.db"
        with closing(History(path, rows, device_id=device_id, days=DAYS)) as history:
            history.grow(rows)
    say(f"{boxes} boxes of {rows} results; the load is {os.getloadavg()[0]:.1f}")
    begun = _export(copies / "few", folder / "lake-few")
    for path in (copies / "few").iterdir():
        path.rename(copies / "rest" / path.name)
    whole = _export(copies / "rest", folder / "lake")
    again = _export(copies / "rest", folder / "lake")
    say(f"the load is {os.getloadavg()[0]:.1f}")
    assert whole.tables["results"][0] == boxes * rows, whole
    assert again.tables["results"][0] == 0, again
    figures = [
        at_least(f"export, rows of {name}", count / cpu, ROWS_PER_CPU_S_MIN, "rows/CPU-s")
        for name, (count, cpu) in whole.tables.items()
    ]
    total = sum(count for count, _ in whole.tables.values())
    figures.append(
        at_least("the whole command", total / whole.cpu_s, ROWS_PER_CPU_S_MIN, "rows/CPU-s")
    )
    for name, (count, _) in whole.tables.items():
        files = (folder / "lake" / name).rglob("*")
        size = sum(file.stat().st_size for file in files if file.is_file())
        figures.append(at_most(f"{name}, log included", size / count, ROW_BYTES_MAX, "bytes/row"))
    return [
        *figures,
        at_most("memory, all boxes", whole.peak_mib, MEMORY_MIB_MAX, "MiB"),
        at_most("memory, all ÷ a quarter", whole.peak_mib / begun.peak_mib, MEMORY_GROWTH_MAX),
        Figure(name="nothing new", value=1000 * again.cpu_s / boxes, unit="CPU-ms/box"),
    ]


def _export(copies: Path, lake: Path) -> Run:
    command = ["fleet", "export", "--in", str(copies), "--lake", str(lake), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_store", *command], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        lines = [json.loads(line) for line in process.stdout]
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, lines
    return Run(
        cpu_s=used.ru_utime + used.ru_stime,
        tables={line["table"]: (line["rows"], line["cpu_seconds"]) for line in lines
                if "cpu_seconds" in line},
        peak_mib=used.ru_maxrss * 1024 / MIB,
    )  # fmt: skip
