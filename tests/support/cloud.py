"""What emulators of clouds have in common: a process on loopback that can go away and return."""

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from support.s3server import free_port

__all__ = ["CONTAINER", "DEADLINE_S", "CloudServer"]

CONTAINER = "edge"
DEADLINE_S = 60.0


class CloudServer(ABC):
    """Entered: it answers, and has an empty container or bucket, of which ``url`` tells. Its files
    are in ``folder``, so it has them still after ``stop`` and ``start``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def environ(self) -> dict[str, str]:
        """The keys, as a box has them."""

    @abstractmethod
    def url(self, prefix: str, *, container: str = CONTAINER, port: int | None = None) -> str:
        """``replica.url`` for a prefix in the container, by way of a proxy perhaps."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program and its arguments."""

    @abstractmethod
    def make_container(self) -> None:
        """Make the one that ``url`` names."""

    def start(self) -> None:
        """Serve, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), env={"HOME": str(self.folder)}, stdout=log, stderr=log
            )
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-1000:]
            try:
                httpx.get(f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False)
            except httpx.HTTPError:
                assert time.monotonic() < ends_at, f"{self.command()[0]} does not answer"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Go away: connections are refused from now on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        self.make_container()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
