"""The lock outlives a killed daemon for as long as the Litestream that inherited it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.replicating import ROOT

from edge_store.errors import AlreadyRunning
from edge_store.lock import DatabaseLock

DEADLINE_S = 60.0
DAEMON = """
import subprocess, sys, time
from pathlib import Path
from edge_store.lock import DatabaseLock
with DatabaseLock(Path(sys.argv[1])) as lock:
    child = subprocess.Popen(["sleep", "99"], pass_fds=[lock.descriptor], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def orphan(database: Path) -> Iterator[int]:
    """The process id of what a killed daemon left running, with the lock."""
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(database)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    process_id = int(daemon.stdout.readline())
    daemon.kill()
    daemon.wait(DEADLINE_S)
    daemon.stdout.close()
    yield process_id
    with suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)


def test_second_writer_is_refused_while_the_orphan_lives(database: Path, orphan: int) -> None:
    lock = DatabaseLock(database, orphan_timeout_s=0.2)
    with pytest.raises(AlreadyRunning, match="its Litestream has not ended"), lock:
        pass


def test_second_writer_enters_once_the_orphan_has_ended(database: Path, orphan: int) -> None:
    entered = threading.Event()

    def enter() -> None:
        with DatabaseLock(database, orphan_timeout_s=DEADLINE_S):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.3), "it did not wait"
    os.kill(orphan, signal.SIGKILL)
    assert entered.wait(DEADLINE_S)
    thread.join(DEADLINE_S)
