"""How much of a copy a lake has taken in: what may be deleted, as it can be asked for there."""

from functools import cached_property
from pathlib import Path

from edge_store.chain import SEQ_MAX
from edge_store.errors import EdgeStoreError
from edge_store.fleet.departed import NOTHING, Taken
from edge_store.fleet.lake.forget import Forgetter
from edge_store.fleet.lake.store import LEFT_OUT, Lake, Watermarks, watermarks
from edge_store.fleet.lake.tables import Source, rows_after

__all__ = ["Held"]

ALWAYS = ("results", "outputs")  # the bodies only where the lake has them of others, too


class Held:
    """Of the lake as it is when the first copy is asked about."""

    def __init__(self, url: str) -> None:
        self._lake = Lake(url, key="lake")

    def has_all(self, copy: Path) -> bool:
        """Whether every row of a copy is there, and nothing that it says is forgotten. Not, where
        the copy or the lake cannot be read, or rows of its box came too late for the lake.
        """
        try:
            marks = self._marks
            with Source(copy) as source:
                for table in marks.tables:
                    left_out = marks.transactions[table].get(f"{LEFT_OUT}/{source.device_id}")
                    if left_out is not None or Forgetter(self._lake, table, marks).due(source):
                        return False
            return not any(
                batch.num_rows
                for table in {*ALWAYS, *marks.tables}
                for batch in rows_after(copy, table, marks)
            )
        except EdgeStoreError:
            return False

    def taken(self, copy: Path) -> Taken:
        """Up to which seq all rows of a copy are there. Nothing, where either cannot be read."""
        try:
            marks = self._marks
            with Source(copy) as source:
                reached = {
                    table: point.seq if (point := source.known_point(table, marks)) else 0
                    for table in {*ALWAYS, *marks.tables}
                }
        except EdgeStoreError:
            return NOTHING
        return Taken(min(reached.values()), reached.get("requests", SEQ_MAX))

    @cached_property
    def _marks(self) -> Watermarks:
        return watermarks(self._lake)
