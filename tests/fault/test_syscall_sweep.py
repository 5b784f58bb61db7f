"""Whatever system call on the database fails, for once or for good: nothing acknowledged is lost,
nothing is stored twice, and what could not be stored is in ``losses``.

``FAULT_SWEEP_STRIDE=1`` tries each of the writes; the others are always all tried.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.syscall_faults import (
    FLUSH,
    OPEN,
    TRUNCATE,
    UNLINK,
    WRITE,
    SyscallFaults,
    built_shim,
)

TESTS = Path(__file__).parents[1]
DEADLINE_S = 300.0
WRITE_STRIDE = int(os.environ.get("FAULT_SWEEP_STRIDE", "9"))


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    return built_shim(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize("mode", ["passing", "lasting"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["eio", "enospc"])
@pytest.mark.parametrize(
    ("kinds", "stride", "calls_min"),
    [(OPEN | FLUSH | TRUNCATE | UNLINK, 1, 25), (WRITE, WRITE_STRIDE, 150)],
    ids=["flushes", "writes"],
)
def test_no_failing_system_call_loses_or_doubles_a_result(
    tmp_path: Path, shim: Path, kinds: int, stride: int, calls_min: int, error: int, mode: str
) -> None:
    faults = SyscallFaults(tmp_path / "control")
    folder = tmp_path / "database"
    folder.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "support.sweep_child"),
            *(str(folder), str(error), str(kinds), mode, str(stride)),
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
            **faults.environment(shim, folder / "results.db"),
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout)
    assert found["calls"] >= calls_min, "the whole life was swept"
    if mode == "passing" and error == errno.EIO:
        assert found["lost"] == 0, "what passes costs no caller its answer"
