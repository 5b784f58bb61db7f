"""An S3 server that keeps conditions and ranges: moto's, in a process of its own."""

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from support.s3server import BUCKET, free_port

__all__ = ["MotoServer"]

DEADLINE_S = 30.0
MOTO = Path(sys.executable).with_name("moto_server")


class MotoServer:
    """Entered: it answers, and has the bucket. It takes any keys."""

    environ = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret"}  # noqa: RUF012

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str) -> str:
        """``replica.url`` for a prefix in the bucket."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [str(MOTO), "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            assert self._process.poll() is None, "moto has ended"
            try:
                httpx.put(f"{self.endpoint}/{BUCKET}", timeout=5, trust_env=False)
            except httpx.HTTPError:
                assert time.monotonic() < ends_at, "moto does not answer"
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_S)
