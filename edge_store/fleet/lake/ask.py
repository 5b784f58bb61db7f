"""One SQL statement over a lake, together with what the copies have beyond it.

Each table of the lake is taken at one version; from each copy come the rows that this one lacks, by
its watermarks. So a row is there once, whatever is exported or pulled meanwhile. DuckDB itself
says, from empty tables, what a statement reads: nothing else is read from the copies, and what is
joined in vain stays empty. SQL is composed here from the schema's own names only, and every name is
quoted.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from edge_store.errors import EdgeStoreError, QueryRefused
from edge_store.fleet.lake.session import Session
from edge_store.fleet.lake.store import Lake, Watermarks, lake_errors, watermarks
from edge_store.fleet.lake.tables import TABLES, Source, schema_of
from edge_store.fleet.query import FleetAnswer, Unread, quoted, relations
from edge_store.replica.extent import DEVICE_ID
from edge_store.sql import sql, sql_of
from edge_store.sqlite import translated

__all__ = ["VIEWS", "ask_lake"]

TYPES = {
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
}
KEYS = frozenset({"device_id", "id", "seq", "choice_index"})
LATE = {  # columns, after device_id, of the blocks of fleet.sql that read them from a copy
    "late_metadata": ("select_late_metadata", {"id": "VARCHAR", "value": "VARCHAR"}),
    "late_repairs": (
        "select_late_repairs",
        {
            "id": "VARCHAR", "choice_index": "BIGINT", "output_json": "VARCHAR",
            "json_state": "VARCHAR", "schema_valid": "BIGINT", "schema_error": "VARCHAR",
            "repair_log": "VARCHAR", "repairer": "VARCHAR",
        },
    ),
}  # fmt: skip
# What `generations` joins: each of a table, and empty where only its keys would be read.
PARTS = {
    "first_outputs": "outputs",
    "output_counts": "outputs",
    "input_texts": "requests",
}
# By these two rows of a table are one; two results of one id but other content are two.
SAME = {
    "results": frozenset({"device_id", "id", "timeline", "digest"}),
    "outputs": frozenset({"device_id", "id", "timeline", "seq", "choice_index"}),
    "requests": frozenset({"device_id", "id", "timeline", "seq"}),
}
VIEWS = ("results", "outputs", "generations", "structured", "requests")
PLAN_TIMEOUT_S = 60.0
# So that a plan names every column that is read: filters stay beside the scans, and nothing is left
# out for being empty.
PLANNER = "unused_columns"
BATCH_ROWS = 16_384  # of 8 KiB texts 128 MiB
BATCHES_AHEAD = 2
BUFFER_BYTES = 256 * 1024
UNKNOWN = re.compile(r'(?:column |Table with name )"?(\w+)"?')


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
    needed = _needed(statement, given)
    marks = watermarks(lake)
    if not marks.tables:
        return None
    with Session() as session, lake_errors(lake):
        asking = _Asking(session, marks, needed)
        boxes, unread = asking.load(copies)
        asking.define()
        session.lock()
        result = session.run(statement, given, rows_max=rows_max, timeout_s=timeout_s)
    return FleetAnswer(result=result, boxes=boxes, unread=tuple(unread))


@cache
def columns_of(table: str) -> Mapping[str, str]:
    """Names and types of a view on a table: in the order of the live one, then the lake's own."""
    known = {field.name: TYPES[field.type] for field in schema_of(table) if field.name != "bucket"}
    (relation,) = (each for each in relations() if each.name == table)
    live = [name for name, _ in relation.columns]
    if "device_id" not in live:
        live.insert(0, "device_id")
    return {name: known[name] for name in (*live, *known)}


def _needed(statement: str, params: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The tables, parts and late tables that have to be filled, with the columns that are read.
    Refuses what must be refused.
    """
    with Session() as session:
        connection = session.connection
        for name, columns in _empty_tables():
            connection.execute(_create_table(name, columns))
        for view in VIEWS:
            connection.execute(_create_view(view))
        others = connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        names = ",".join(sorted(name for (name,) in others if name != PLANNER))
        connection.execute(f"SET disabled_optimizers = '{names}'")
        session.lock()
        with _explained(statement):
            scans = session.scans(statement, params, PLAN_TIMEOUT_S)
    everything = {name: frozenset(columns) for name, columns in _empty_tables()}
    if scans is None:
        return everything
    needed = {
        name: KEYS | (everything[name] & columns)
        for name, columns in scans.items()
        if name not in {*PARTS, *LATE} or columns - KEYS
    }
    for name in needed.keys() & PARTS.keys():
        table = f"base_{PARTS[name]}"
        needed[table] = needed.get(table, KEYS) | (needed[name] & everything[table])
    return needed


def _empty_tables() -> Iterator[tuple[str, Mapping[str, str]]]:
    for table in TABLES:
        yield f"base_{table}", columns_of(table)
    for name in PARTS:
        yield name, _part_columns(name)
    for name, (_block, columns) in LATE.items():
        yield name, {"device_id": "VARCHAR", **columns}


def _part_columns(name: str) -> Mapping[str, str]:
    """Those that its statement selects: a table's, or a count."""
    known = columns_of(PARTS[name])
    head = sql_of("lake", name).partition("FROM")[0]
    return {column: known.get(column, "BIGINT") for column in re.findall(r"(\w+)(?:,|\s*$)", head)}


def _create_table(name: str, columns: Mapping[str, str]) -> str:
    fields = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns.items())
    return f"CREATE TABLE {quoted(name)} ({fields})"


def _create_view(name: str) -> str:
    if name in TABLES:
        return f"CREATE VIEW {name} AS SELECT * FROM base_{name}"  # noqa: S608
    return f"CREATE VIEW {name} AS {sql_of('lake', name)}"


class _Asking:
    """The tables of one question. ``marks`` are the lake's, at the versions that are read."""

    def __init__(
        self, session: Session, marks: Watermarks, needed: Mapping[str, frozenset[str]]
    ) -> None:
        self._connection = session.connection
        self._marks = marks
        self._needed = needed
        self._tables = [table for table in TABLES if f"base_{table}" in needed]
        self._forked: dict[str, set[str]] = {table: set() for table in TABLES}
        pa.set_cpu_count(2)
        for table in TABLES:
            self._connection.execute(_create_table(f"tail_{table}", columns_of(table)))
        for name, (_block, columns) in LATE.items():
            self._connection.execute(_create_table(name, {"device_id": "VARCHAR", **columns}))

    def load(self, copies: Sequence[Path]) -> tuple[int, list[Unread]]:
        """Take from the copies what the lake lacks; how many boxes there are, and what failed."""
        newest = [path for path in copies if DEVICE_ID.fullmatch(path.stem)]
        boxes, unread = 0, []
        for path in (*newest, *(path for path in copies if path not in newest)):
            self._connection.execute("BEGIN")
            try:
                self._load_copy(path, is_older=path not in newest)
            except EdgeStoreError as exc:
                self._connection.execute("ROLLBACK")
                unread.append(Unread(path=path, error=str(exc)))
            else:
                self._connection.execute("COMMIT")
                boxes += path in newest
        return boxes, unread

    def _load_copy(self, path: Path, *, is_older: bool) -> None:
        with Source(path) as source:
            for table in self._tables:
                known = source.known_point(table, self._marks)
                if known is None and source.points(table, self._marks):
                    self._forked[table].add(source.device_id)
                for step in source.steps(table, known.seq if known else 0, self._marks.buckets):
                    self._append(table, step.batch, is_older=is_older)
            if is_older:
                return
            for name in self._needed.keys() & LATE.keys():
                self._append_late(name, source)

    def _append(self, table: str, batch: pa.RecordBatch, *, is_older: bool) -> None:
        """Of an older copy, what the newer one does not have."""
        if not batch.num_rows:
            return
        needed = self._needed[f"base_{table}"] | SAME[table]
        columns = ", ".join(quoted(name) for name in columns_of(table) if name in needed)
        statement = f"INSERT INTO tail_{table} BY NAME SELECT {columns} FROM step AS s"  # noqa: S608
        if is_older:
            statement += f" WHERE NOT EXISTS (SELECT 1 FROM tail_{table} AS t WHERE {_same(table)})"  # noqa: S608
        self._connection.register("step", batch)
        try:
            self._connection.execute(statement)
        finally:
            self._connection.unregister("step")

    def _append_late(self, name: str, source: Source) -> None:
        block, columns = LATE[name]
        with translated(f"{source.path} cannot be read"):
            rows = source.connection.execute(sql(block)).fetchall()
        if not rows:
            return
        values = zip(columns, zip(*rows, strict=True), strict=True)
        table = pa.table({"device_id": [source.device_id] * len(rows), **dict(values)})
        self._connection.register("step", table)
        try:
            self._connection.execute(f"INSERT INTO {name} SELECT * FROM step")  # noqa: S608
        finally:
            self._connection.unregister("step")

    def define(self) -> None:
        """Make the views, once everything is loaded."""
        for table in TABLES:
            self._connection.execute(f"CREATE VIEW base_{table} AS {self._union(table)}")
        for name in PARTS:
            if name in self._needed:
                self._connection.execute(f"CREATE VIEW {name} AS {sql_of('lake', name)}")
            else:
                self._connection.execute(_create_table(name, _part_columns(name)))
        for view in VIEWS:
            self._connection.execute(_create_view(view))

    def _union(self, table: str) -> str:
        columns = columns_of(table)
        names = ", ".join(map(quoted, columns))
        tail = f"SELECT {names} FROM tail_{table}"  # noqa: S608
        delta = self._marks.tables.get(table)
        if delta is None or table not in self._tables:
            return tail
        dataset = delta.to_pyarrow_dataset()
        self._connection.register(f"lake_{table}", Bounded(dataset.schema, [dataset]))
        for device_id in self._forked[table]:
            self._connection.execute(
                sql_of("lake", "drop_known").format(
                    tail=f"tail_{table}", lake=f"lake_{table}", same=_same(table)
                ),
                {"device_id": device_id},
            )
        present = set(dataset.schema.names)
        lake = ", ".join(
            quoted(name) if name in present else f"CAST(NULL AS {kind}) AS {quoted(name)}"
            for name, kind in columns.items()
        )
        return f"SELECT {lake} FROM lake_{table} UNION ALL {tail}"  # noqa: S608


def _same(table: str) -> str:
    """Whether ``s`` and ``t`` are one row."""
    return " AND ".join(f"s.{name} = t.{name}" for name in sorted(SAME[table]))


@contextmanager
def _explained(statement: str) -> Iterator[None]:
    """Of a wrong name, name the right ones."""
    try:
        yield
    except QueryRefused as exc:
        found = UNKNOWN.search(str(exc))
        if exc.hint or not found:
            raise
        raise QueryRefused(str(exc), hint=_right_names(found[1], statement)) from exc


def _right_names(wrong: str, statement: str) -> str:
    if any(relation.name == wrong.lower() for relation in relations()):
        return f"the lake has no {wrong}: ask the copies for it, with --live"
    words = set(re.findall(r"\w+", statement.lower()))
    views = [view for view in VIEWS if view in words]
    if not views:
        return f"the views are {', '.join(VIEWS)}; with --live, all of a box's"
    parts = []
    for view in views:
        names = view_columns(view)
        near = difflib.get_close_matches(wrong.lower(), names, n=1)
        parts.append(f"{view} has {', '.join(near or names)}")
    return "; ".join(parts)


@cache
def view_columns(view: str) -> tuple[str, ...]:
    """The names of a view's columns, in order."""
    with Session() as session:
        for name, columns in _empty_tables():
            session.connection.execute(_create_table(name, columns))
        session.connection.execute(_create_view(view))
        cursor = session.connection.execute(f"SELECT * FROM {view}")  # noqa: S608
        return tuple(name for name, *_ in cursor.description)
