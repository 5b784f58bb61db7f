"""How old a result is, though the clock that stamped it may have been wrong: a board without a
battery starts in 1970, or where it was switched off, and takes requests before its first sync.

A result says whether the kernel's clock was synced when it was admitted. One that was is as old as
it says. One that was not is moved by what the clock leapt after it: from the last result before it
was synced to the moment at which it was, and wherever neighbouring commits before that are over a
day apart. An idle stretch that is taken for a leap makes a result count as younger, never as older.
Where the clock was not synced since, a leap is one of over a year: such a box rests for days, too.
"""

from typing import NamedTuple

from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["Ages"]

DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS
FIRST, LAST = "select_first_stamped", "select_last_stamped"


class Stamped(NamedTuple):
    """A result that this box stamped. Times are UTC ms."""

    seq: int
    created_at: int
    completed_at: int
    clock_synced: int


class Moment(NamedTuple):
    """When the clock was synced, UTC ms; the results up to ``seq`` were before it."""

    seq: int
    at: int


class Leap(NamedTuple):
    """The results up to ``seq`` were committed before it; ``to``: the first COMMIT after it."""

    seq: int
    to: int
    ms: int


class Stretch(NamedTuple):
    """Of results after ``since`` up to ``seq``: by what each is moved, at most to ``until``."""

    since: int
    seq: int
    until: int
    ms: int
    leaps: tuple[Leap, ...]
    leap_ms: int  # more is one

    def moved(self, seq: int, at: int) -> int:
        """What was committed right after a leap and says that it ended far before it was stamped
        by the clock of before it.
        """
        moved = at + self.ms
        for leap in reversed(self.leaps):
            if seq > leap.seq and at >= leap.to - self.leap_ms:
                break
            moved += leap.ms
        return min(moved, self.until)


class Ages:
    """As of ``now``, UTC ms, by a clock that ``is_synced``, or is not. For one pass."""

    def __init__(self, connection: Connection, now: int, *, is_synced: bool) -> None:
        self._connection = connection
        self._now = now
        self._is_synced = is_synced
        (self._last,) = connection.execute(sql("select_newest_seq")).fetchone()
        self._stretch: Stretch | None = None
        self._unsynced_since = self._last  # results after it were never followed by a sync
        self._rest: Stretch | None = None

    def ended(self, seq: int, at: int, was_synced: int | None) -> int:
        """From when on a result counts that says that it ended at ``at``. ``was_synced``: None
        where another box stamped it.
        """
        if was_synced is None or (was_synced and self._is_synced):
            return at
        if not was_synced and seq <= self._unsynced_since:
            if self._stretch is None or not self._stretch.since < seq <= self._stretch.seq:
                self._stretch = self._stretch_of(seq)
            if self._stretch is not None:
                return self._stretch.moved(seq, at)
            self._unsynced_since = seq - 1
        if self._now - at <= YEAR_MS:
            return at
        if self._rest is None:
            self._rest = self._rest_of(seq)
        return self._rest.moved(seq, at)

    def _stretch_of(self, seq: int) -> Stretch | None:
        synced = self._next_synced(seq)
        if synced is None:
            return None
        before = self._probe(LAST, 0, synced.seq)
        ms = 0 if before is None else synced.at - before.completed_at
        leaps = self._leaps(seq, synced.seq, DAY_MS)
        return Stretch(seq - 1, synced.seq, synced.at, ms, leaps, DAY_MS)

    def _rest_of(self, seq: int) -> Stretch:
        """Up to now."""
        leaps = self._leaps(seq, self._last + 1, YEAR_MS)
        row = self._connection.execute(sql("select_last_mark")).fetchone()
        if row is not None and self._now - row[0] > YEAR_MS:
            leaps += (Leap(self._last, self._now, self._now - row[0]),)
        return Stretch(seq - 1, self._last, self._now, 0, leaps, YEAR_MS)

    def _next_synced(self, seq: int) -> Moment | None:
        low = seq
        boots = self._connection.execute(sql("select_boots_since"), {"seq": seq}).fetchall()
        for at, after_seq, is_synced in boots:
            found = self._first_synced(low, after_seq)
            if found is not None:
                return found
            if is_synced:
                return Moment(after_seq, at)
            low = max(low, after_seq)
        found = self._first_synced(low, self._last)
        if found is None and self._is_synced:
            return Moment(self._last, self._now)
        return found

    def _first_synced(self, low: int, high: int) -> Moment | None:
        """Of the results of one boot after ``low``. Once its clock is synced it stays so; of those
        that were admitted before, a few end later: it need not be the very first.
        """
        last = self._probe(LAST, low, high)
        if last is None or not last.clock_synced:
            return None
        place = last.seq  # the first one from there on was synced
        while place - low > 1:
            middle = (low + place) // 2
            row = self._probe(FIRST, middle - 1, last.seq)
            assert row is not None
            low, place = (low, middle) if row.clock_synced else (middle, place)
        row = self._probe(FIRST, place - 1, last.seq)
        assert row is not None
        return Moment(row.seq - 1, row.created_at)

    def _probe(self, block: str, low: int, high: int) -> Stamped | None:
        row = self._connection.execute(sql(block), {"low": low, "high": high}).fetchone()
        return None if row is None else Stamped(*row)

    def _leaps(self, seq: int, until: int, leap_ms: int) -> tuple[Leap, ...]:
        """From the boot of the result ``seq`` on; those that the results before ``until`` took."""
        asked = {"seq": seq, "until": until, "leap_ms": leap_ms}
        found = []
        for leap in self._connection.execute(sql("select_leaps"), asked):
            if leap[0] >= until:
                break
            found.append(Leap(*leap))
        return tuple(found)
