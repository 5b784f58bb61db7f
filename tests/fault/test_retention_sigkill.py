"""Retention with an archive, killed at any moment: no result is lost, and none is twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.retaining import Box, stored_rows

from edge_store.archive.ledger import read_archives
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import read_file
from edge_store.chain import verify_chain
from edge_store.sqlite import open_reader

KILLS = 5
AGES = [20 - n // 60 for n in range(600)]


@pytest.mark.slow
def test_killed_retention_loses_nothing_and_is_finished(tmp_path: Path) -> None:
    box = Box(tmp_path, AGES)
    before = stored_rows(box.connection)
    box.close()
    (tmp_path / "edge-store.toml").touch()
    settings = {
        "STORE__PATH": str(box.path),
        "REPLICA__ENABLED": "false",
        "RETENTION__KEEP_DAYS": "12.5",
        "RETENTION__ARCHIVE": str(box.archive),
    }
    environ = {**os.environ, **{f"EDGE_STORE_{key}": text for key, text in settings.items()}}
    command = [sys.executable, "-m", "edge_store", "retention", "apply", "--yes", "--config"]
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*command, str(tmp_path)], env=environ, stdout=subprocess.DEVNULL
        )
        if killed:
            time.sleep(random.uniform(0.5, 3.0))
        else:  # amid its work: its first file is begun
            while process.poll() is None and not any(box.archive.rglob("*")):
                time.sleep(0.005)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader = open_reader(box.path)
        row = reader.execute(
            "SELECT admitted - completed - deleted_retention, deleted_retention - archived "
            "FROM completeness"
        ).fetchone()
        reader.close()
        assert row == (0, 0)
    assert killed, "a run must be killed, or this test proves nothing"
    subprocess.run([*command, str(tmp_path)], env=environ, check=True, stdout=subprocess.DEVNULL)
    reader = open_reader(box.path)
    live = stored_rows(reader)
    files = read_archives(reader)
    assert verify_chain(reader).faults == ()
    reader.close()
    store = ArchiveStore(str(box.archive))
    archived = [row["seq"] for each in files for row in read_file(store, each)]
    assert sorted([*archived, *live]) == sorted(before)
    assert all(before[seq] == rows for seq, rows in live.items())
    assert store.names("box-test") == sorted(each.file for each in files)
