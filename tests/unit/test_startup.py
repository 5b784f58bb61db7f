"""Start-up time is a feature: what ``--help`` and ``query`` must not load, and what they cost."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edge_store.identity import create_identity
from edge_store.schema import migrate
from edge_store.sqlite import open_writer

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = {
    "sglang", "torch", "starlette", "uvicorn", "uvloop", "httpx", "rich", "sqlite_utils",
    "obstore", "openai", "apprise", "jsonschema", "json_repair", "prometheus_client", "structlog",
}  # fmt: skip
LIST_MODULES = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "results.db"
    connection = open_writer(path)
    migrate(connection)
    create_identity(connection, "box-1")
    connection.close()
    return path


def loaded_by(*arguments: str) -> set[str]:
    program = f"{LIST_MODULES}; sys.argv[1:] = {list(arguments)!r}; from edge_store.cli import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; main()"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_help_loads_no_engine_and_no_server() -> None:
    assert not loaded_by("--help") & HEAVY


@pytest.mark.parametrize("command", [("query", "select 1"), ("logs", "ls", "--table"), ("stats",)])
def test_reading_loads_no_engine_and_no_server(database: Path, command: tuple[str, ...]) -> None:
    assert not loaded_by(*command, "--db", str(database)) & HEAVY


def loaded_with(*modules: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{LIST_MODULES}; import {', '.join(modules)}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(done.stderr.split())


def test_daemon_does_not_load_what_sends_alerts() -> None:
    loaded = loaded_with("edge_store.daemon")
    assert "edge_store.alerts.room" in loaded
    assert not {"apprise", "requests"} & loaded


def test_query_is_cheap(database: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "edge_store", "query", "select 1", "--db", str(database)],
        cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ, timeout=60, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\nedge-store query 'select 1': {cpu_s:.2f} s CPU (the aim is 0.4)")
    assert cpu_s < 5  # a machine may be slow; what is loaded is asserted above


def test_pull_loads_no_logging_and_no_recorder() -> None:
    loaded = loaded_with("edge_store.cli.fleet_pull", "edge_store.fleet.passes")
    assert "edge_store.fleet.advance" in loaded
    assert not {"structlog", "rich", "edge_store.recorder", "edge_store.jsonrepair"} & loaded
