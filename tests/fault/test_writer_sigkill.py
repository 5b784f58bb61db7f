"""SIGKILL at any moment: no line of ours runs after it, and nothing acknowledged is missing."""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.scripted import read_results

from edge_store.chain import verify_chain
from edge_store.sqlite import check_integrity, open_reader

ROUNDS = 10
RESULTS_MAX = 100  # acknowledged before a kill, of which 7 share a COMMIT
SEED = 20261122
DEADLINE_S = 60.0
TESTS = Path(__file__).parents[1]


def child(path: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "support.crash_child", str(path), *arguments],
        stdout=subprocess.PIPE,
        env=environment,
    )


def run_and_kill(path: Path, after: int, later_s: float) -> dict[str, int]:
    """id → boot_seq of what was acknowledged; the kill comes ``later_s`` from when it has
    acknowledged ``after`` results, whatever it is doing.
    """
    process = child(path)
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    received = b""
    try:
        began: float | None = None
        deadline = time.monotonic() + DEADLINE_S
        while began is None or time.monotonic() < began + later_s:
            assert time.monotonic() < deadline, f"the child is stuck: {received[-500:]!r}"
            if select.select([pipe], [], [], 0.005)[0]:
                received += os.read(pipe, 65536)
            if began is None and received.count(b"\n") > after:  # "ready" is the first line
                began = time.monotonic()
    finally:
        process.send_signal(signal.SIGKILL)
        received += process.stdout.read()  # what it had written before it died
        process.stdout.close()
        process.wait(DEADLINE_S)
    assert process.returncode == -signal.SIGKILL
    whole = received[: received.rfind(b"\n") + 1].decode().splitlines()
    lines = [line.split() for line in whole if line != "ready"]
    return {result_id: int(boot_seq) for boot_seq, result_id in lines}


def test_acknowledged_results_survive_sigkill(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    path = tmp_path / "results.db"
    acknowledged: dict[str, int] = {}
    # One file through all of them: each start recovers from the last kill. The first is killed
    # before anything need be acknowledged.
    for least in (0, *(moments.randint(1, RESULTS_MAX) for _ in range(ROUNDS - 1))):
        now = run_and_kill(path, after=least, later_s=moments.uniform(0, 0.2))
        assert len(now) >= least
        assert now.keys().isdisjoint(acknowledged)
        acknowledged |= now
        stored = read_results(path)
        ids = {r.result.id: r.result.boot_seq for r in stored}
        assert len(ids) == len(stored)
        assert acknowledged.items() <= ids.items(), "an acknowledged result is missing"

        boot = max((r.result.boot_id for r in stored), default="")
        seqs = {r.result.boot_seq for r in stored if r.result.boot_id == boot}
        assert set(now.values()) <= seqs, "what was acknowledged is of the newest boot"
        gaps = set(range(1, max(seqs, default=0) + 1)) - seqs
        assert gaps.isdisjoint(now.values()), "a hole in boot_seq was acknowledged"

        reader = open_reader(path)
        try:
            assert check_integrity(reader, full=True) == "ok"
            assert verify_chain(reader).faults == ()
        finally:
            reader.close()
    assert len(acknowledged) > ROUNDS, "the run must acknowledge something, or it proves nothing"


def can_trace(folder: Path) -> bool:
    if shutil.which("strace") is None:
        return False
    probe = subprocess.run(
        ["strace", "-o", str(folder / "probe"), "true"], capture_output=True, check=False
    )
    return probe.returncode == 0


def test_each_commit_reaches_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    if not can_trace(tmp_path):
        pytest.skip("strace is not installed, or ptrace is not permitted here")
    commits = 25
    log = tmp_path / "trace"
    before = ("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,write", "-o", str(log))
    process = child(tmp_path / "results.db", str(commits), before=before)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert output.count(b"\n") == commits + 1

    flushed: list[int] = []  # flushes between one acknowledgement and the next
    flushes = 0
    for line in log.read_text(errors="replace").splitlines():
        call = line.split(maxsplit=1)[1]
        if call.startswith(("fsync(", "fdatasync(")):
            flushes += 1
        elif call.startswith("write(1, "):
            flushed.append(flushes)
            flushes = 0
    assert len(flushed) == commits + 1  # "ready" is the first
    assert min(flushed[1:]) >= 1, f"acknowledged without a flush: {flushed}"
