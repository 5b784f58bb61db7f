"""One SQL statement over a lake, together with what the copies have beyond it.

Each table of the lake is taken at one version; from each copy come the rows that this one lacks, by
its watermarks. So a row is there once, whatever is exported or pulled meanwhile. What boxes have
forgotten is not there, carried out in the lake or not. SQL is composed here from the schema's own
names only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from edge_store.errors import EdgeStoreError
from edge_store.fleet.copies import require_named, require_own
from edge_store.fleet.lake.forget import Forgetter, forgotten_in
from edge_store.fleet.lake.session import Session
from edge_store.fleet.lake.store import Lake, Watermarks, kept_since, lake_errors, watermarks
from edge_store.fleet.lake.tables import TABLES, Source
from edge_store.fleet.lake.tombstones import Tombstones, flag_of
from edge_store.fleet.lake.views import (
    LATE,
    PARTS,
    VIEWS,
    columns_of,
    create_table,
    create_view,
    needed_by,
    part_columns,
)
from edge_store.fleet.query import FleetAnswer, Unread
from edge_store.fleet.relations import quoted
from edge_store.replica.extent import DEVICE_ID
from edge_store.sql import sql, sql_of
from edge_store.sqlite import translated

__all__ = ["ask_lake"]

# By these two rows of a table are one; two results of one id but other content are two.
SAME = {
    "results": frozenset({"device_id", "id", "timeline", "digest"}),
    "outputs": frozenset({"device_id", "id", "timeline", "seq", "choice_index"}),
    "requests": frozenset({"device_id", "id", "timeline", "seq"}),
}
BATCH_ROWS = 16_384  # of 8 KiB texts 128 MiB
BATCHES_AHEAD = 2
BUFFER_BYTES = 256 * 1024


class Bounded(ds.UnionDataset):  # type: ignore[misc]  # pyarrow has no types
    """A dataset that is read in small batches, few ahead, whatever DuckDB asks for: Arrow's
    defaults hold whole row groups of several files, which are gigabytes where texts are long.
    """

    def scanner(self, **options: Any) -> Any:
        """As a dataset's, within the bounds."""
        return super().scanner(
            **{
                **options,
                "batch_size": BATCH_ROWS,
                "batch_readahead": BATCHES_AHEAD,
                "fragment_readahead": BATCHES_AHEAD,
                "fragment_scan_options": ds.ParquetFragmentScanOptions(
                    use_buffered_stream=True, buffer_size=BUFFER_BYTES, pre_buffer=False
                ),
            }
        )


def ask_lake(
    lake: Lake,
    copies: Sequence[Path],
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    rows_max: int,
    timeout_s: float,
) -> FleetAnswer | None:
    """Run one statement that only reads; None where the lake has no table yet. ``copies``: all,
    those that are kept aside too. ``timeout_s`` bounds the statement, not the reading of copies.

    Raises:
        QueryRefused: it does not parse, would do more than read, or takes too long or too much.
        LakeFailed: the lake cannot be read.
    """
    given = dict(params or {})
    needed = needed_by(statement, given)
    marks = watermarks(lake)
    if not marks.tables:
        return None
    with Session() as session, lake_errors(lake):
        asking = _Asking(lake, session, marks, needed)
        boxes, unread = asking.load(copies)
        asking.define()
        session.lock()
        result = session.run(statement, given, rows_max=rows_max, timeout_s=timeout_s)
    return FleetAnswer(result=result, boxes=boxes, unread=tuple(unread))


class _Filled:
    """A table that the lake has, at the version that is read."""

    def __init__(self, lake: Lake, table: str, marks: Watermarks) -> None:
        self.delta = marks.tables[table]
        self.since = kept_since(self.delta)
        self._lake = lake
        self._transactions = marks.transactions[table]
        self._forgetter = Forgetter(lake, table, marks)
        self.due = self._forgetter.due

    def knows(self, device_id: str) -> bool:
        """Whether it has rows of that box."""
        with lake_errors(self._lake):
            return self._transactions.get(f"box/{device_id}") is not None

    def has_forgotten(self, device_id: str) -> bool:
        """Whether anything of that box was forgotten in it."""
        with lake_errors(self._lake):
            return self._transactions.get(flag_of(device_id)) is not None


class _Asking:
    """The tables of one question. ``marks`` are the lake's, at the versions that are read."""

    def __init__(
        self,
        lake: Lake,
        session: Session,
        marks: Watermarks,
        needed: Mapping[str, frozenset[str]],
    ) -> None:
        self._connection = session.connection
        self._tombstones = Tombstones(lake)
        self._marks = marks
        self._needed = needed
        self._filled = {
            table: _Filled(lake, table, marks) if table in marks.tables else None
            for table in TABLES
            if f"base_{table}" in needed
        }
        self._forked: dict[str, set[str]] = {table: set() for table in TABLES}
        pa.set_cpu_count(2)
        for table in TABLES:
            self._connection.execute(create_table(f"tail_{table}", columns_of(table)))
        for name, (_block, columns) in LATE.items():
            self._connection.execute(create_table(name, {"device_id": "VARCHAR", **columns}))
        forgotten = {"device_id": "VARCHAR", "id": "VARCHAR"}
        self._connection.execute(create_table("forgotten", forgotten))

    def load(self, copies: Sequence[Path]) -> tuple[int, list[Unread]]:
        """Take from the copies what the lake lacks; how many boxes there are, and what failed."""
        older = {path for path in copies if not DEVICE_ID.fullmatch(path.stem)}
        aside = {path.name.partition(".")[0] for path in older}
        boxes, unread = 0, []
        for path in sorted(copies, key=lambda path: path in older):
            self._connection.execute("BEGIN")
            try:
                self._load_copy(path, is_older=path in older, has_older=path.stem in aside)
            except EdgeStoreError as exc:
                self._connection.execute("ROLLBACK")
                unread.append(Unread(path=path, error=str(exc)))
            else:
                self._connection.execute("COMMIT")
                boxes += path not in older
        return boxes, unread

    def _load_copy(self, path: Path, *, is_older: bool, has_older: bool) -> None:
        with Source(path) as source:
            require_named(path, source.device_id)
            rows = 0
            for table, filled in self._filled.items():
                known = source.known_point(table, self._marks)
                if known is None:
                    is_forked = filled is not None and filled.knows(source.device_id)
                else:
                    is_forked = source.is_passed(known, table, self._marks)
                if is_forked:
                    self._forked[table].add(source.device_id)
                after = known.seq if known else 0
                for step in source.steps(table, after, self._marks.buckets):
                    said = pc.unique(step.batch["device_id"]).to_pylist()
                    require_own(path, source.device_id, said)
                    self._append(table, step.batch, is_older=is_older)
                    rows += step.batch.num_rows
            told = [filled for filled in self._filled.values() if filled]
            if rows and any(filled.has_forgotten(source.device_id) for filled in told):
                self._note_forgotten(source.device_id, self._tombstones.of(source.device_id))
            if is_older:
                return
            due = [filled.due(source) for filled in told]
            gone = forgotten_in(source) if has_older else frozenset[str]()
            self._note_forgotten(source.device_id, gone.union(*due))
            for name in self._needed.keys() & LATE.keys():
                self._append_late(name, source)

    def _note_forgotten(self, device_id: str, ids: frozenset[str]) -> None:
        """Which may still be read: what the lake has to carry out yet; what it has, and a copy has
        not heard of; and all where copies are kept aside.
        """
        self._insert("forgotten", {"device_id": [device_id] * len(ids), "id": [*ids]})

    def _append(self, table: str, batch: pa.RecordBatch, *, is_older: bool) -> None:
        """Of an older copy, what the newer one does not have."""
        needed = self._needed[f"base_{table}"] | SAME[table]
        filled = self._filled[table]
        if filled and filled.since and batch.num_rows:
            batch = batch.filter(pc.greater_equal(batch["date"], pa.scalar(filled.since)))
        rows = batch.select([name for name in columns_of(table) if name in needed])
        others = f"EXISTS (SELECT 1 FROM tail_{table} AS t WHERE {_same(table)})"  # noqa: S608
        self._insert(f"tail_{table}", rows, f"WHERE NOT {others}" if is_older else "")

    def _insert(self, table: str, rows: Any, where: str = "") -> None:
        step = rows if isinstance(rows, pa.RecordBatch) else pa.table(rows)
        if not step.num_rows:
            return
        self._connection.register("step", step)
        try:
            self._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM step AS s {where}")  # noqa: S608
        finally:
            self._connection.unregister("step")

    def _append_late(self, name: str, source: Source) -> None:
        block, columns = LATE[name]
        with translated(f"{source.path} cannot be read"):
            rows = source.connection.execute(sql(block)).fetchall()
        values = dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else {}
        self._insert(name, {"device_id": [source.device_id] * len(rows), **values})

    def define(self) -> None:
        """Make the views, once everything is loaded."""
        for table in TABLES:
            self._connection.execute(f"CREATE VIEW base_{table} AS {self._union(table)}")
        for name in PARTS:
            if name in self._needed:
                self._connection.execute(f"CREATE VIEW {name} AS {sql_of('lake', name)}")
            else:
                self._connection.execute(create_table(name, part_columns(name)))
        for view in VIEWS:
            self._connection.execute(create_view(view))

    def _union(self, table: str) -> str:
        columns = columns_of(table)
        names = ", ".join(map(quoted, columns))
        union = f"SELECT {names} FROM tail_{table} AS s"  # noqa: S608
        filled = self._filled.get(table)
        if filled:
            dataset = filled.delta.to_pyarrow_dataset()
            self._connection.register(f"lake_{table}", Bounded(dataset.schema, [dataset]))
            for device_id in self._forked[table]:
                self._connection.execute(
                    sql_of("lake", "drop_known").format(
                        tail=f"tail_{table}", lake=f"lake_{table}", same=_same(table)
                    ),
                    {"device_id": device_id},
                )
            present = set(dataset.schema.names)
            there = ", ".join(
                quoted(name) if name in present else f"CAST(NULL AS {kind}) AS {quoted(name)}"
                for name, kind in columns.items()
            )
            union = f"SELECT {there} FROM lake_{table} UNION ALL {union}"  # noqa: S608
        if self._connection.execute("SELECT 1 FROM forgotten LIMIT 1").fetchone():
            union = sql_of("lake", "without_forgotten").format(rows=union)
        return union


def _same(table: str) -> str:
    """Whether ``s`` and ``t`` are one row."""
    return " AND ".join(f"s.{name} = t.{name}" for name in sorted(SAME[table]))
