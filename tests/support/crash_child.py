"""``python -m support.crash_child DATABASE``: commits batches and prints what is acknowledged.

One line ``boot_seq id`` per acknowledged result, until it is killed; a second argument N
makes N commits of one result each, and then ends.
"""

import asyncio
import os
import sys
from pathlib import Path

from support.records import make_result
from support.scripted import chat_body, recording, replay

from edge_store.config import RecorderSection
from edge_store.recorder.slots import Slots
from edge_store.recorder.writer import Writer

BATCH = 7


async def one(slots: Slots, writer: Writer, boot_id: str) -> None:
    slot = await slots.reserve()
    receipt = await writer.submit(make_result(slot.boot_seq, boot_id))
    os.write(1, f"{slot.boot_seq} {receipt.id}\n".encode())  # whole lines, straight to the pipe
    slots.release(slot)


async def main(path: Path, count: int | None) -> None:
    config = RecorderSection(beat_s=0.05)
    async with recording(path, replay([chat_body("x")]), config=config) as running:
        slots, writer = running.recorder.slots, running.writer
        os.write(1, b"ready\n")
        if count is not None:
            for _ in range(count):
                await one(slots, writer, running.boot.boot_id)
            return
        for _ in range(100_000):  # a minute at the very least; the parent kills long before
            await asyncio.gather(*(one(slots, writer, running.boot.boot_id) for _ in range(BATCH)))


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
