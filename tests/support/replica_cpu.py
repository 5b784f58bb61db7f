"""Measures what supervising Litestream costs: the CPU of this process, which does nothing else,
while another process commits 20 results a second, and while nothing is committed.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from support.replicating import Database, WriterProcess

from edge_store.alerts import Alarms
from edge_store.config import ReplicaSection
from edge_store.observability.metrics import Metrics
from edge_store.replica.assembly import replicating
from edge_store.sqlite import DatabaseThread, open_writer


def litestream_s(process_id: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(seconds: float, folder: Path) -> None:
    database = Database(folder / "results.db", "box-a")
    thread = await DatabaseThread.open(lambda: open_writer(database.path))
    section = ReplicaSection(url=f"file://{folder}/replica")
    room = replicating(section, database.path, database.boot, Alarms(Metrics()), thread)
    with WriterProcess(folder / "results.db", "box-a") as writer:
        async with room as replica:
            await asyncio.sleep(5)
            for what, pause_s in (("20 commits/s", 0.05), ("idle", seconds)):
                child = replica.process_id
                assert child is not None
                began, own, theirs = time.monotonic(), time.process_time(), litestream_s(child)
                await asyncio.to_thread(writing, writer, began + seconds, pause_s)
                took = time.monotonic() - began
                own, theirs = time.process_time() - own, litestream_s(child) - theirs
                print(
                    f"{what}, {took:.0f} s: supervisor {100 * own / took:.2f} % of a core, "
                    f"litestream {100 * theirs / took:.2f} %",
                    flush=True,
                )
    os._exit(0)


def writing(writer: WriterProcess, until: float, pause_s: float) -> None:
    while time.monotonic() < until:
        writer.write(1, 4000)
        time.sleep(pause_s)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 120.0, Path(name)))
