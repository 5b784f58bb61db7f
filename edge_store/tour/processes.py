"""The processes of the tour: the object store, the daemon, and commands that a person could type.

Each runs in a session of its own, so that Ctrl-C reaches the tour alone, which then ends them by
their ids. Every wait has a deadline.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from edge_store.errors import EdgeStoreError

__all__ = [
    "Daemon",
    "Process",
    "accepts",
    "clean_environment",
    "find_rclone",
    "free_port",
    "run_edge_store",
    "start_store",
]

EDGE_STORE = (sys.executable, "-m", "edge_store")
START_TIMEOUT_S = 60.0
REPLICATES = "ok"
STOP_TIMEOUT_S = 40.0  # the daemon's drain and its last replica sync are bounded below this
COMMAND_TIMEOUT_S = 60.0
POLL_S = 0.03
LOG_LINES = 20

# What could lead the tour away from loopback, or to a person's own box and keys.
PREFIXES_LEFT_OUT = ("EDGE_STORE_", "AWS_", "OPENAI_", "RCLONE_")
LEFT_OUT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM")


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without settings and keys of other boxes, plus ``settings``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in LEFT_OUT and not name.startswith(PREFIXES_LEFT_OUT)
    }
    return {**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **settings}


def find_rclone() -> str | None:
    """The rclone beside this Python, else the first on PATH."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_edge_store(arguments: Sequence[str], *, folder: Path, environ: Mapping[str, str]) -> str:
    """Run one command to its end; what it printed.

    Raises:
        EdgeStoreError: it failed, or took longer than a minute.
    """
    shown = f"edge-store {arguments[0]}"
    try:
        done = subprocess.run(
            [*EDGE_STORE, *arguments],
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise EdgeStoreError(f"`{shown}` did not end within {exc.timeout:g} s") from exc
    if done.returncode != 0:
        raise EdgeStoreError(f"`{shown}` exited with {done.returncode}: {done.stdout.strip()}")
    return done.stdout


class Process:
    """A child with its log in a file. Leaving it ends what is left of it."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                list(command),
                cwd=folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def process_id(self) -> int:
        return self._child.pid

    def wait_until(self, is_up: Callable[[], bool]) -> float:
        """Wait for ``is_up``; the seconds it took.

        Raises:
            EdgeStoreError: it ended, or was not up in time.
        """
        began = time.monotonic()
        while not is_up():
            waited = time.monotonic() - began
            if self._child.poll() is not None:
                raise EdgeStoreError(
                    f"the {self.name} (process {self.process_id}) ended with "
                    f"{self._child.returncode} at its start"
                )
            if waited > START_TIMEOUT_S:
                raise EdgeStoreError(f"the {self.name} was not up within {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL: not one more instruction of it runs."""
        self._child.kill()
        self._child.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM, and its exit code.

        Raises:
            EdgeStoreError: it did not stop in time.
        """
        self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise EdgeStoreError(
                f"the {self.name} did not stop within {STOP_TIMEOUT_S:g} s of SIGTERM"
            ) from None

    def log_tail(self) -> list[str]:
        """The last lines that it wrote."""
        with self.log_path.open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, maxlen=LOG_LINES)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._child.poll() is None:
            self.kill()


def start_store(rclone: str, port: int, keys: str, *, folder: Path) -> Process:
    """An S3 server over ``folder``/store, whose sub-folders are buckets."""
    return Process(
        "store",
        [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "store"],
        folder=folder,
        environ=clean_environment(RCLONE_CONFIG=os.devnull),
    )


def accepts(port: int) -> bool:
    """Whether someone listens there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Daemon(Process):
    """``edge-store serve`` on a box."""

    def __init__(self, port: int, *, folder: Path, environ: Mapping[str, str]) -> None:
        super().__init__(
            "daemon",
            [*EDGE_STORE, "serve", "--config", "box"],
            folder=folder,
            environ=environ,
        )
        self.url = f"http://127.0.0.1:{port}"

    def wait_ready(self) -> float:
        """Wait until it takes requests, and its path of the replica is its own; the seconds from
        here.
        """
        with httpx.Client(trust_env=False, timeout=2.0) as http:

            def is_ready() -> bool:
                try:
                    answer = http.get(f"{self.url}/readyz")
                except httpx.HTTPError:
                    return False
                return answer.is_success and answer.json()["replica"]["state"] == REPLICATES

            return self.wait_until(is_ready)
