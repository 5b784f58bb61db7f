"""A lake that copies are exported to, and what must be in it."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge_store.fleet.lake.export import (
    CopyReport,
    ExportPlan,
    TableReport,
    export,
    find_all_copies,
)
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import TABLES
from edge_store.sqlite import open_reader

__all__ = ["exported", "in_copies", "in_lake"]


def exported(
    folder: Path, lake: Lake, *, tables: tuple[str, ...] = tuple(TABLES)
) -> tuple[list[TableReport], list[CopyReport]]:
    """Export all copies of a folder."""
    said: list[CopyReport] = []
    plan = ExportPlan(copies=find_all_copies(folder), tables=tables, buckets=2)
    return export(plan, lake, said.append), said


def in_lake(lake: Lake, table: str) -> list[tuple[Any, ...]]:
    """The rows of a table, but for its partitions: sorted, and as often as they are there."""
    rows: pa.Table = lake.open(table).to_pyarrow_dataset().to_table()
    names = [name for name in sorted(rows.schema.names) if name not in ("date", "bucket")]
    return sorted(zip(*(rows[name].to_pylist() for name in names), strict=True), key=repr)


def in_copies(*copies: Path, table: str) -> list[tuple[Any, ...]]:
    """The same of what SQLite itself reads in copies: each row once."""
    found = set()
    table = "bodies" if table == "requests" else table
    for copy in copies:
        with closing(open_reader(copy)) as reader:
            rows = reader.execute(f"""SELECT * FROM {table} JOIN (
                SELECT seq, device_id, timeline, id, created_at FROM results) USING (seq)""")
            names = [column[0] for column in rows.description]
            order = sorted(set(names))
            places = [names.index(name) for name in order]
            found |= {tuple(row[place] for place in places) for row in rows}
    return sorted(found, key=repr)
