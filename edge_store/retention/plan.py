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
    last three are what stays for all that.
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


class Plan(Record, frozen=True, kw_only=True):
    """``archive``: where all of it is put first; None: nowhere. ``waits_for``: why only a part may
    go now. ``used_bytes`` is what the file holds, ``free_bytes_inside`` what it takes up again
    before it grows.
    """

    at: str
    used_bytes: int
    free_bytes_inside: int
    disk_free_bytes: int
    archive: str | None
    waits_for: str | None
    steps: tuple[PlannedStep, ...]


class Sum:
    """Adds up pages."""

    def __init__(self) -> None:
        self.rows = self.bytes = self.pinned = self.held = self.needed = 0
        self.first: int | None = None
        self.last: int | None = None

    def add(self, rows: list[tuple[int, int, int]], stays: Kept) -> None:
        for _seq, at, size in rows:
            self.rows += 1
            self.bytes += size
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)
        self.pinned += len(stays.pinned)
        self.held += len(stays.held)
        self.needed += len(stays.needed)


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
    over, rule = excess(config, size)
    after = {What.RESULT: 0, What.CONTENT: 0}
    planned = []
    for step in steps(config, limits.now):
        if step.rule is None and over <= 0:
            continue
        found = Sum()
        for page in pages(connection, step, limits, after[step.what]):
            rows = page.rows if step.rule is not None else _first(page, over)
            found.add(rows, page.kept)
            over -= sum(row[2] for row in rows)
            after[step.what] = page.last
            if step.rule is None and over <= 0:
                break
        if step.what is What.RESULT:  # their bodies go with them
            after[What.CONTENT] = max(after.values())
        named = step.rule or rule
        assert named is not None
        planned.append(_planned(step, named, found))
    return Plan(
        at=rfc3339(limits.now),
        used_bytes=size.used,
        free_bytes_inside=size.inside,
        disk_free_bytes=size.disk_free,
        archive=config.archive or None,
        waits_for=waits_for,
        steps=tuple(planned),
    )


def _first(page: Page, over: int) -> list[tuple[int, int, int]]:
    """As many as free ``over`` bytes."""
    taken = []
    for row in page.rows:
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
    )
