"""The stand-ins for GPU packages, where they must not be."""

import os
import subprocess
import sys
from pathlib import Path

CPU = Path(__file__).parent / "cpu"


def test_stubs_refuse_a_torch_that_is_built_for_a_gpu(tmp_path: Path) -> None:
    torch = tmp_path / "torch"
    torch.mkdir()
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text('__version__ = "2.14.1"\ncuda = "13.0"\nhip = None\n')
    done = subprocess.run(
        [sys.executable, "-c", "import sglang_cpu_stubs"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{tmp_path}:{CPU}",
            "SGLANG_USE_CPU_ENGINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "SGLANG_USE_CPU_ENGINE=1 asks for stand-ins of triton" in done.stderr


def test_stubs_do_nothing_unless_they_are_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sglang_cpu_stubs, sys; print(len(sys.meta_path))"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CPU)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    plain = subprocess.run(
        [sys.executable, "-c", "import sys; print(len(sys.meta_path))"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == plain.stdout
