"""``edge-store demo``: what the quickstart shows must hold, and must say so when it does not."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import DEADLINE_S, EDGE_STORE, ROOT, environment, until

STEPS = (
    "object store is up",
    "box is set up",
    "daemon is ready",
    "answers are committed as the SDK saw them",
    "daemon is killed under load",
    "daemon is ready again",
    "nothing acknowledged is missing",
    "every admitted request is accounted for",
    "last commits are replicated at a stop",
    "centre has every result of the box",
    "digest chain of the copy holds",
)
TOUR_TIMEOUT_S = 240  # it takes about 10
# Its load goes on until somebody ends it: by itself it would after two seconds.
ENDLESS = """
from edge_store.cli import main
from edge_store.tour import story

story.LOAD_S = 3600.0
main()
"""
# Its store takes half a second for each answer, as where a machine is slow.
SLOW = """
from support.flakyproxy import FlakyProxy

from edge_store.cli import main
from edge_store.tour import processes, story

start_store = story.start_store


def start_behind(rclone, port, keys, *, folder):
    behind = processes.free_port()
    proxy = FlakyProxy(behind, at=port)
    proxy.delay_s = 0.5
    proxy.__enter__()
    return start_store(rclone, behind, keys, folder=folder)


story.start_store = start_behind
main()
"""


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder whose path leaves room for a socket's: pytest's own are too long, and then
    the daemon makes another, which a SIGKILL leaves behind.
    """
    with tempfile.TemporaryDirectory(prefix="tour-", dir="/tmp") as name:
        yield Path(name)


def table(printed: str) -> dict[str, tuple[str, str]]:
    """Step → (figure, holds) of the final table."""
    lines = re.findall(r"^(\S.*?) {2,}(\S.*?) +(yes|NO)$", printed, re.MULTILINE)
    return {name: (figure, holds) for name, figure, holds in lines}


@contextmanager
def tour(short_tmp: Path, until_line: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A tour that has just printed a line beginning so, with every line up to there. The daemon is
    not killed by it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "demo"],
        env=environment(TMPDIR=str(short_tmp)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        seen: list[str] = []
        for line in process.stdout:
            seen.append(line)
            if line.strip().startswith(until_line):
                break
        else:
            pytest.fail("it ended first:\n" + "".join(seen))
        yield process, seen
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


def daemon_pid(lines: list[str]) -> int:
    (pid,) = re.findall(r"process (\d+) answers", "".join(lines))
    return int(pid)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes_of(tour: int, daemon: int) -> set[int]:
    """The store, the daemon and its Litestream; none while that does not run yet."""
    children = {daemon, *children_of(tour)}
    children |= {child for pid in children for child in children_of(pid)}
    return children if len(children) >= 3 else set()


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_tour_holds_in_every_step(short_tmp: Path) -> None:
    done = subprocess.run(
        [*EDGE_STORE, "demo"],
        env=environment(TMPDIR=str(short_tmp)),
        capture_output=True,
        text=True,
        timeout=TOUR_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = table(done.stdout)
    assert tuple(found) == STEPS
    assert {holds for _, holds in found.values()} == {"yes"}
    figures = {
        name: [int(n) for n in re.findall(r"\d+", figure)] for name, (figure, _) in found.items()
    }
    acknowledged, missing = figures["nothing acknowledged is missing"]
    assert acknowledged > figures["daemon is killed under load"][0] > 0
    assert missing == 0
    admitted, completed, interrupted = figures["every admitted request is accounted for"]
    assert admitted == completed + interrupted
    assert completed >= acknowledged
    assert figures["centre has every result of the box"] == [completed, completed]
    assert not list(short_tmp.iterdir()), "the temporary folder stayed"


@pytest.mark.slow
def test_tour_holds_where_the_store_is_slow(short_tmp: Path) -> None:
    """A box that is slow at its claim waits for three of its looks, without conditions there."""
    done = subprocess.run(
        [sys.executable, "-c", SLOW, "demo"],
        env=environment(TMPDIR=str(short_tmp), PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"),
        capture_output=True,
        text=True,
        timeout=TOUR_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_tour_names_the_step_that_fails_and_shows_the_daemons_log(short_tmp: Path) -> None:
    with tour(short_tmp, "16 clients ask") as (process, seen):
        os.kill(daemon_pid(seen), signal.SIGKILL)  # before the tour does it
        rest, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    found = table(rest)
    assert tuple(found) == STEPS[:5]
    assert found["daemon is killed under load"][1] == "NO"
    # only so many lines: which they are depends on how long the load has lasted
    assert re.search(r'The last lines of \S+/daemon\.log\n +\{.*"event":', rest), rest
    assert not list(short_tmp.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_tour_that_is_stopped_leaves_no_process_and_no_folder(
    short_tmp: Path, number: signal.Signals, code: int
) -> None:
    with tour(short_tmp, "16 clients ask") as (process, seen):
        children = until(lambda: processes_of(process.pid, daemon_pid(seen)), "all of it runs")
        process.send_signal(number)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    until(lambda: all(map(is_gone, children)), f"processes {children} are gone")
    assert not list(short_tmp.iterdir())


def test_tour_works_in_an_empty_folder_only(short_tmp: Path) -> None:
    (short_tmp / "mine").write_text("precious")
    done = subprocess.run(
        [*EDGE_STORE, "demo", "--dir", str(short_tmp)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 78
    assert "is not empty" in done.stderr
    assert [path.name for path in short_tmp.iterdir()] == ["mine"]
