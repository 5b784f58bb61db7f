"""The property of the fleet at length: see ``scripts/fleet-property --help``."""

import argparse
import logging
import os
import random
import time

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from support.fleet_lake_machine import LakeFleetMachine
from support.fleet_machine import FleetMachine, MergingFleetMachine


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/fleet-property", description=FleetMachine.__doc__
    )
    parser.add_argument("examples", type=int, nargs="?", default=200)
    parser.add_argument("--steps", type=int, default=50, help="of each at most")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--merging", action="store_true", help="replicas are merged between pulls")
    kinds.add_argument("--lake", action="store_true", help="exports, and pulls that make room")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--shrink", action="store_true", help="a failure to a small one: minutes")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    machine = FleetMachine
    if arguments.merging or arguments.lake:
        machine = MergingFleetMachine if arguments.merging else LakeFleetMachine
    phases = [Phase.generate, *([Phase.shrink] if arguments.shrink else [])]
    at_length = settings(
        max_examples=arguments.examples, stateful_step_count=arguments.steps, deadline=None,
        database=None, phases=phases, suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )  # fmt: skip
    began = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)
    try:
        run_state_machine_as_test(seed(arguments.seed)(machine), settings=at_length)
        print("it holds")
    finally:
        for what, times in sorted(machine.tally.items()):
            print(f"{times:7} {what}")
        print(f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
