"""What ends a query from outside: Ctrl-C, which is the exit that every program makes, not an error
of the query; and a reader of its rows that stands still.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from edge_store.errors import EdgeStoreError, QueryRefused

__all__ = ["drop_output", "interruptible", "not_for_ever"]

PAUSE_S_MAX = 300.0  # a WAL that cannot be begun anew grows: by 1 GB at 300 rows/s of 10 KB


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` even where it came up in a function that SQLite had called: there
    the driver makes an error of the query out of it.
    """
    is_pressed = False

    def pressed(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_pressed
        is_pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    except EdgeStoreError as exc:
        if is_pressed:
            raise KeyboardInterrupt from exc
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def not_for_ever(release: Callable[[], object]) -> Iterator[None]:
    """Give up what is in the hands of somebody who does not go on, as a pager that is left open.

    Raises:
        QueryRefused: that took too long; ``release`` was called.
    """

    def over(_number: int, _frame: FrameType | None) -> None:
        release()
        drop_output()
        raise QueryRefused(
            f"nobody has taken its rows for {PAUSE_S_MAX:g} s: it is given up, as the WAL of a "
            "live box would grow meanwhile",
            hint="write them to a file, and read that",
        )

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, PAUSE_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def drop_output() -> None:
    """Nobody takes it: Python must not try again, and fail or wait again, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
