"""``scripts/replica-soak``."""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from support.soak.rounds import BadRestore, Skipped, Soak

__all__ = ["main"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/replica-soak",
        description="A daemon with Litestream and an S3 server under load, with faults of both in "
        "each round, and seven restores a round that are compared with what was acknowledged, "
        "until N restores were made. The first bad one ends it.",
        epilog="scripts/replica-soak 30 --seed 7    # the same faults in the same order",
    )
    parser.add_argument("restores", nargs="?", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    parser.add_argument(
        "--rounds-per-box", type=int, help="for merges of minutes: 50 or more, at a lower rate"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="with SQLite's own wal_autocheckpoint in the daemon: passes if a restore is bad, "
        "or the daemon says that commits were skipped",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing of the rounds")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    print(f"seed {arguments.seed}; load average {os.getloadavg()[0]:.1f}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="edge-store-soak-"))
    began = time.monotonic()
    with Soak(
        folder,
        arguments.seed,
        arguments.rate,
        says=not arguments.quiet,
        is_control=arguments.control,
        rounds_per_box=arguments.rounds_per_box,
    ) as soak:
        try:
            soak.run(arguments.restores)
            assert not arguments.control, "the control was not caught"
        except BaseException as exc:
            if arguments.control and isinstance(exc, BadRestore | Skipped):
                told = f"in round {soak.rounds}, after {soak.totals['restores']} good restores"
                print(f"CAUGHT {told}; seed {arguments.seed}: {exc}")
                return 0
            print(
                f"FAILED in round {soak.rounds}, after {soak.totals['restores']} good restores; "
                f"what it left is in {folder}. Again: scripts/replica-soak "
                f"{arguments.restores} --seed {arguments.seed} --rate {arguments.rate:g}",
                flush=True,
            )
            raise
    shutil.rmtree(folder)
    for name, count in sorted((soak.totals + soak.callers.totals).items()):
        print(f"{count:>9}  {name}")
    callers = soak.callers
    print(
        f"PASSED: {soak.totals['restores']} restores in {soak.rounds} rounds, none bad; "
        f"{callers.totals['acknowledged'] / callers.asked_s:.0f} answers and "
        f"{soak.commits / callers.asked_s:.0f} commits a second under load, "
        f"{soak.most_commits} in the busiest; caught up in {max(soak.catch_up_s):.0f} s at most; "
        f"{time.monotonic() - began:.0f} s, seed {arguments.seed}, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
