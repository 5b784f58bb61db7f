"""What ends a command from outside: Ctrl-C, which is the exit that every program makes, not an
error of the query; a reader of its rows that stands still; an output that takes no more.
"""

import _thread
import errno
import fcntl
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edge_store.errors import EdgeStoreError, QueryRefused

__all__ = [
    "Terminated",
    "drop_output",
    "interruptible",
    "need_no_output",
    "not_for_ever",
    "standard_streams",
]

OUTPUT = 1
AGAIN_S = 0.001  # a finalizer has ended by then, or it is raised once more
PAUSE_S_MAX = 300.0  # a WAL that cannot be begun anew grows: by 1 GB at 300 rows/s of 10 KB


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is cut says so and ends as at Ctrl-C, but for its exit code."""


class Cut:
    """What was received, which is raised as long as it is not over. Python drops what is raised
    while it calls a finalizer, and says so to ``sys.unraisablehook``: then it is raised again.
    """

    def __init__(self) -> None:
        self.received: type[KeyboardInterrupt] | None = None
        self.is_over = False
        self._drop = sys.unraisablehook

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The handler of a signal."""
        self.received = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if not self.is_over:
            raise self.received

    def dropped(self, told: "sys.UnraisableHookArgs") -> None:
        """The hook."""
        if self.received is None or told.exc_type is not self.received:
            self._drop(told)
            return
        number = signal.SIGTERM if self.received is Terminated else signal.SIGINT
        _thread.start_new_thread(self._again, (number,))  # raised here it would be dropped, too

    def _again(self, number: signal.Signals) -> None:
        time.sleep(AGAIN_S)
        if not self.is_over:
            _thread.interrupt_main(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt``, or ``Terminated``, even where it came up in a function that
    SQLite had called: there the driver makes an error of the query out of it; or in a finalizer.
    """
    cut = Cut()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, cut.receive) for number in numbers}
    hook, sys.unraisablehook = sys.unraisablehook, cut.dropped
    try:
        yield
    except EdgeStoreError as exc:
        if cut.received is not None:
            raise cut.received from exc
        raise
    finally:
        cut.is_over = True
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    if cut.received is not None:
        raise cut.received


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


def standard_streams() -> None:
    """Have all three, and an output that takes all of what it is given or says that it did not. One
    that is closed takes nothing.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: else the database would get its number, and what is printed
            flags = os.O_RDONLY if descriptor == OUTPUT else os.O_RDWR
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    given = sys.stdout
    if given is None or isinstance(given, io.TextIOWrapper):  # and none of a test's
        # also with PYTHONUNBUFFERED, where Python's own may take a part of a text, and say nothing
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(StandardOutput(OUTPUT, "w", closefd=False)),
            encoding=given.encoding if given else "utf-8",
            errors="backslashreplace",  # a terminal that knows only ASCII
            line_buffering=given is not None and (given.line_buffering or given.write_through),
        )


class StandardOutput(io.FileIO):
    """What goes wrong with it is said to be its."""

    def write(self, data: Any, /) -> int:
        """Raises ``OSError``."""
        try:
            return super().write(data)
        except OSError as exc:
            exc.filename = "standard output"
            if exc.errno == errno.EBADF:
                exc.strerror = "it is closed"
            raise


def need_no_output() -> None:
    """A closed one is one that nobody reads: of a daemon, which does its work without."""
    if fcntl.fcntl(OUTPUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        drop_output()


def drop_output() -> None:
    """Nobody takes it: Python must not try again, and fail or wait again, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
