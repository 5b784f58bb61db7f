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

from edge_store.api.routes import GENERATING

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
CHAINS_S = 20
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


def operations(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for methods in told["paths"].values() for one in methods.values()]


def test_document_knows_every_header_that_is_read(told: dict[str, Any]) -> None:
    named = {
        (path, one["name"])
        for path, methods in told["paths"].items()
        for operation in methods.values()
        for one in operation["parameters"]
        if one["in"] == "header"
    }
    ours = {"traceparent", "x-edge-store-record", "x-edge-store-wait"}
    every = {"Idempotency-Key", "Prefer", *ours}
    json_too = {"/v1/chat/completions", "/v1/completions", "/generate"}
    assert named == {
        *((path, name) for path in GENERATING for name in every),
        *((path, "x-edge-store-json") for path in json_too),
        *(("/v1/responses", name) for name in ours),
        ("/v1/changes", "Last-Event-ID"),
    }


def test_links_lead_to_operations(told: dict[str, Any]) -> None:
    links = [
        link["operationId"]
        for operation in operations(told)
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert set(links) == {"get_v1_results_result_id"}
    assert len(links) == 2 * len(GENERATING)  # now, and later
    assert set(links) <= {operation["operationId"] for operation in operations(told)}


def schemathesis(daemon: DaemonProcess, phases: str, seconds: int, *options: str) -> None:
    """Run the phases. /v1/changes waits and goes on: test_changes.py has it."""
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/openapi.json",
         "--phases", phases, "--max-time", str(seconds), "--seed", "1", "--continue-on-failure",
         "--header", f"Authorization: Bearer {ADMIN_KEY}",
         "--request-timeout", "60", "--exclude-path", "/v1/changes", "--no-color",
         "--warnings", "off", *options],
        capture_output=True, text=True, timeout=280, check=False, cwd=daemon.box.directory,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]


def test_live_daemon_does_what_the_document_says(daemon: DaemonProcess) -> None:
    for n in range(3):  # something to list
        assert daemon.chat(f"hello {n}", store=True, metadata={"n": str(n)}).status_code == 200
    schemathesis(
        daemon, "examples,coverage,fuzzing", RUN_S,
        "--checks", ",".join(CHECKS), "--max-examples", "30",
    )  # fmt: skip
    assert daemon.chat("and now?").status_code == 200


def test_live_daemon_does_so_call_after_call(daemon: DaemonProcess) -> None:
    """What one call has made is read, changed, cancelled and deleted by the next, and then gone."""
    schemathesis(daemon, "stateful", CHAINS_S, "--checks", ",".join((*CHECKS, "use_after_free")))
    assert daemon.chat("and now?").status_code == 200
