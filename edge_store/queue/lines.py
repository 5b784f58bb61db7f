"""What has become of a line, told from what is stored of it. Pure functions.

A line has results: one for each attempt that was admitted. It is completed once one of them is;
refused once one failed in a way that would not pass; dead after so many that might have. What was
cut, by a stop of the daemon or a kill, is no attempt. Beside its results a line has marks: it was
refused before it was admitted, or an operator has it tried again, or what completed it was deleted.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from edge_store.recorder.failure import may_succeed_later

__all__ = ["Attempt", "Counts", "LineState", "Mark", "Standing", "counted", "standing_of"]


class LineState(StrEnum):
    """Where a line is."""

    WAITING = "waiting"
    COMPLETED = "completed"
    REFUSED = "refused"
    DEAD = "dead"  # every attempt failed

    @property
    def is_settled(self) -> bool:
        """Whether it is asked no more."""
        return self is not LineState.WAITING


class Attempt(NamedTuple):
    """A failed result of a line."""

    seq: int
    http_status: int
    code: str


class Mark(NamedTuple):
    """What is said of a line: the newest counts."""

    mark: str  # refused, retry, done
    after_seq: int


class Standing(NamedTuple):
    """The state of a line, and how many of its attempts count."""

    state: LineState
    attempts: int = 0


class Counts(NamedTuple):
    """How many lines are settled, and how many there are."""

    completed: int
    failed: int
    total: int


def standing_of(
    *, is_completed: bool, attempts: Iterable[Attempt], mark: Mark | None, attempts_max: int
) -> Standing:
    """What has become of a line. The order of ``attempts`` does not matter."""
    since = mark.after_seq if mark else 0
    counting = [attempt for attempt in attempts if attempt.seq > since]
    if is_completed or (mark is not None and mark.mark == "done"):
        return Standing(LineState.COMPLETED, len(counting))
    if mark is not None and mark.mark == "refused":
        return Standing(LineState.REFUSED, len(counting))
    if not all(may_succeed_later(attempt.http_status, attempt.code) for attempt in counting):
        return Standing(LineState.REFUSED, len(counting))
    is_dead = len(counting) >= attempts_max
    return Standing(LineState.DEAD if is_dead else LineState.WAITING, len(counting))


def counted(standings: Mapping[str, Standing], total: int) -> Counts:
    """The counts of a batch of ``total`` lines, of which those not in ``standings`` wait."""
    states = [standing.state for standing in standings.values()]
    completed = states.count(LineState.COMPLETED)
    failed = states.count(LineState.REFUSED) + states.count(LineState.DEAD)
    return Counts(completed, failed, total)
