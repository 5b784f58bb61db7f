"""Thirty restores out of a soak; ``scripts/replica-soak`` makes as many as one likes."""

import random
from pathlib import Path

import pytest
from support.soak.rounds import Soak

RESTORES = 30
RATE = 300.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_said_to_be_replicated_is_in_every_restore_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # the soak sets them
        monkeypatch.setenv(name, "")
    with Soak(tmp_path, seed, RATE) as soak:
        soak.run(RESTORES)
        assert soak.callers.totals["held until replicated"] > 0, "else it was said of nothing"
