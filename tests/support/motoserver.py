"""moto's S3 server on loopback. Unlike rclone's it answers ranges and conditions."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx
from support.s3server import BUCKET, free_port

__all__ = ["MotoServer"]

APP = Path(__file__).with_name("motoapp.py")
DEADLINE_S = 60.0


class MotoServer:
    """Entered: it answers, and has an empty bucket. ``log``: the file of its requests."""

    access_key_id = "test-key"
    secret_access_key = "test-secret-not-to-be-logged"

    def __init__(self, log: Path | None = None) -> None:
        self.log = log or Path(os.devnull)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The keys, as a box has them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def url(self, prefix: str, endpoint: str | None = None) -> str:
        """``replica.url`` for a prefix in the bucket, by way of a proxy perhaps."""
        return f"s3://{BUCKET}/{prefix}?endpoint={endpoint or self.endpoint}"

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = self._start(log)
        self._wait()
        return self

    def _start(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, str(APP), "-H", "127.0.0.1", "-p", str(self.port)],
            env={"PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    def _wait(self) -> None:
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            assert self._process.poll() is None, "moto has ended"
            try:
                httpx.put(f"{self.endpoint}/{BUCKET}", timeout=10, trust_env=False)
            except httpx.HTTPError:
                assert time.monotonic() < ends_at, "moto does not answer"
                time.sleep(0.05)
            else:
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_S)
