"""What keeps a lake small: compaction, letting go of old days, and removing files nobody needs."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from edge_store.errors import LakeOvertaken
from edge_store.fleet.lake.append import properties
from edge_store.fleet.lake.store import KEPT_SINCE, Lake, kept_since, lake_errors, said
from edge_store.result import Record

__all__ = ["Compacted", "TableState", "compact", "expire", "states", "vacuum"]

ATTEMPTS = 4  # when another writer is in between
COMPACTIONS_AT_A_TIME = 2  # each holds its files in memory: 215 MB of them took 480 MB in all


class TableState(Record, frozen=True, kw_only=True):
    """One table, by its log: no row was read. ``bytes`` are those of files in force."""

    table: str
    version: int
    rows: int
    files: int
    bytes: int
    first_day: date | None
    last_day: date | None
    buckets: int
    kept_since: date | None


class Compacted(Record, frozen=True, kw_only=True):
    """How many files became how many."""

    table: str
    files_before: int
    files_after: int


def states(lake: Lake, tables: dict[str, DeltaTable]) -> list[TableState]:
    """What each table holds."""
    with lake_errors(lake):
        return [_state(name, delta) for name, delta in tables.items()]


def _state(name: str, delta: DeltaTable) -> TableState:
    files: Any = pa.table(delta.get_add_actions(flatten=True))
    days = files["partition.date"] if files.num_rows else None
    return TableState(
        table=name,
        version=delta.version(),
        rows=pc.sum(files["num_records"]).as_py() or 0 if files.num_rows else 0,
        files=files.num_rows,
        bytes=pc.sum(files["size_bytes"]).as_py() or 0 if files.num_rows else 0,
        first_day=pc.min(days).as_py() if days is not None else None,
        last_day=pc.max(days).as_py() if days is not None else None,
        buckets=int(delta.metadata().configuration.get("edge_store.buckets", 1)),
        kept_since=kept_since(delta),
    )


def compact(lake: Lake, table: str, file_bytes: int) -> Compacted:
    """Make few large files of many small ones, a partition at a time. The small ones stay until
    ``vacuum``, for readers that have begun. Rows and watermarks are as they were.
    """
    delta = lake.open(table)
    with lake_errors(lake):
        done = delta.optimize.compact(
            target_size=file_bytes,
            max_concurrent_tasks=COMPACTIONS_AT_A_TIME,
            writer_properties=properties(pa.schema(delta.schema().to_arrow())),
            commit_properties=said("compact"),
        )
    return Compacted(
        table=table, files_before=done["numFilesRemoved"], files_after=done["numFilesAdded"]
    )


def expire(lake: Lake, table: str, days: int, today: Callable[[], datetime] | None = None) -> int:
    """Delete the days that are older, for good: they do not come back with a copy that still has
    them. How many rows went. Their files stay until ``vacuum``.
    """
    now = today() if today else datetime.now(UTC)
    since = now.date() - timedelta(days=days)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _expire(lake, table, since)
        except LakeOvertaken:  # by rows, which are to be looked at, too
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _expire(lake: Lake, table: str, since: date) -> int:
    """First the day is noted: then no export appends what is older, and one that was killed before
    all was deleted is gone on with.
    """
    delta = lake.open(table)
    with lake_errors(lake):
        known = kept_since(delta)
        if known is None or known < since:
            delta.alter.set_table_properties(
                {KEPT_SINCE: since.isoformat()},
                raise_if_not_exists=False,
                commit_properties=said("expire"),
            )
            known = since
        done = delta.delete(
            f"date < CAST('{known.isoformat()}' AS DATE)", commit_properties=said("expire")
        )
    return int(done["num_deleted_rows"] or 0)


def vacuum(lake: Lake, table: str, hours: int) -> int:
    """Remove the files that have not been in force for so many hours, and those that were never
    committed and are as old; how many. Readers that began before that many hours fail.
    """
    delta = lake.open(table)
    with lake_errors(lake):
        return len(
            delta.vacuum(
                retention_hours=hours,
                dry_run=False,
                enforce_retention_duration=False,
                full=True,
                commit_properties=said("vacuum"),
            )
        )
