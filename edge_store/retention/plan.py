"""What a pass would do, by reading alone. The rules of size are reckoned with sizes of values: a
pass looks at the file itself, and may stop a little earlier or later.
"""

from pathlib import Path

from edge_store.clock import now_ms, rfc3339
from edge_store.config import RetentionSection
from edge_store.recorder.deletions import What
from edge_store.result import Record
from edge_store.retention.choice import (
    Kept,
    Limits,
    Page,
    Row,
    Rule,
    Step,
    excess,
    measure,
    pages,
    steps,
)
from edge_store.sqlite import Connection

__all__ = ["Plan", "PlannedStep", "make_plan"]


class PlannedStep(Record, frozen=True, kw_only=True):
    """``rule``: the setting; ``what``: whole results, or their bodies. Bytes are about right. The
    last four are what stays for all that; ``unset``: what is old by its own time alone, and was
    made before the clock was set.
    """

    rule: Rule
    what: What
    rows: int
    bytes: int
    oldest: str | None
    newest: str | None
    pinned: int
    held: int
    needed: int
    unset: int


class Plan(Record, frozen=True, kw_only=True):
    """``archive``: where all of it is put first; None: nowhere. ``waits_for``: why only a part may
    go now. ``used_bytes`` is what the file holds, ``free_bytes_inside`` what it takes up again
    before it grows. ``floor_missing_bytes``: so many too few are free for the floor of the disk;
    for it no more go than come.
    """

    at: str
    used_bytes: int
    free_bytes_inside: int
    disk_free_bytes: int
    floor_missing_bytes: int
    archive: str | None
    waits_for: str | None
    steps: tuple[PlannedStep, ...]


class Sum:
    """Adds up pages."""

    def __init__(self) -> None:
        self.rows = self.bytes = self.pinned = self.held = self.needed = self.unset = 0
        self.first: int | None = None
        self.last: int | None = None

    def add(self, rows: list[Row], stays: Kept) -> None:
        for _seq, at, size in rows:
            self.rows += 1
            self.bytes += size
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)
        self.pinned += len(stays.pinned)
        self.held += len(stays.held)
        self.needed += len(stays.needed)


class Taken:
    """What the rules so far take of one kind, and where the next one begins: it counts nothing
    twice, and looks again at what an earlier one has passed over.
    """

    def __init__(self) -> None:
        self.after = 0
        self.seqs: set[int] = set()  # after that
        self._is_passed = False

    def note(self, page: Page, rows: list[Row]) -> None:
        if page.passed and not self._is_passed:
            self.after, self._is_passed = page.passed[0][0] - 1, True
        if self._is_passed:
            self.seqs.update(row[0] for row in rows if row[0] > self.after)
        else:
            self.after = page.last

    def include(self, other: "Taken") -> None:
        self.after = max(self.after, other.after)
        self.seqs |= other.seqs


def make_plan(
    connection: Connection,
    path: Path,
    config: RetentionSection,
    upto: int,
    waits_for: str | None,
) -> Plan:
    """``upto``: as in ``Limits``; ``waits_for`` says what the others wait for."""
    limits = Limits(upto, now_ms())
    size = measure(connection, path)
    over, rule = excess(config, size, 0)
    taken = {What.RESULT: Taken(), What.CONTENT: Taken()}
    planned = []
    for step in steps(config, limits.now):
        if step.rule is None and over <= 0:
            continue
        found, before = Sum(), taken[step.what]
        for page in pages(connection, step, limits, before.after):
            rows = [row for row in page.rows if row[0] not in before.seqs]
            rows = rows if step.rule is not None else _first(rows, over)
            found.add(rows, page.kept)
            if step.before is not None:
                found.unset += sum(row[1] < step.before for row in page.passed)
            over -= sum(row[2] for row in rows)
            before.note(page, rows)
            if step.rule is None and over <= 0:
                break
        if step.what is What.RESULT:  # their bodies go with them
            taken[What.CONTENT].include(before)
        named = step.rule or rule
        assert named is not None
        planned.append(_planned(step, named, found))
    return Plan(
        at=rfc3339(limits.now),
        used_bytes=size.used,
        free_bytes_inside=size.inside,
        disk_free_bytes=size.disk_free,
        floor_missing_bytes=size.missing(config.disk_floor_bytes),
        archive=config.archive or None,
        waits_for=waits_for,
        steps=tuple(planned),
    )


def _first(rows: list[Row], over: int) -> list[Row]:
    """As many as free ``over`` bytes."""
    taken = []
    for row in rows:
        if over <= 0:
            break
        taken.append(row)
        over -= row[2]
    return taken


def _planned(step: Step, rule: Rule, found: Sum) -> PlannedStep:
    return PlannedStep(
        rule=rule,
        what=step.what,
        rows=found.rows,
        bytes=found.bytes,
        oldest=None if found.first is None else rfc3339(found.first),
        newest=None if found.last is None else rfc3339(found.last),
        pinned=found.pinned,
        held=found.held,
        needed=found.needed,
        unset=found.unset,
    )
