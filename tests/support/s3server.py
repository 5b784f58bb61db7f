"""An S3 server on loopback: ``rclone serve s3`` over a folder. It can go away and come back."""

import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from obstore.store import S3Store

__all__ = ["BUCKET", "S3Server"]

BUCKET = "edge"
DEADLINE_S = 60.0
WORKERS = 8  # of pytest-xdist: each has ports of its own
RCLONE = Path(sys.executable).with_name("rclone")


_given: set[int] = set()


def free_port() -> int:
    """One that nobody is given while this server is away: not of those for outgoing connections,
    nor of another worker's, nor twice.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    while True:
        port = random.SystemRandom().randrange(20_000 + worker, 32_000, WORKERS)
        if port in _given:
            continue
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.add(port)
            return port


class S3Server:
    """Entered: it answers. Its address stays the same over ``stop`` and ``start``."""

    access_key_id = "test-key"
    secret_access_key = "test-secret-not-to-be-logged"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / BUCKET).mkdir(parents=True)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """The keys, as a box has them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    @property
    def is_up(self) -> bool:
        """Whether it was not told to go away."""
        return self._process is not None

    @property
    def process_id(self) -> int | None:
        """Of the server; None while it is away."""
        return self._process.pid if self._process is not None else None

    def url(self, prefix: str) -> str:
        """``replica.url`` for a prefix in the bucket."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def store(self) -> S3Store:
        """The bucket, past the box: what lies in ``folder`` may be held for long."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def start(self) -> None:
        """Serve, and wait until it answers."""
        command = [str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        keys = f"{self.access_key_id},{self.secret_access_key}"
        self._process = subprocess.Popen(
            [*command, "--auth-key", keys, str(self.folder)],
            env={
                "PATH": os.environ["PATH"],
                "RCLONE_CONFIG": "/dev/null",
                "HOME": str(self.folder),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            assert self._process.poll() is None, "rclone has ended: is its port another's?"
            try:
                httpx.get(self.endpoint, timeout=10, trust_env=False)
            except httpx.HTTPError:
                assert time.monotonic() < ends_at, "rclone does not answer"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Go away: connections are refused from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_S)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
