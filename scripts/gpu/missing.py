#!/usr/bin/env python3
"""Name what edge-store and its tests need and a folder of packages lacks, or has too old.

missing.py SITE PYPROJECT     exits 1 when something is missing

SGLang's own needs are not followed: most of them are of models and backends that are not used.
"""

import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

TESTS = ("openai", "pytest", "pytest-asyncio", "pytest-randomly", "pytest-timeout")
# pip: sqlite-utils runs it for `sqlite-utils install`, which nobody calls; tqdm comes with torch.
ELSEWHERE = {"pip", "tqdm"}
MARKERS = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}


def main(site: str, pyproject: str) -> int:
    """Print what SITE lacks."""
    here = {canonicalize_name(found.name): found for found in distributions(path=[site])}
    faults = lacking(here, needs(pyproject))
    sys.stdout.write("\n".join(faults or ["nothing is missing"]) + "\n")
    return 1 if faults else 0


def needs(pyproject: str) -> list[str]:
    """What edge-store and its tests of the engine say that they need."""
    project = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *TESTS]


def lacking(here: dict[NormalizedName, Distribution], needed: list[str]) -> list[str]:
    """Follow the requirements from edge-store down."""
    left = [(text, "edge-store") for text in needed]
    faults, seen = [], set()
    while left:
        text, by = left.pop()
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        if name in ELSEWHERE or (wanted.marker and not wanted.marker.evaluate(MARKERS)):
            continue
        found = here.get(name)
        if found is None:
            faults.append(f"{text} (for {by}) is missing")
        elif not wanted.specifier.contains(found.version, prereleases=True):
            faults.append(f"{text} (for {by}), but there is {found.version}")
        elif name not in seen:
            seen.add(name)
            left += [(each, name) for each in found.requires or ()]
    return faults


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
