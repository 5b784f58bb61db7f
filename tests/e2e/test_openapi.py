"""/openapi.json is what it was reviewed as, knows every route, and is true: schemathesis says so.

``EDGE_STORE_GOLDEN=write`` writes the snapshot anew.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Box, DaemonProcess

SNAPSHOT = Path(__file__).parents[1] / "golden" / "openapi.json"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
RUN_S = 25
ADMIN_KEY = "admin-of-this-test"  # opens every route


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("openapi") / "box", "--engine", "demo")
    with box.serve(ADMIN_KEY=ADMIN_KEY) as daemon:
        yield daemon
        assert daemon.stop() == 0
        box.proven()


@pytest.fixture(scope="module")
def told(daemon: DaemonProcess) -> dict[str, Any]:
    answer = daemon.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def test_document_is_its_snapshot(told: dict[str, Any]) -> None:
    del told["info"]["version"]
    shown = json.dumps(told, indent=1, sort_keys=True) + "\n"
    if os.environ.get("EDGE_STORE_GOLDEN") == "write":
        SNAPSHOT.write_text(shown)
    assert shown == SNAPSHOT.read_text(), "EDGE_STORE_GOLDEN=write makes it anew"


@pytest.mark.timeout(180)
def test_live_daemon_does_what_the_document_says(daemon: DaemonProcess) -> None:
    for n in range(3):  # something to list
        assert daemon.chat(f"hello {n}", store=True, metadata={"n": str(n)}).status_code == 200
    done = subprocess.run(
        # /v1/changes waits and goes on: test_changes.py has it
        [sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/openapi.json",
         "--checks", ",".join(CHECKS), "--max-time", str(RUN_S), "--max-examples", "30",
         "--phases", "examples,coverage,fuzzing", "--seed", "1", "--continue-on-failure",
         "--header", f"Authorization: Bearer {ADMIN_KEY}",
         "--request-timeout", "15", "--exclude-path", "/v1/changes", "--no-color",
         "--warnings", "off"],
        capture_output=True, text=True, timeout=150, check=False, cwd=daemon.box.directory,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    assert daemon.chat("and now?").status_code == 200
