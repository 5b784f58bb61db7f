"""A fleet that is exported to a lake while it is pulled, under a disk budget: ``LakeFleetMachine``.

Apart from support/fleet_machine.py, as it imports Delta's and Arrow's threads.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule
from support.fleet import Fleet
from support.fleet_machine import FleetMachine
from support.fleet_pulls import Copies, Row

from edge_store.errors import LakeOvertaken, NotFound
from edge_store.fleet.budget import copies_bytes
from edge_store.fleet.lake.export import CopyReport, ExportPlan, export, find_all_copies
from edge_store.fleet.lake.store import Lake

__all__ = ["LakeFleetMachine"]

TABLES = ("results", "outputs")


class LakeCopies(Copies):
    """Copies of which the lake of fleet.toml has some, and which may go then. ``forgotten``: all
    ids that any box ever said are.
    """

    def __init__(self, fleet: Fleet, into: Path) -> None:
        super().__init__(fleet, into)
        into.mkdir()
        (into / "fleet.toml").write_text('lake = "../lake"')
        self.lake = Lake(str(into.with_name("lake")))
        self.ever: set[str] = set()
        self.forgotten: set[str] = set()
        self._in_lake: set[str] = set()

    async def pull(self, *, is_full: bool = False, disk_max: int | None = None) -> None:
        self._look_at_lake()
        await super().pull(is_full=is_full, disk_max=disk_max)
        for box in self.fleet.boxes.values():
            for _, truth in box.published:
                self.forgotten |= truth.forgotten
        self.ever.update(*self.seen.values())

    def is_kept(self, result: str, row: Row, union: dict[str, list[Row]]) -> bool:
        """Bodies are not, as this lake does not take them."""
        del row
        return result in union or result in self._in_lake or result in self.forgotten

    def _look_at_lake(self) -> None:
        results = self.lake.find("results")
        if results is not None:
            ids = results.to_pyarrow_dataset().to_table(columns=["id"])["id"]
            self._in_lake = set(ids.to_pylist())

    def export(self) -> list[CopyReport]:
        """As ``fleet export`` does; whom another has overtaken too often gives up."""
        said: list[CopyReport] = []
        with suppress(LakeOvertaken, NotFound):
            export(ExportPlan(copies=find_all_copies(self.into), buckets=2), self.lake, said.append)
        return said

    def check_lake(self) -> None:
        """After an export alone: what was ever in a copy is there, once, but for the forgotten."""
        for table, names in zip(TABLES, (["id", "digest"], ["id", "choice_index"]), strict=True):
            delta = self.lake.find(table)
            if delta is None:
                continue
            rows = delta.to_pyarrow_dataset().to_table(columns=names)
            found = list(zip(*(rows[name].to_pylist() for name in names), strict=True))
            assert len(found) == len(set(found)), f"{table} has rows twice"
            ids = {row[0] for row in found}
            assert ids <= self.ever
            if table == "results":
                assert not self.ever - self.forgotten - ids, "the lake lacks what was in a copy"


class LakeFleetMachine(FleetMachine):
    """The same; exports run alone, two at once, and beside pulls, and pulls have to make room: what
    was ever in a copy is in one, or in the lake, and at last in the lake, once.
    """

    def copies_in(self, into: Path) -> Copies:
        return LakeCopies(self.fleet, into)

    def export(self) -> None:
        reports = self._copies.export()
        assert not [each for each in reports if each.error], reports
        self._copies.check_lake()
        self.tally["exports"] += 1

    @rule(share=st.sampled_from((None, None, 0.5, 0.8, 1.0)))
    def export_beside_other_work(self, share: float | None) -> None:
        """Another export, or a pull into so much of what the copies take now; then alone."""
        copies, before = self._copies, self._older()
        if share is None:
            self._at_once(asyncio.to_thread(copies.export), asyncio.to_thread(copies.export))
        else:
            disk_max = round(share * copies_bytes(copies.into))
            self._at_once(asyncio.to_thread(copies.export), copies.pull(disk_max=disk_max))
        self.tally["evicted"] += len(before - self._older())
        self.export()

    @rule(share=st.sampled_from((0.5, 0.8, 1.0)))
    def pull_into_less(self, share: float) -> None:
        """Than the copies take now."""
        before = self._older()
        disk_max = round(share * copies_bytes(self._copies.into))
        asyncio.run(self._copies.pull(disk_max=disk_max))
        self.tally["evicted"] += len(before - self._older())

    def _older(self) -> set[Path]:
        return set(self._copies.into.glob("*.*.db"))

    @property
    def _copies(self) -> LakeCopies:
        assert isinstance(self.copies, LakeCopies)
        return self.copies

    def _at_once(self, *both: Coroutine[Any, Any, Any]) -> None:
        async def run() -> None:
            await asyncio.gather(*both)

        asyncio.run(run())
        self.tally["exports beside other work"] += 1

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            try:
                asyncio.run(self._copies.pull())
                self.export()
            finally:
                super().teardown()
