"""A log that is not taken holds up nobody: the daemon answers, records and ends."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest
from support.daemon import DEADLINE_S, EDGE_STORE, Box, until
from support.disks import small_disk_at
from support.s3server import free_port


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("becomes_full", [False, True])
def test_a_log_on_a_full_disk_stops_nothing(tmp_path: Path, *, becomes_full: bool) -> None:
    box = Box.init(tmp_path / "box")
    url = f"http://127.0.0.1:{(port := free_port())}"
    with small_disk_at(tmp_path / "disk", "1m") as disk, (disk / "log").open("wb") as log:
        ballast = disk / "ballast"
        if not becomes_full:
            fill(ballast)
        command = [*EDGE_STORE, "serve", "--config", str(box.directory), "--port", str(port)]
        daemon = subprocess.Popen(command, env=box.environ, stdout=log, stderr=log)
        try:
            until(lambda: is_ready(url), "it is ready")
            if becomes_full:
                fill(ballast)
            body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
            with httpx.Client(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
                for _ in range(60):
                    assert client.post("/v1/chat/completions", json=body).status_code == 200
                ballast.unlink()
                assert client.post("/v1/chat/completions", json=body).status_code == 200
            lines = (disk / "log").read_text(errors="replace")
            assert '"event":"log_lines_lost","count":' in lines
            fill(ballast)
            daemon.terminate()
            assert daemon.wait(DEADLINE_S) == 0
        finally:
            daemon.kill()
            daemon.wait()
    assert box.scalar("SELECT completed FROM completeness") == 61
    assert box.scalar("SELECT state FROM completeness") == "ended"


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(os.urandom(size)):
                    pass
            except OSError:
                continue
