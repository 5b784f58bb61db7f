"""The shipped writer with 64 producers: writes so many rows for each line it reads."""

import asyncio
import sys
from pathlib import Path

import uvloop

from edge_store.bench.writer import Ours
from edge_store.sqlite import Connection

PRODUCERS = 64
ROWS_AT_ONCE = 1024  # made at the start, as the others' are


def checkpoint_as_litestream_does(connection: Connection) -> None:
    """Every 1000 pages or so, without cutting the WAL: the next commits write over it."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


async def main() -> None:
    ours = await Ours.open(Path(sys.argv[1]), PRODUCERS)
    ours.after_slice = checkpoint_as_litestream_does
    samples = ours.make(ROWS_AT_ONCE)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        spent, left = 0.0, int(line)
        while left:
            results = ours.make_again(samples[:left])
            per_row, _cpu = await ours.write(results)
            spent += per_row * len(results)
            left -= len(results)
        print(spent, flush=True)
    await ours.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
