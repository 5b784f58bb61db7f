"""What is committed from now on, as it comes: by looking at the file again and again.

It needs no daemon, and outlives one: also a file that is away for a while, or that a restore has
put another in the place of. There seqs begin again where the restored copy ended, under a new
timeline; what was shown before is not shown again, what is new under an old seq is. Reads only, and
has the file open while it looks alone: who held it over a crash of the daemon would hold what that
has left in memory (see ``sqlite.is_index_held``). Blocks.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from edge_store.errors import EdgeStoreError
from edge_store.logs.newest import lines_of
from edge_store.result import Operation
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, translated

__all__ = ["Follower"]

POLL_S = 0.1
SEQS_AT_ONCE = 2000  # looked at in one step: what a filter leaves of them is shown at once
# Two changes within one tick of the file system's clock look like one, so what has just changed is
# read again until a change would be seen.
SETTLED_NS = 2_000_000_000

Traces = tuple[tuple[int, int, int] | None, ...]


class Follower:
    """Follows one path. ``say`` is told what a person may wonder about."""

    def __init__(
        self, path: Path, selection: Selection, say: Callable[[str], object] = lambda _: None
    ) -> None:
        """Begin behind what is there now.

        Raises:
            EdgeStoreError: there is no database of ours.
        """
        self._files = (path, path.with_name(f"{path.name}-wal"))
        self._path = path
        self._condition = selection.condition
        is_without_output = selection.operation is Operation.PREFIX_CACHE
        self._values = {**selection.values, "is_without_output": is_without_output}
        self._say = say
        self._is_away = False
        self._seen: Traces | None = None  # of the files, where there is nothing more in them
        self._after: int
        with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
            self._after, self._timeline = connection.execute(sql("log_head")).fetchone()

    @property
    def after(self) -> int:
        """The newest seq that was looked at."""
        return self._after

    def looks(self) -> Iterator[list[tuple[object, ...]]]:
        """What each look finds, for ever. After one that found something comes the next at once."""
        while True:
            found = self.look()
            yield found
            if not found:
                time.sleep(POLL_S)

    def look(self) -> list[tuple[object, ...]]:
        """What has come since the last look, as rows of ``newest.COLUMNS``, oldest first; nothing
        while there is no file.
        """
        traces = tuple(map(_trace, self._files))  # before it is read: else a change is missed
        if traces == self._seen:
            return []
        try:
            cannot = translated(f"{self._path} cannot be read")
            with closing(open_reader(self._path)) as connection, cannot:
                found = self._step(connection)
        except EdgeStoreError as exc:
            if not self._is_away:
                self._say(f"waiting: {exc}")
            self._is_away = True
            return []
        if self._is_away:
            self._say(f"{self._path} is back")
        self._is_away = False
        changed_at = max((trace[2] for trace in traces if trace is not None), default=0)
        if not found and time.time_ns() - changed_at > SETTLED_NS:
            self._seen = traces
        return found

    def _step(self, connection: Connection) -> list[tuple[object, ...]]:
        """One consistent view: all rows up to the newest are there by then."""
        found: list[tuple[object, ...]] = []
        connection.execute(sql("begin_reading"))
        try:
            head, timeline = connection.execute(sql("log_head")).fetchone()
            if timeline != self._timeline:
                self._branch(connection, head, timeline)
            while self._after < head and not found:
                upto = min(head, self._after + SEQS_AT_ONCE)
                params = {**self._values, "after": self._after, "upto": upto}
                statement = sql("log_after").replace(":condition", self._condition)
                seqs = [seq for (seq,) in connection.execute(statement, params)]
                found = lines_of(connection, seqs) if seqs else []
                self._after = upto
        finally:
            with suppress(driver.Error):  # the failure may have ended it by itself
                connection.execute(sql("rollback"))
        return found

    def _branch(self, connection: Connection, head: int, timeline: str) -> None:
        """Go on where the file's history left the one that was followed."""
        row = connection.execute(sql("log_branch"), {"timeline": self._timeline}).fetchone()
        if row is None:
            self._say(f"{self._path} is another database now: going on with what comes")
            self._after = head
        else:
            left_at = head if row[1] is None else row[1]  # None: nothing was begun on it yet
            if left_at < self._after:
                self._say(f"restored: results after seq {left_at} come again under their numbers")
                self._after = left_at
        self._timeline = timeline


def _trace(path: Path) -> tuple[int, int, int] | None:
    """What is another after a change of the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
