"""Any interleaving of what happens to boxes and of pulls; many more by scripts/fleet-property."""

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.fleet_machine import FleetMachine


def test_copies_are_the_union_of_what_boxes_have_told_in_any_order() -> None:
    few = settings(max_examples=2, stateful_step_count=12, phases=[Phase.generate])
    run_state_machine_as_test(FleetMachine, settings=few)
