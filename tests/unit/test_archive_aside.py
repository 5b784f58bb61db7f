"""The archive's process: one for many jobs, with what nothing else wants, or else a small share."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.retaining import Box

from edge_store.archive import aside as aside_module
from edge_store.archive.aside import Aside
from edge_store.archive.work import Job, Write, Written
from edge_store.duty import SMALL, is_stopped
from edge_store.errors import ArchiveFailed
from edge_store.recorder.deletions import What


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path, (9, 8, 7))
    yield box
    box.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the processes that are. A busy machine starves none, unless the test says so."""
    monkeypatch.setattr(aside_module, "STARVED_S", 3600.0)
    found: list[int] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            found.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return found


def write(box: Box, name: str) -> Job:
    return Job(
        write=Write(
            database=str(box.path),
            url=str(box.archive),
            file=f"{name}.parquet",
            what=What.RESULT,
            seqs=(1, 3),
        )
    )


def written(box: Box, aside: Aside, name: str) -> Written:
    found = aside(write(box, name))
    assert (found.seqs, found.odd) == (((1, 1), (3, 3)), ())
    assert (box.archive / f"{name}.parquet").stat().st_size == found.bytes
    return found


def test_one_process_does_many_jobs_and_ends_when_it_is_closed(
    box: Box, started: list[int]
) -> None:
    aside = Aside(threading.Event())
    for name in "abc":
        written(box, aside, name)
    (process_id,) = started
    aside.close()
    assert not Path(f"/proc/{process_id}").exists()


def test_process_that_is_killed_fails_its_job_only(box: Box, started: list[int]) -> None:
    aside = Aside(threading.Event())
    written(box, aside, "a")
    os.kill(started[0], 9)
    with pytest.raises(ArchiveFailed, match="ended with -9 and wrote nothing"):
        aside(write(box, "b"))
    written(box, aside, "c")
    aside.close()
    assert len(started) == 2


def test_job_that_fails_is_told_and_the_process_does_the_next(box: Box, started: list[int]) -> None:
    aside = Aside(threading.Event())
    box.archive.mkdir()
    (box.archive / "a.parquet").mkdir()
    with pytest.raises(ArchiveFailed):
        aside(write(box, "a"))
    written(box, aside, "b")
    aside.close()
    assert len(started) == 1


def test_job_is_stopped(box: Box, started: list[int]) -> None:
    stop = threading.Event()
    aside = Aside(stop)
    stop.set()
    with pytest.raises(ArchiveFailed, match="was stopped"):
        aside(write(box, "a"))
    assert not Path(f"/proc/{started[0]}").exists()


def large(box: Box) -> Job:
    """More than the pipe holds."""
    return write(box, "x" * 1_000_000)


def test_job_that_is_larger_than_the_pipe_is_read_whole(box: Box, started: list[int]) -> None:
    aside = Aside(threading.Event())
    with pytest.raises(ArchiveFailed, match="cannot be reached"):
        aside(large(box))
    written(box, aside, "a")
    aside.close()
    assert len(started) == 1


def test_job_that_nobody_reads_is_stopped(box: Box, started: list[int]) -> None:
    stop = threading.Event()
    aside = Aside(stop)
    written(box, aside, "a")
    os.kill(started[0], signal.SIGSTOP)
    ended: list[int] = []

    def end() -> None:
        """Else a fault here would wait for ever."""
        ended.append(started[0])
        os.kill(started[0], signal.SIGKILL)

    with ExitStack() as stack:
        for after_s, act in ((0.3, stop.set), (30.0, end)):
            timer = threading.Timer(after_s, act)
            timer.start()
            stack.callback(timer.cancel)
        with pytest.raises(ArchiveFailed, match="was stopped"):
            aside(large(box))
    assert not ended
    assert not Path(f"/proc/{started[0]}").exists()


def test_daemon_with_many_connections_has_it_too(box: Box, started: list[int]) -> None:
    """select(2) takes no descriptor from 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) < 1024:
            stack.callback(os.close, descriptor)
        stack.callback(os.close, descriptor)
        aside = Aside(threading.Event())
        stack.callback(aside.close)
        written(box, aside, "a")


def test_where_others_leave_it_no_time_it_gets_a_small_share(
    box: Box, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(aside_module, "STARVED_S", 0.0)
    monkeypatch.setattr(aside_module, "_delayed_s", lambda _process: next(delays))
    aside = Aside(threading.Event())
    written(box, aside, "a")
    written(box, aside, "b")
    assert len(started) == 2, "the first, and the one for all others"
    assert os.getpriority(os.PRIO_PROCESS, started[1]) == SMALL.nice
    assert os.sched_getscheduler(started[1]) == os.SCHED_OTHER
    aside.close()


def stops_within(process_id: int, seconds: float) -> bool:
    """It has to have the time to hear of it, and each of its threads to stop."""
    deadline = time.monotonic() + seconds
    while not (is_stopped(process_id) or time.monotonic() > deadline):
        time.sleep(0.005)
    return is_stopped(process_id)


def test_while_results_come_it_takes_turns(box: Box, started: list[int]) -> None:
    stops: list[bool] = []

    class Halting(threading.Event):
        """A stop is waited for while the process does nothing."""

        def wait(self, timeout: float | None = None) -> bool:
            is_over = super().wait(timeout)
            stops.append(stops_within(started[-1], 30))
            return is_over

    aside = Aside(Halting(), lambda: True)
    written(box, aside, "a")  # it starts, too: that takes longer than a turn
    assert stops
    assert all(stops)
    assert not is_stopped(started[0])
    aside.close()


def test_the_library_has_one_thread_on_a_large_box() -> None:
    asked = "from edge_store.archive.parquet import require_pyarrow as p; print(p().cpu_count())"
    large = {**os.environ, "OMP_NUM_THREADS": "16"}
    found = subprocess.run(
        [sys.executable, "-c", asked], check=True, capture_output=True, env=large
    )
    assert found.stdout == b"1\n"
