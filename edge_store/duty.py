"""What a process that works beside the daemon gets of the machine, so that callers do not notice.

Its share of the processor: only what nothing else wants (SCHED_IDLE), or about a tenth (nice 10).
It cannot be given the second under way: who has gone idle needs a privilege to come back
(sched_setscheduler(2), RLIMIT_NICE). Where the kernel groups by session (sched(7), autogroup), both
count only within the session, and sessions share alike: seen to halve what callers got. Then its
whole session is made nice.

And turns: the idle class keeps the processor for callers, and not its caches nor the memory's
bandwidth: a drill that had only what was left took a tenth of their rate. So it is stopped
(SIGSTOP) most of the time while requests are in flight, and its litestream with it. As its time
runs out the part grows: what would take half of ``within_s`` on its own ends within that.

A stop lasts ``PERIOD_S`` at most: the store's connections bear it, and whoever waits for a lock of
the live database. What somebody else has stopped stays so. SIGKILL, the end of all this, also ends
what is stopped.
"""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "LEFT_OVER", "PERIOD_S", "SMALL", "Share", "halted", "is_stopped", "keep_to_turns",
    "make_session_nice", "share_after",
]  # fmt: skip

PERIOD_S = 0.2
REFUSED_S = 0.11  # HZ / 10, and a tick (proc_sched_autogroup_set_nice)
LEAST = 0.25  # of each period it runs
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
IDLE_IO = ("ionice", "-c", "3")


class Share(NamedTuple):
    """Of the processor, beside others that are busy."""

    nice: int
    is_idle: bool

    @property
    def before_it(self) -> list[str]:
        """The commands that start a process with it, which dies with the thread that starts it;
        those that this machine has.
        """
        policy = ("chrt", "--idle", "0") if self.is_idle else ()
        commands = (DIES_WITH_US, IDLE_IO, ("nice", "-n", f"{self.nice}"), policy)
        return [word for words in commands if words and shutil.which(words[0]) for word in words]


LEFT_OVER = Share(19, is_idle=True)
SMALL = Share(10, is_idle=False)


def make_session_nice(process_id: int, nice: int) -> None:
    """For a process that leads its session. Within 0.1 s of another such write, by anybody, the
    kernel refuses it: then once more after that; on an event loop's thread without waiting for it.
    """
    if _write_nice(process_id, nice):
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        time.sleep(REFUSED_S)
        _write_nice(process_id, nice)
    else:
        loop.call_later(REFUSED_S, _write_nice, process_id, nice)


def _write_nice(process_id: int, nice: int) -> bool:
    """False: not now (EAGAIN)."""
    group = Path(f"/proc/{process_id}/autogroup")
    try:
        with group.open("wb", buffering=0) as file:
            return file.write(b"%d" % nice) is not None
    except OSError:  # the kernel has no such groups, or the process has ended
        return True


def share_after(elapsed_s: float, within_s: float, least: float = LEAST) -> float:
    """Which part of the time it runs, so long after its start: all at ``within_s``."""
    return min(1.0, max(least, elapsed_s / within_s))


async def keep_to_turns(process_id: int, is_busy: Callable[[], bool], within_s: float) -> None:
    """Stop and continue the process, which leads its group, until cancelled; then it runs."""
    began = time.monotonic()
    while True:
        share = share_after(time.monotonic() - began, within_s)
        await asyncio.sleep(share * PERIOD_S)
        if is_busy() and share < 1 and not is_stopped(process_id):
            with halted(process_id):
                await asyncio.sleep((1 - share) * PERIOD_S)


@contextmanager
def halted(process_id: int) -> Iterator[None]:
    """It does nothing meanwhile."""
    try:
        _signal(process_id, signal.SIGSTOP)
        yield
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
