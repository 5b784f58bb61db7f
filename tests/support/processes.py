"""Processes that a test has started, seen from ``/proc``: who lives, and what it has started.

One can be had to stand still, while its files are looked at.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["children", "descendants", "is_alive", "standing_still"]

DEADLINE_S = 60.0
POLL_S = 0.005


def is_alive(process_id: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _state(Path(f"/proc/{process_id}")) not in ("", "Z")


def _state(folder: Path) -> str:
    """The letter of a process or thread; empty where there is none any more."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may end while it is read
        return ""


def children(process_id: int) -> list[int]:
    """Of any of its threads."""
    found: list[int] = []
    for task in _threads(process_id):
        with suppress(OSError):
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _threads(process_id: int) -> list[Path]:
    try:
        return [*Path(f"/proc/{process_id}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []


def descendants(process_id: int) -> list[int]:
    """What it has started, and what that has started: the nearest first."""
    found = children(process_id)
    for each in found:  # it grows
        found += children(each)
    return found


def _stands(process_id: int) -> bool:
    """Whether no thread of it does one more step: a signal is sent before it holds."""
    return all(_state(each) in ("T", "Z", "") for each in _threads(process_id))


@contextmanager
def standing_still(process_id: int) -> Iterator[None]:
    """A process and all that it has started do nothing until the end, whatever is at its turn."""
    stopped: list[int] = []
    ends_at = time.monotonic() + DEADLINE_S
    try:
        while left := [n for n in (process_id, *descendants(process_id)) if n not in stopped]:
            for each in left:  # who is stopped starts nobody
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGSTOP)
                stopped.append(each)
                while not _stands(each):
                    assert time.monotonic() < ends_at, f"process {each} does not stand still"
                    time.sleep(POLL_S)
        yield
    finally:
        for each in reversed(stopped):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
