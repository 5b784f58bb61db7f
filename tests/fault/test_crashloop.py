"""Fifty SIGKILLs on one folder; ``scripts/crashloop`` does as many as one likes."""

import random
from pathlib import Path

import pytest
from support.crashloop import CrashLoop

KILLS = 50


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_by_fifty_kills(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    loop = CrashLoop(tmp_path / "box", random.Random(seed))
    loop.run(KILLS)
    assert loop.totals["answers seen to their end"] > KILLS, "the run must answer something"
