"""Has jobs of the archive done in a process of its own, one after the other. It dies with the
thread that has started it.

At first it has only the processor time that nothing else wants, and runs a part of the time only
while results come (``duty.py``). On a box that is busy for days that may be none, and its disk
fills: after a job for which it was too little it gets a share of about a tenth.
"""

import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_store.archive.child import Answer
from edge_store.archive.work import Job, Written
from edge_store.duty import (
    LEFT_OVER,
    PERIOD_S,
    SMALL,
    Share,
    halted,
    is_stopped,
    make_session_nice,
    share_after,
)
from edge_store.errors import ArchiveFailed
from edge_store.loggers import get_logger

__all__ = ["Aside"]

log = get_logger(__name__)

TIMEOUT_S = 3600.0  # 30 MB over 100 kbit/s
LEAST, TURNS_S = 0.1, 60.0  # a job that takes longer runs all the time
STARVED_S = 5.0  # so long a job may wait for the processor most of the time
PIPE_BYTES = 65536


class Aside:
    """Does jobs until it is closed. ``is_busy``: whether it is to take turns; a job ends when
    ``stop`` is set. Whoever is waited for by somebody begins with a small share.
    """

    def __init__(
        self,
        stop: threading.Event,
        is_busy: Callable[[], bool] = lambda: False,
        share: Share = LEFT_OVER,
    ) -> None:
        self._stop = stop
        self._is_busy = is_busy
        self._share = share
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, job: Job) -> Written:
        """Blocks until it is done.

        Raises:
            ArchiveFailed: it was not: what it met, or it was stopped.
        """
        process = self._process = self._process or self._started()
        is_answered = False
        try:
            said = self._ask(process, msgspec.json.encode(job) + b"\n")
            if said is not None:
                answer = msgspec.json.decode(said, type=Answer)
                is_answered = True
        except (msgspec.DecodeError, BrokenPipeError):
            self.close()
            raise ArchiveFailed(
                f"the archive's process ended with {process.returncode} and wrote nothing",
                hint="was it killed for memory? see the kernel's log",
            ) from None
        finally:
            if not is_answered:
                self.close()
        if said is None:
            log.warning("archive_starved", seconds=STARVED_S)
            self._share = SMALL
            return self(job)
        if answer.written is None:
            raise ArchiveFailed(answer.error, hint=answer.hint)
        return answer.written

    def close(self) -> None:
        """Kill it. The next job has another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> "subprocess.Popen[bytes]":
        try:
            process = subprocess.Popen(
                [*self._share.before_it, sys.executable, "-m", "edge_store.archive.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=dict(os.environ),  # the keys of the store may be there
                start_new_session=True,
            )
        except OSError as exc:
            raise ArchiveFailed(f"the archive's process does not start: {exc}") from exc
        make_session_nice(process.pid, self._share.nice)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)  # a job may be more than the pipe holds
        return process

    def _ask(self, process: "subprocess.Popen[bytes]", job: bytes) -> bytes | None:
        """The line that it answers, not whole where it has ended; None: it starves."""
        assert process.stdin is not None
        assert process.stdout is not None
        began, delayed_s = time.monotonic(), _delayed_s(process.pid)
        left, said = memoryview(job), b""
        with selectors.PollSelector() as pipes:
            pipes.register(process.stdin, selectors.EVENT_WRITE)
            pipes.register(process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                took_s = time.monotonic() - began
                self._require_time(took_s)
                is_tried = took_s > STARVED_S and self._share is LEFT_OVER
                if is_tried and _delayed_s(process.pid) - delayed_s > took_s / 2:
                    return None
                share = share_after(took_s, TURNS_S, LEAST) if self._is_busy() else 1.0
                ready = [key.fileobj for key, _ in pipes.select(share * PERIOD_S)]
                if process.stdin in ready:
                    left = left[process.stdin.write(left) or 0 :]
                    if not left:
                        pipes.unregister(process.stdin)
                if process.stdout in ready:
                    part = process.stdout.read(PIPE_BYTES)
                    if not part:
                        break
                    said += part
                if not ready and share < 1 and not is_stopped(process.pid):
                    with halted(process.pid):
                        self._stop.wait((1 - share) * PERIOD_S)
        return said

    def _require_time(self, took_s: float) -> None:
        if self._stop.is_set() or took_s > TIMEOUT_S:
            why = "was stopped" if self._stop.is_set() else f"took longer than {TIMEOUT_S:g} s"
            raise ArchiveFailed(f"the archive's process {why}", hint="the next pass goes on")


def _delayed_s(process_id: int) -> float:
    """How long it has waited for a processor so far; 0 where the kernel does not tell."""
    try:
        text = Path(f"/proc/{process_id}/schedstat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return int(text.split()[1]) / 1e9
