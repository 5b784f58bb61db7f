"""Gate, recorder, writer and engine from as many seeds as fit in a minute."""

import random
import time

import pytest
from support.simulation.run import simulate

BUDGET_S = 55.0
SEEDS_MIN = 30  # on a machine that is busy with other things


@pytest.mark.timeout(600)
def test_no_seed_breaks_a_promise() -> None:
    first = random.SystemRandom().randrange(2**31)
    until = time.monotonic() + BUDGET_S
    seed, requests = first, 0
    while seed < first + SEEDS_MIN or time.monotonic() < until:
        try:
            requests += simulate(seed).requests
        except BaseException:
            print(f"replay it: scripts/simulate {seed}")
            raise
        seed += 1
    print(f"{seed - first} seeds from {first}, {requests} requests")
    assert requests > SEEDS_MIN


def test_a_seed_replays_the_same_trace() -> None:
    seed = random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")
    first, again, other = simulate(seed), simulate(seed), simulate(seed + 1)
    assert first.trace == again.trace
    assert other.trace != first.trace


def test_the_seeds_reach_what_they_are_meant_to_reach() -> None:
    """Crashes, clean stops, failed commits, lost slots and clock steps: else they prove little."""
    missing = {
        "CRASH",
        "SIGTERM",
        "the engine dies",
        "write_batch fails: store_error, StoreError",
        "write_batch fails: store_error, Suspect",
        "_verified_head fails",
        "log: database_reopened",
        "in_transaction fails: store_error, Suspect",
        "a deletion fails: Suspect",
        "log: result_lost",
        "write_batch fails: disk_full",
        "end_boot fails",
        "the wall clock is set",
        "log: commit_stalled",
        "log: drain_cut",
        "log: engine_raised",
        ": 503 ",
        ": 504 ",
        ": None 0 bytes",
    }
    for seed in range(120):
        text = "\n".join(simulate(seed).trace)
        missing = {what for what in missing if what not in text}
        if not missing:
            return
    assert not missing
