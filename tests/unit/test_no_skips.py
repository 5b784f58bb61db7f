"""What tests/conftest.py makes of a test that skips."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SKIPPING = """import pytest

def test_skips():
    pytest.skip("no sshd")

@pytest.mark.skipif(True, reason="no gcc")
def test_is_skipped():
    pass

@pytest.mark.xfail
def test_fails():
    assert False
"""


def counted(folder: Path, **environ: str) -> str:
    (folder / "test_it.py").write_text(SKIPPING)
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_SKIPS", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "-c",
         os.devnull, "--rootdir", str(folder), str(folder)],
        env={**kept, "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.stdout


def test_a_test_that_skips_fails_where_it_may_not(tmp_path: Path) -> None:
    assert "2 skipped, 1 xfailed" in counted(tmp_path)
    told = counted(tmp_path, NO_SKIPS="1")
    assert "1 failed, 1 xfailed, 1 error" in told  # one skips before it begins
    assert "no sshd" in told
    assert "no gcc" in told
