"""A drill's process runs a part of the time while requests are in flight; and sessions are nice."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.replicating import wait_for

from edge_store.duty import PERIOD_S, is_stopped, keep_to_turns, share_after

# Another process of a group of its own, as a drill's litestream is; and something to do.
PROGRAM = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], process_group=0, stdin=-1)
print(child.pid, flush=True)
while True:
    pass
"""


# Two sessions become nice at once; without CAP_SYS_ADMIN the kernel refuses the second.
SESSIONS = """
import asyncio, subprocess, sys, time
from pathlib import Path
from edge_store.duty import make_session_nice

def become():
    sleepers = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2)]
    for sleeper in sleepers:
        make_session_nice(sleeper.pid, 5)
    return sleepers

async def beside_others():
    time.sleep = None  # nothing waits on a loop
    sleepers = become()
    await asyncio.sleep(0.5)
    return sleepers

def told(sleeper):
    return Path(f"/proc/{sleeper.pid}/autogroup").read_text().split()[-1]

sleepers = asyncio.run(beside_others()) if sys.argv[1] == "loop" else become()
print(*map(told, sleepers))
for sleeper in sleepers:
    sleeper.kill()
"""
UNPRIVILEGED = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """One that leads a session, and its child."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process:
        try:
            yield [process.pid, int(process.stdout.readline())]
        finally:
            process.kill()


@pytest.mark.parametrize(("elapsed_s", "share"), [(0, 0.25), (25, 0.25), (50, 0.5), (200, 1.0)])
def test_the_part_grows_as_the_time_runs_out(elapsed_s: float, share: float) -> None:
    assert share_after(elapsed_s, 100) == share


def test_what_would_take_half_the_time_alone_ends_within_it() -> None:
    assert sum(share_after(second, 100) for second in range(100)) > 50


async def test_it_and_its_child_are_stopped_while_requests_are_in_flight(
    processes: list[int],
) -> None:
    is_busy = True
    turns = asyncio.ensure_future(keep_to_turns(processes[0], lambda: is_busy, 100))
    for _ in range(2):
        await wait_for(lambda: all(map(is_stopped, processes)), "a stop")
        await wait_for(lambda: not any(map(is_stopped, processes)), "its turn")
    is_busy = False
    await asyncio.sleep(PERIOD_S)  # the longest stop
    for _ in range(20):
        await asyncio.sleep(PERIOD_S / 10)
        assert not any(map(is_stopped, processes))
    turns.cancel()


async def test_it_goes_on_when_nobody_keeps_it_to_turns_any_more(processes: list[int]) -> None:
    turns = asyncio.ensure_future(keep_to_turns(processes[0], lambda: True, 100))
    await wait_for(lambda: all(map(is_stopped, processes)), "a stop")
    turns.cancel()
    await asyncio.wait({turns})
    await wait_for(lambda: not any(map(is_stopped, processes)), "it goes on")


async def test_what_somebody_else_has_stopped_stays_so(processes: list[int]) -> None:
    os.kill(processes[0], signal.SIGSTOP)
    await wait_for(lambda: is_stopped(processes[0]), "it is")
    turns = asyncio.ensure_future(keep_to_turns(processes[0], lambda: True, 100))
    for _ in range(30):
        await asyncio.sleep(PERIOD_S / 10)
        assert is_stopped(processes[0])
    turns.cancel()


async def test_one_that_has_ended_is_no_error() -> None:
    process = await asyncio.create_subprocess_exec("true", start_new_session=True)
    await process.wait()
    turns = asyncio.ensure_future(keep_to_turns(process.pid, lambda: True, 100))
    await asyncio.wait({turns}, timeout=2 * PERIOD_S)
    assert not turns.done()
    turns.cancel()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups by session")
@pytest.mark.parametrize("where", ["thread", "loop"])
def test_a_session_becomes_nice_though_another_just_did(where: str) -> None:
    before = UNPRIVILEGED if os.geteuid() == 0 and shutil.which("setpriv") else ()
    told: list[str] = []
    while "5 5" not in told and len(told) < 5:  # others on this machine do so, too
        ran = subprocess.run(
            [*before, sys.executable, "-c", SESSIONS, where],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        told.append(ran.stdout.strip())
    assert told[-1] == "5 5"
