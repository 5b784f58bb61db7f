"""A command on a pseudo-terminal, as a person runs it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

__all__ = ["on_terminal"]


def on_terminal(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    typed: Sequence[str] = (),
    columns: int = 80,
    deadline_s: float = 60.0,
) -> tuple[int, str]:
    """Run it, type a line each time it has said something and waits, and return its exit code and
    what the terminal showed.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        command, env=dict(environ), stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown, waiting = b"", list(typed)
    ends_at = time.monotonic() + deadline_s
    try:
        while (left_s := ends_at - time.monotonic()) > 0:
            if not select.select([controller], [], [], left_s)[0]:
                continue
            try:
                chunk = os.read(controller, 4096)
            except OSError:  # EIO: the last end of the terminal is closed
                break
            shown += chunk
            if waiting and shown.rstrip(b" ").endswith(b":"):
                os.write(controller, f"{waiting.pop(0)}\n".encode())
        return process.wait(max(0.1, ends_at - time.monotonic())), shown.decode()
    finally:
        os.close(controller)
        if process.poll() is None:
            process.kill()
            process.wait()


def conversation(
    command: Sequence[str],
    environ: Mapping[str, str],
    steps: Sequence[tuple[str, str]],
    *,
    deadline_s: float = 60.0,
) -> str:
    """Run an interactive program and type: of each step the first is waited for in what the
    terminal shows after the step before, then the second is typed. Returns what was shown.

    Raises:
        AssertionError: what was waited for did not come.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command],
        env=dict(environ), stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        for expected, typed in steps:
            seen = len(shown)
            ends_at = time.monotonic() + deadline_s
            while expected.encode() not in shown[seen:]:
                left_s = ends_at - time.monotonic()
                if left_s <= 0 or not select.select([controller], [], [], left_s)[0]:
                    raise AssertionError(f"{expected!r} did not come: {shown[seen:]!r}")
                shown += os.read(controller, 4096)
            os.write(controller, typed.encode())
        return shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(controller)
