"""A commit whose frames are in the WAL and whose writer died before it entered them in the index.

strace kills the writer at the flush of a batch, which lies between the two. The next connection
finds that commit, unless another process has kept the index in use all the time: then the commit
stays hidden from SQLite, and Litestream, which reads the WAL itself, may have replicated it.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.replicating import ROOT

from edge_store.chain import verify_chain
from edge_store.recording import prepare
from edge_store.sqlite import Connection, is_index_held, open_writer
from edge_store.wal import wal_bytes

DEADLINE_S = 60.0
DEVICE = "box-a"
FIRST, SECOND = 3, 2  # results of the batch before the kill, and of the one that it hits
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
READER = """
import sys
from pathlib import Path
from edge_store.sqlite import open_reader
reader = open_reader(Path(sys.argv[1]))
reader.execute("SELECT count(*) FROM results").fetchone()
print("attached", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _needs_strace(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    probe = ["strace", "-o", str(tmp_path / "probe"), "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("ptrace is not permitted here")


def traced_writer(path: Path, log: Path, *inject: str) -> subprocess.Popen[str]:
    """``support.replicating`` under strace: a batch for each line, then its answer."""
    trace = ("strace", "-f", "-qq", "-o", str(log), "-e", "trace=fsync,fdatasync", *inject)
    return subprocess.Popen(
        [*trace, sys.executable, "-m", "support.replicating", str(path), DEVICE],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def killing(tmp_path: Path) -> tuple[str, ...]:
    """The injection that hits the flush after those of the first batch."""
    log = tmp_path / "measured"
    (tmp_path / "measure").mkdir()
    process = traced_writer(tmp_path / "measure" / "results.db", log)
    output, _ = process.communicate(f"{FIRST} 100\n", timeout=DEADLINE_S)
    assert (process.returncode, output) == (0, "ready\ncommitted\n")
    calls = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines()]
    flush = calls[-1]  # fsync or fdatasync, as this SQLite was built; strace counts each by itself
    return ("-e", f"inject={flush}:signal=KILL:when={calls.count(flush) + 1}")


@contextmanager
def reader_process(path: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "attached\n"
        yield
    finally:
        process.communicate(timeout=DEADLINE_S)


def ask(process: subprocess.Popen[str], results: int) -> str:
    """Have it commit a batch. Returns its answer, empty when it died instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{results} 100\n")
    process.stdin.flush()
    return process.stdout.readline()


def end_in_second_batch(process: subprocess.Popen[str]) -> None:
    assert ask(process, SECOND) == "", "the kill did not hit the second batch"
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


def begin(path: Path, log: Path, killing: tuple[str, ...]) -> subprocess.Popen[str]:
    """A writer that has committed its first batch and will die in the second."""
    process = traced_writer(path, log, *killing)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert ask(process, FIRST) == "committed\n"
    return process


def stored(connection: Connection) -> int:
    assert verify_chain(connection).faults == ()
    (count,) = connection.execute("SELECT count(*) FROM results").fetchone()
    return int(count)


def test_next_connection_recovers_it_when_nobody_holds_the_index(
    tmp_path: Path, killing: tuple[str, ...]
) -> None:
    path = tmp_path / "results.db"
    with begin(path, tmp_path / "log", killing) as process:
        end_in_second_batch(process)

    assert not is_index_held(path)
    connection = open_writer(path)
    assert stored(connection) == FIRST + SECOND
    connection.close()


def test_index_held_by_another_process_hides_it_and_start_empties_the_wal(
    tmp_path: Path, killing: tuple[str, ...]
) -> None:
    path = tmp_path / "results.db"
    with (
        begin(path, tmp_path / "log", killing) as process,
        reader_process(path),
    ):
        end_in_second_batch(process)

        assert is_index_held(path)
        connection = open_writer(path)
        assert stored(connection) == FIRST, "it is hidden: else this test proves nothing"
        assert wal_bytes(path) > 0

        assert prepare(connection, DEVICE, index_was_held=True) == DEVICE

        assert wal_bytes(path) == 0
        assert stored(connection) == FIRST
        connection.close()
