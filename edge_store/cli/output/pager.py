"""A terminal as what is written to: more than a screen goes to a pager, and no control character
reaches either: a model's text must not steer them.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import TextIO, cast

__all__ = ["paged"]

PAGER = "less"
LESS = "-RFX"  # colours as they are, no waiting when it fits, what was shown stays
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Left(Exception):
    """Whoever reads has closed the pager."""


class Screen(StringIO):
    """Holds one screen; from the first line beyond it on all goes to a pager."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        size = shutil.get_terminal_size()
        self._columns, self._left = max(1, size.columns), size.lines - 1
        self._pager: subprocess.Popen[bytes] | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Takes it, without what would steer a terminal.

        Raises:
            Left: nobody reads it.
        """
        text = CONTROL.sub("\ufffd", text)
        if self._pager is None:
            super().write(text)
            self._left -= sum(1 + len(line) // (self._columns + 1) for line in text.split("\n")) - 1
            if self._left < 0:
                self._turn_over()
        else:
            self._send(text)
        return len(text)

    def _turn_over(self) -> None:
        command = shlex.split(os.environ.get("PAGER", PAGER))
        if command and shutil.which(command[0]):
            self._pager = subprocess.Popen(
                command, stdin=subprocess.PIPE, env={"LESS": LESS, **os.environ}
            )
            self._send(self.getvalue())
        else:  # none is there, or none is wanted
            self._left = 2**63
            self._stream.write(self.getvalue())
        self.seek(0)
        self.truncate()

    def _send(self, text: str) -> None:
        assert self._pager is not None
        assert self._pager.stdin is not None
        try:
            self._pager.stdin.write(text.encode(errors="backslashreplace"))
        except BrokenPipeError:
            raise Left from None

    def end(self) -> None:
        """Write what is held, or wait until the pager is closed."""
        if self._pager is None:
            self._stream.write(self.getvalue())
            return
        assert self._pager.stdin is not None
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pager's own affair
        try:
            with suppress(BrokenPipeError):
                self._pager.stdin.close()
            self._pager.wait()
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def paged(stream: TextIO) -> Iterator[TextIO]:
    """Where to write what is for the terminal ``stream``."""
    screen = Screen(stream)
    try:
        with suppress(Left):
            yield cast("TextIO", screen)
    finally:
        screen.end()
