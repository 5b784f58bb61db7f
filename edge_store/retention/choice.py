"""What is to go, by which rule, in order; by reading alone.

Results are looked at in the order of their commits. A rule of age ends at the first one that says
that it is younger. One that says that it is old, but was stamped by a clock that had not been set
yet (``ages.py``), is passed over, and so is one that claims to be from the future. The rules of
size ask no clock: they take the oldest bodies first, then the oldest results.
"""

import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.clock import is_clock_synced, now_ms
from edge_store.config import RetentionSection
from edge_store.recorder.deletions import What
from edge_store.recorder.holds import held, pinned
from edge_store.retention.ages import DAY_MS, Ages
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "DAY_MS", "Kept", "Limits", "Page", "Row", "Rule", "Size", "Step", "excess", "kept",
    "measure", "pages", "steps",
]  # fmt: skip

AHEAD_MS = DAY_MS  # of our clock; more is a clock that was wrong
PAGE_ROWS = 256
SEQ_MAX = 2**63 - 1


Row = tuple[int, int, int]  # seq, UTC ms of its end, bytes


class Rule(StrEnum):
    """The setting that wants it gone."""

    KEEP_DAYS = "keep_days"
    CONTENT_DAYS = "content_days"
    KEEP_BYTES = "keep_bytes"
    DISK_FLOOR = "disk_floor_bytes"


class Step(NamedTuple):
    """``before``: UTC ms; what ended then or later stays. None where size decides."""

    rule: Rule | None
    what: What
    before: int | None


class Limits(NamedTuple):
    """Results up to ``upto`` may go; ``now`` is UTC ms."""

    upto: int
    now: int


class Kept(NamedTuple):
    """Of some results, those that stay, by why."""

    pinned: set[int]
    held: set[int]
    needed: set[int]

    @property
    def all(self) -> set[int]:
        return self.pinned | self.held | self.needed


class Page(NamedTuple):
    """``rows``: those that may go. ``passed``: those that only say that they are old, or claim to
    be from the future. ``last``: the last looked at.
    """

    rows: list[Row]
    kept: Kept
    passed: list[Row]
    last: int


class Size(NamedTuple):
    """Bytes. ``used``: of the file, less what is free inside it. ``unmoved``: by so much it grows
    when the WAL is moved into it. ``newest``: no bytes, the seq of the newest result.
    """

    used: int
    inside: int
    disk_free: int
    unmoved: int = 0
    newest: int = 0

    def missing(self, floor: int) -> int:
        """How many bytes too few are free, here and inside the file; 0 where none are."""
        return max(0, floor - self.disk_free + self.unmoved - self.inside)


def measure(connection: Connection, path: Path) -> Size:
    """The database and its disk, as of now."""
    with translated("the database's size cannot be read"):
        pages_all, free, page = connection.execute(sql("select_pages")).fetchone()
        (newest,) = connection.execute(sql("select_newest_seq")).fetchone()
    on_disk = path.stat().st_size if path.exists() else pages_all * page
    return Size(
        used=(pages_all - free) * page,
        inside=free * page,
        disk_free=shutil.disk_usage(path.parent).free,
        unmoved=max(0, pages_all * page - on_disk),
        newest=newest,
    )


def excess(config: RetentionSection, size: Size, for_floor: int) -> tuple[int, Rule | None]:
    """How many bytes are too many, and for which rule; 0 where none are. ``for_floor``: those that
    are to go for the floor of the disk (``floor.py``).
    """
    over: list[tuple[int, Rule | None]] = [(0, None), (for_floor, Rule.DISK_FLOOR)]
    if config.keep_bytes:
        over.append((size.used - config.keep_bytes, Rule.KEEP_BYTES))
    return max(over, key=lambda each: each[0])


def steps(config: RetentionSection, now: int | None = None) -> Iterator[Step]:
    """In the order in which they are taken."""
    now = now_ms() if now is None else now
    if config.keep_days:
        yield Step(Rule.KEEP_DAYS, What.RESULT, now - round(config.keep_days * DAY_MS))
    if config.content_days:
        yield Step(Rule.CONTENT_DAYS, What.CONTENT, now - round(config.content_days * DAY_MS))
    if config.keep_bytes or config.disk_floor_bytes:
        yield Step(None, What.CONTENT, None)
        yield Step(None, What.RESULT, None)


def kept(connection: Connection, seqs: list[int]) -> Kept:
    """Those of ``seqs`` that nobody may delete."""
    chosen = {"seqs": msgspec.json.encode(seqs).decode()}
    needed = {seq for (seq,) in connection.execute(sql("select_needed"), chosen)}
    return Kept(pinned(connection, seqs), held(connection, seqs), needed)


def pages(
    connection: Connection, step: Step, limits: Limits, after: int = 0, rows: int = PAGE_ROWS
) -> Iterator[Page]:
    """The candidates of a step with a seq after ``after``, some at a time."""
    block = "select_oldest_results" if step.what is What.RESULT else "select_oldest_contents"
    with translated("what is to be deleted cannot be read"):
        ages = Ages(connection, limits.now, is_synced=is_clock_synced())
    while True:
        with translated("what is to be deleted cannot be read"):
            found = connection.execute(
                sql(block), {"after": after, "upto": limits.upto, "rows": rows}
            ).fetchall()
            looked, chosen, passed = _old(found, step, limits, ages)
            stays = kept(connection, [row[0] for row in (*chosen, *passed)])
        if looked:
            after = found[looked - 1][0]
            rows_of, passed_of = ([row for row in some if row[0] not in stays.all]
                                  for some in (chosen, passed))  # fmt: skip
            yield Page(rows_of, stays, passed_of, after)
        if looked < len(found) or len(found) < rows:
            return


def _old(
    found: list[tuple[int, int, int, int | None]], step: Step, limits: Limits, ages: Ages
) -> tuple[int, list[Row], list[Row]]:
    """How many were looked at, those that may go, and those that are passed over."""
    chosen: list[Row] = []
    passed: list[Row] = []
    for place, (seq, at, size, was_synced) in enumerate(found):
        may_go = step.before is None or ages.ended(seq, at, was_synced) < step.before
        if not may_go and (step.before or 0) <= at <= limits.now + AHEAD_MS:
            return place, chosen, passed
        (chosen if may_go else passed).append((seq, at, size))
    return len(found), chosen, passed
