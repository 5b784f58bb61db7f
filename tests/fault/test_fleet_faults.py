"""Pulls and work on a lake that are killed, and files of replicas with flipped bits."""

import random
from pathlib import Path

from support.fleet_faults import flip_bits, kill_pulls
from support.lake_faults import kill_lake_work

KILLS = 30
LAKE_KILLS = 4
FLIPS, FLIPS_BESIDE = 12, 4  # a sample; scripts/fleet-faults flips a thousand


async def test_pull_that_is_killed_at_any_step_is_harmless_and_resumes(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    tally = await kill_pulls(tmp_path, KILLS, seed)
    assert tally["killed"] == KILLS, seed
    assert tally["looks"], "a reader must have looked, or this proves nothing of it"


def test_work_on_a_lake_that_is_killed_is_done_by_the_next(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    assert kill_lake_work(tmp_path, LAKE_KILLS, seed).total() == LAKE_KILLS, seed


async def test_flipped_bit_leaves_the_older_copy_and_says_so(tmp_path: Path) -> None:
    tally = await flip_bits(tmp_path, FLIPS, random.randrange(2**32))
    assert tally.total() == FLIPS
    assert tally["restore_failed"], tally


async def test_flipped_bit_beside_another_way_costs_only_a_restore(tmp_path: Path) -> None:
    tally = await flip_bits(tmp_path, FLIPS_BESIDE, random.randrange(2**32), merged=True)
    assert tally["restored"], tally
