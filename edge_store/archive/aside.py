"""Has a job of the archive done in a process of its own, which has a small share of the processor,
about a tenth beside others that are busy, and dies with us.

Not only what nothing else wants: on a box that is busy for days that is none, and its disk fills.
"""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_store.archive.child import Answer
from edge_store.archive.work import Job, Written
from edge_store.errors import ArchiveFailed

__all__ = ["Aside"]

TIMEOUT_S = 3600.0  # 30 MB over 100 kbit/s
LOOK_S = 0.5
NICE = 10
BEFORE = (
    ("setpriv", "--pdeathsig", "KILL", "--"),
    ("ionice", "-c", "3"),
    ("nice", "-n", f"{NICE}"),
)


class Aside:
    """Does jobs until ``stop`` is set."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, job: Job) -> Written:
        """Blocks until it is done.

        Raises:
            ArchiveFailed: it was not: what it met, or it was stopped.
        """
        words = [word for words in BEFORE if shutil.which(words[0]) for word in words]
        command = [*words, sys.executable, "-m", "edge_store.archive.child"]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ),  # the keys of the store may be there
                start_new_session=True,
            )
        except OSError as exc:
            raise ArchiveFailed(f"the archive's process does not start: {exc}") from exc
        with suppress(OSError):  # sched(7): where sessions share alike, nice counts within one only
            Path(f"/proc/{process.pid}/autogroup").write_text(f"{NICE}")
        said = self._communicate(process, msgspec.json.encode(job))
        try:
            answer = msgspec.json.decode(said, type=Answer)
        except msgspec.DecodeError:
            raise ArchiveFailed(
                f"the archive's process ended with {process.returncode} and wrote nothing",
                hint="was it killed for memory? see the kernel's log",
            ) from None
        if answer.written is None:
            raise ArchiveFailed(answer.error, hint=answer.hint)
        return answer.written

    def _communicate(self, process: "subprocess.Popen[bytes]", job: bytes) -> bytes:
        waited_s = 0.0
        given: bytes | None = job
        try:
            while not self._stop.is_set() and waited_s < TIMEOUT_S:
                try:
                    return process.communicate(given, timeout=LOOK_S)[0]
                except subprocess.TimeoutExpired:  # to be asked again: nothing is lost
                    waited_s, given = waited_s + LOOK_S, None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        why = "was stopped" if self._stop.is_set() else f"took longer than {TIMEOUT_S:g} s"
        raise ArchiveFailed(f"the archive's process {why}", hint="the next pass goes on")
