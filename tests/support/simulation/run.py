"""One seed, from an empty folder to the last check."""

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from support.simulation.checks import check
from support.simulation.world import World

__all__ = ["simulate"]

MEMORY = Path("/dev/shm")  # no disk is simulated, so none is waited for


def simulate(seed: int, *, say: Callable[[str], None] = lambda _line: None) -> World:
    """Some boots of one box; ``say`` gets the trace, also of a run that fails.

    Raises:
        AssertionError: a promise was broken.
    """
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    world = World(seed, folder)
    try:
        for _ in range(random.Random(seed).randint(1, 4)):
            check(world.live())
    finally:
        for line in world.trace:
            say(line)
        shutil.rmtree(folder)
    return world
