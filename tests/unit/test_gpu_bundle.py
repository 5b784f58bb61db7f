"""What travels to a machine with a GPU and no package registry (scripts/sglang-gpu)."""

import importlib.util
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
GPU = REPOSITORY / "scripts" / "gpu"


def missing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("missing", GPU / "missing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bundle_names_everything_that_the_project_needs() -> None:
    lines = (GPU / "requirements.txt").read_text(encoding="utf-8").splitlines()
    bundled = {
        canonicalize_name(Requirement(line).name)
        for line in lines
        if line and not line.startswith("#")
    }
    installed = {canonicalize_name(found.name): found for found in distributions()}
    here = {name: installed[name] for name in bundled & installed.keys()}
    look = missing()
    needed = look.needs(str(REPOSITORY / "pyproject.toml"))
    needed.remove("openai")  # SGLang pins another one than is installed here
    assert look.lacking(here, needed) == []
