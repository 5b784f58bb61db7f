"""Boxes live, replicate, break and are pulled in any order: see ``FleetMachine``."""

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support.fleet import Fleet
from support.fleet_pulls import Copies

__all__ = ["FleetMachine", "MergingFleetMachine"]

BOXES = 3  # at first; one more may come
HAPPENING = st.tuples(
    st.integers(0, BOXES),
    st.sampled_from(
        (
            *("live",) * 9,
            *("forget", "expire", "restart") * 2,
            "upgrade",
            "set_up_anew",
            "go_back",
            "lose",
            "damage",
        )
    ),
)


class FleetMachine(RuleBasedStateMachine):
    """After each pull every copy is its box's newest truth, or says why not and is an older one;
    and whatever was in a copy is in one, unless its box has forgotten it: retention erases nothing.
    """

    tally: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fleet-"))
        stored = self.folder / "replicas"
        stored.mkdir()
        self.fleet = Fleet(self.folder, f"file://{stored}", stored, seed)
        self.copies = self.copies_in(self.folder / "copies")
        for number in range(BOXES):
            box = self.fleet.add(f"box-{number}", skew_s=(0, -4e7, 4e7)[number])
            box.live(number, self.fleet.chances)  # one has nothing at first
        asyncio.run(self.fleet.replicate())

    def copies_in(self, into: Path) -> Copies:
        return Copies(self.fleet, into)

    @rule(
        happenings=st.lists(HAPPENING, min_size=1, max_size=6),
        quiet=st.sampled_from((None, None, *range(BOXES))),
        snapshot=st.booleans(),
    )
    def boxes_live_and_replicate(
        self, happenings: list[tuple[int, str]], quiet: int | None, *, snapshot: bool
    ) -> None:
        """All replicate but ``quiet``, which may be dead."""
        for number, what in happenings:
            self._happens(f"box-{number}", what)
        names = [name for name in self.fleet.boxes if name != f"box-{quiet}"]
        asyncio.run(self.fleet.replicate(names, snapshot=snapshot))

    def _happens(self, name: str, what: str) -> None:
        chances = self.fleet.chances
        box = self.fleet.boxes.get(name) or self.fleet.add(name)
        self.tally[what] += 1
        match what:
            case "live":
                box.live(chances.randrange(1, 12), chances)
            case "forget":
                box.forget(chances.randrange(1, 4), chances)
            case "expire":
                box.expire(chances.randrange(1, 4), chances)
            case "restart":
                box.restart()
            case "upgrade":
                box.upgrade()
            case "set_up_anew":
                box.begin_again()
            case "go_back" if box.published and not box.is_damaged:
                asyncio.run(self.fleet.go_back(box))
            case "lose" if box.published:
                self.fleet.begin_replica_anew(box)
            case "damage" if box.published:
                self.fleet.damage(box)

    @rule(box=st.integers(0, BOXES))
    def newest_files_are_damaged(self, box: int) -> None:
        """After it has told of them."""
        self._happens(f"box-{box}", "damage")

    @rule(is_full=st.sampled_from((False, False, False, True)))
    def pull(self, *, is_full: bool) -> None:
        asyncio.run(self.copies.pull(is_full=is_full))
        for report in self.copies.reports.values():
            self.tally[str(report.how or report.code)] += 1
            if report.because is not None:
                self.tally[f"restored, as {report.because[:40]}"] += 1

    @rule()
    def pull_twice(self) -> None:
        self.pull(is_full=False)
        self.copies.check_idempotence()

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        try:
            asyncio.run(self.copies.pull())
        finally:
            self.fleet.__exit__()
            shutil.rmtree(self.folder)


class MergingFleetMachine(FleetMachine):
    """The same, and replicas are merged between the pulls, which takes a second each."""

    @rule()
    def replicas_are_merged(self) -> None:
        sound: list[Any] = [
            name for name, box in self.fleet.boxes.items()
            if box.published and not box.is_damaged and not box.begins_anew
        ]  # fmt: skip
        if sound:
            self.tally["merged"] += 1
            asyncio.run(self.fleet.merge(sound))
