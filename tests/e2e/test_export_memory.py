"""An export holds a page, whatever the file holds."""

import os
import subprocess
from pathlib import Path

import pytest
from support.daemon import EDGE_STORE, environment
from support.exporting import chat, store
from support.records import new_database

from edge_store.result import Content

BODY = b"x" * 65_536
GROWTH_MAX = 40 * 2**20  # if what is read stayed in memory it would be 160 MB


def peak_bytes(database: Path, target: Path, kind: str) -> int:
    arguments = ["export", "--db", str(database), "--to", kind, "--bodies", str(target)]
    child = subprocess.Popen(
        [*EDGE_STORE, *arguments], env=environment(), stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return used.ru_maxrss * 1024


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """80 and 240 MB of bodies."""
    folder = tmp_path_factory.mktemp("memory")
    content = Content(input_text="x", request_body=BODY[:10], response_body=BODY)
    made = []
    for number in (1280, 3840):
        made.append(folder / f"{number}.db")
        connection, boot = new_database(made[-1])
        for start in range(0, number, 640):
            results = [chat(n, boot, content=content) for n in range(start + 1, start + 641)]
            store(connection, boot, results)
        connection.close()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_exports_memory_is_flat(databases: list[Path], tmp_path: Path, kind: str) -> None:
    less, more = (peak_bytes(path, tmp_path / path.stem, kind) for path in databases)
    assert more - less < GROWTH_MAX, (less >> 20, more >> 20)
