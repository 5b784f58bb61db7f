"""A folder of copies that is pulled into, and held against what is true of the fleet."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from support.fleet import Box, Fleet, Truth, result_rows, truth_of

from edge_store.errors import StoreError
from edge_store.fleet.copies import copy_path
from edge_store.fleet.forget import older_copies
from edge_store.fleet.passes import Asked, run_pass
from edge_store.fleet.pull import PullPlan
from edge_store.fleet.report import BoxReport, How, Manner
from edge_store.ids import DeviceId
from edge_store.replica.location import parse_location

__all__ = ["Copies", "Row", "pull_once"]

TIMEOUT_S = 60.0

Row = tuple[Any, ...]


async def pull_once(
    url: str, into: Path, *, is_full: bool = False, disk_max: int | None = None
) -> list[BoxReport]:
    """As ``fleet pull`` does."""
    plan = PullPlan(
        manner=Manner(into=into, timeout_s=TIMEOUT_S, is_full=is_full),
        attempts=1,
        disk_max=disk_max,
    )
    asked = Asked(plan=plan, location=parse_location(url), group={}, since=None)
    return list((await run_pass(asked)).boxes)


class Copies:
    """``into``, and by box what was seen in it: the truth of its copy, and every result that ever
    was in one, as it was when the most of it was there.
    """

    def __init__(self, fleet: Fleet, into: Path) -> None:
        self.fleet = fleet
        self.into = into
        self.seen: dict[str, dict[str, Row]] = {}
        self.held: dict[str, Truth] = {}
        self.reports: dict[str, BoxReport] = {}

    async def pull(self, *, is_full: bool = False, disk_max: int | None = None) -> None:
        """Pull, and hold every box against its truth."""
        before = {name: _fingerprint(copy_path(self.into, DeviceId(name))) for name in self.held}
        reports = await pull_once(self.fleet.url, self.into, is_full=is_full, disk_max=disk_max)
        self.reports = {report.device_id: report for report in reports}
        told = {name: box for name, box in self.fleet.boxes.items() if box.published}
        assert set(told) <= {*self.reports}, "a box with a head is not in the report"
        for name, box in told.items():
            self._check(box, self.reports[name], before.get(name))

    def check_idempotence(self) -> None:
        """Pulled again, nothing is another, and what was good is not even asked for."""
        before = {path.name: _fingerprint(path) for path in self.into.glob("*.db")}
        good = {name for name, report in self.reports.items() if report.error is None}
        again = asyncio.run(pull_once(self.fleet.url, self.into))
        assert {path.name: _fingerprint(path) for path in self.into.glob("*.db")} == before
        for report in again:
            name = report.device_id
            assert (report.error is None) == (name in good), report
            assert name not in good or report.how is How.UNCHANGED, report

    def _check(self, box: Box, report: BoxReport, before: str | None) -> None:
        name = str(box.device_id)
        copy = copy_path(self.into, box.device_id)
        newest = box.published[-1][1]
        here = truth_of(copy) if copy.exists() else None
        if report.error is None:
            assert here is not None
            assert here == newest, f"{report} is wrong: {_difference(here, newest)}"
            self.held[name] = here
        else:
            self._check_failed(box, report, here, before)
        self.look(box)

    def look(self, box: Box) -> None:
        """What is in the box's copy now is seen; and nothing that was before has vanished."""
        copy = copy_path(self.into, box.device_id)
        if copy.exists():
            here = truth_of(copy)
            seen = self.seen.setdefault(box.device_id, {})
            for result, row in here.results.items():
                if result not in seen or _holds(row, seen[result]):
                    seen[result] = row  # else it lacks what retention deleted: an older copy has it
            self._check_union(box.device_id, here)

    def _check_failed(
        self, box: Box, report: BoxReport, here: Truth | None, before: str | None
    ) -> None:
        """A copy that is not the newest is one of the box's, and no older than it was."""
        name = str(box.device_id)
        copy = copy_path(self.into, box.device_id)
        if not box.is_damaged and report.code != "disk_budget_spent":
            held, newest = self.held[name], box.published[-1][1]
            assert report.code == "replica_behind", f"{report} though nothing is wrong"
            assert set(newest.tables["commits"]) < set(held.tables["commits"]), report
        if before is None or here is None:
            assert here is None or here in [truth for _, truth in box.published], report
        elif _fingerprint(copy) != before:
            assert here in [truth for _, truth in box.published], report
        if here is not None:
            self.held[name] = here

    def _check_union(self, name: str, here: Truth) -> None:
        """What was ever in a copy is in one, unless the box has forgotten it."""
        union: dict[str, list[Row]] = {}
        for path in [copy_path(self.into, DeviceId(name)), *older_copies(self.into / f"{name}.db")]:
            try:
                for result, row in result_rows(path).items():
                    union.setdefault(result, []).append(row)
            except StoreError as exc:
                raise AssertionError(f"{path} cannot be read") from exc
        assert not here.forgotten & set(union), "what was forgotten is in a copy"
        for result, row in list(self.seen[name].items()):
            if (
                result in here.forgotten
            ):  # and not asked for again, if the box forgets its tombstone
                del self.seen[name][result]
            else:
                assert self.is_kept(result, row, union), f"{result} of {name} has vanished"

    def is_kept(self, result: str, row: Row, union: dict[str, list[Row]]) -> bool:
        """``union``: what is in the copies. Of a row that is in one from before an upgrade, the
        columns that this has added are not history.
        """
        return any(_holds(other, row) for other in union.get(result, []))


def _holds(one: Row, other: Row) -> bool:
    """Whether ``one`` has at least the rows of ``other``: retention may have deleted the content of
    one of them. The first is the result itself; an upgrade adds its columns at the end.
    """
    known = min(len(one[0]), len(other[0]))
    return one[0][:known] == other[0][:known] and {*one[1:]} >= {*other[1:]}


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _difference(one: Truth, other: Truth) -> list[str]:
    return [
        f"{table}: {len(one.tables.get(table, []))} rows, not {len(other.tables.get(table, []))}"
        for table in {*one.tables, *other.tables}
        if one.tables.get(table) != other.tables.get(table)
    ]
