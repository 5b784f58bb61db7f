"""Lets a drill's process run a part of the time only, while requests are in flight.

The idle class keeps the processor for callers, and not its caches nor the memory's bandwidth: a
drill that had only what was left took a tenth of their rate. So it is stopped (SIGSTOP) most of the
time, and its litestream with it. As its time runs out the part grows: what would take half of
``within_s`` on its own ends within that.

A stop lasts ``PERIOD_S`` at most: the store's connections bear it, and whoever waits for a lock of
the live database. What somebody else has stopped stays so. SIGKILL, the end of all this, also ends
what is stopped. Runs on the event loop.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["PERIOD_S", "is_stopped", "keep_to_turns", "share_after"]

PERIOD_S = 0.2
LEAST = 0.25  # of each period it runs


def share_after(elapsed_s: float, within_s: float) -> float:
    """Which part of the time it runs, so long after its start: all at ``within_s``."""
    return min(1.0, max(LEAST, elapsed_s / within_s))


async def keep_to_turns(process_id: int, is_busy: Callable[[], bool], within_s: float) -> None:
    """Stop and continue the process, which leads its group, until cancelled; then it runs."""
    began = time.monotonic()
    while True:
        share = share_after(time.monotonic() - began, within_s)
        await asyncio.sleep(share * PERIOD_S)
        if is_busy() and share < 1 and not is_stopped(process_id):
            try:
                _signal(process_id, signal.SIGSTOP)
                await asyncio.sleep((1 - share) * PERIOD_S)
            finally:
                _signal(process_id, signal.SIGCONT)


def is_stopped(process_id: int) -> bool:
    """Whether it does nothing until it is continued; one that has ended, too."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "T"


def _signal(process_id: int, number: signal.Signals) -> None:
    """To it first: who is stopped starts no litestream. That one has a group of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process_id, number)
    with suppress(OSError):  # it has ended, or this kernel does not tell
        for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split():
            os.kill(int(child), number)
