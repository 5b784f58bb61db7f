"""``scripts/simulate``: replay one seed with its trace, or run many."""

import argparse
import random
import sys
import time

from support.simulation.run import simulate


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Run gate, recorder, writer and engine on a virtual clock, with callers, "
        "crashes, failing commits and clock steps that all come from a seed.",
        epilog="scripts/simulate 4711    # replay one, with its trace",
    )
    parser.add_argument("seed", nargs="?", type=int, metavar="SEED", help="replay this one")
    parser.add_argument("--seeds", type=int, default=100, help="run so many, from a random one")
    parser.add_argument("--from", dest="first", type=int, help="begin with this seed instead")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        try:
            simulate(arguments.seed, say=print)
        except AssertionError as exc:
            print(f"FAILED: seed {arguments.seed}: {exc!r}")
            raise
        print(f"PASSED: seed {arguments.seed}")
        return 0
    first = random.randrange(2**31) if arguments.first is None else arguments.first
    began = time.monotonic()
    requests = 0
    for seed in range(first, first + arguments.seeds):
        try:
            requests += simulate(seed).requests
        except BaseException:
            print(f"FAILED: scripts/simulate {seed}", flush=True)
            raise
    print(
        f"PASSED: {arguments.seeds} seeds from {first}, {requests} requests, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
