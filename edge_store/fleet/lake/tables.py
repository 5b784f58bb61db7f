"""The lake's tables, and the rows of one copy that a lake does not have yet.

A row of ``results``, ``outputs`` or ``requests`` is one of the box's table of that name, with the
same names and values; each has ``device_id``, ``timeline``, ``seq``, ``id`` and ``created_at`` too.
It lies in a partition by the UTC ``date`` of its result's admission and the ``bucket`` of its box.
What an older box lacks is NULL; a column that is new here comes to an older lake with the next row.

A watermark is a ``Point``: a result that is in the lake with all that a copy of its box had before.
It says nothing to a copy that does not hold that very result, as of a box that was restored from
before it; nor to one of before the box's retention deleted what that copy lacked: then all of the
copy's rows are read, and whoever takes them leaves those that the lake has by
(``device_id``, ``id``). Each copy that was exported has left a point on each of its timelines, so
that centres whose copies differ in any way find each other's rows. SQLite is read on the caller's
thread, in steps of bounded size.
"""

import gc
import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc

from edge_store.errors import Corrupt, NotAnEdgeStoreFile
from edge_store.fleet.relations import columns
from edge_store.identity import read_device_id
from edge_store.ids import DeviceId
from edge_store.schema import FILES, statements
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, translated

__all__ = [
    "BUCKETS_DEFAULT",
    "PARTITION",
    "SLOTS_MAX",
    "TABLES",
    "TABLES_DEFAULT",
    "Marks",
    "Point",
    "Source",
    "Step",
    "bucket_of",
    "mark_of",
    "mark_of_deletion",
    "rows_after",
    "schema_of",
]

TABLES = {
    "results": "select_lake_results",
    "outputs": "select_lake_outputs",
    "requests": "select_lake_requests",
}
TABLES_DEFAULT = ("results", "outputs")
PARTITION = ("date", "bucket")
BUCKETS_DEFAULT = 4
DAY_MS = 86_400_000
CREATED_AT_MAX = 253_402_300_799_999  # the last of the year 9999: no date is later
RESULTS_PER_STEP = 2048  # at 700 bytes a result 1.4 MB; with 256 a row takes a quarter more
STEP_BYTES = 8 * 2**20  # a step that was larger makes the next one smaller
RESULTS_AT_FIRST = 64  # 64 results of 1 MB are 64 MB
MARK_BITS = 63  # of a digest, as the lake keeps it: an integer of Delta's
SLOTS_MAX = 64  # points of one timeline: each is of a copy that the others do not go on from
COLUMN = re.compile(r"\b([roq])\.(\w+)")
OF_ALIAS = {"r": "results", "o": "outputs", "q": "requests"}
TYPES = {
    "INTEGER": pa.int64(),
    "REAL": pa.float64(),
    "TEXT": pa.string(),
    "BLOB": pa.binary(),
}


class Point(NamedTuple):
    """A result by its place, and the beginning of its digest; and the newest deletion by retention
    in the copy that was exported so far, with its mark: 0 and 0 where there is none. ``retired`` is
    None where an older edge-store did not say: what the copy lacked is not known.
    """

    timeline: str
    seq: int
    mark: int
    retired: int | None = 0
    retired_mark: int = 0


class Step(NamedTuple):
    """Consecutive rows of one copy, and the result up to which they are all its rows."""

    batch: pa.RecordBatch
    upto: Point


class Marks(Protocol):
    """The watermarks of a lake, as of one state of it."""

    buckets: int

    def points(self, table: str, device_id: str, timeline: str) -> tuple[Point, ...]:
        """Those of one box on one timeline, in any order; more than one where its copies differ."""
        ...


@cache
def schema_of(table: str) -> pa.Schema:
    """The columns of a table of the lake, with those that it is partitioned by."""
    with closing(driver.connect(":memory:", isolation_level=None)) as connection:
        for file in FILES:
            for statement in statements(file):
                connection.execute(statement)
        types = {
            (alias, name): TYPES[declared]
            for alias, of in OF_ALIAS.items()
            for name, declared in _columns(connection, of)
        }
    fields = [pa.field(name, types[alias, name]) for alias, name in _selected(table)]
    return pa.schema([*fields, pa.field("date", pa.date32()), pa.field("bucket", pa.int32())])


def _selected(table: str) -> list[tuple[str, str]]:
    """The columns that a table's statement selects, each with the alias of its table."""
    return COLUMN.findall(sql(TABLES[table]).partition("FROM")[0])


def _columns(connection: Connection, table: str) -> list[tuple[str, str]]:
    return [(each.name, each.declared) for each in columns(connection, "main", table)]


def bucket_of(device_id: str, buckets: int) -> int:
    """The partition of a box: CRC-32 of its id, modulo."""
    return zlib.crc32(device_id.encode()) % buckets


def mark_of(digest: bytes) -> int:
    """The first 63 bits of a digest."""
    return int.from_bytes(digest[:8], "big") >> (64 - MARK_BITS)


def mark_of_deletion(name: str, at: int) -> int:
    """Tells a deletion from another of the same number, of a file that was set back."""
    return mark_of(hashlib.sha256(f"{name} {at}".encode()).digest())


def rows_after(copy: Path, table: str, watermarks: Marks) -> Iterator[pa.RecordBatch]:
    """The rows of one copy that the lake does not have yet, in the order of ``seq``.

    All of the copy's rows where none of the lake's points is in it (see ``Source.known_point``).

    Raises:
        StoreError: the copy cannot be read; batches before that hold true rows.
    """
    with Source(copy) as source:
        known = source.known_point(table, watermarks)
        for step in source.steps(table, known.seq if known else 0, watermarks.buckets):
            yield step.batch


class Source:
    """A copy that is read: as it is when it is opened, until it is closed.

    Raises:
        NotAnEdgeStoreFile: it belongs to no box.
        StoreError: it cannot be read.
    """

    def __init__(self, copy: Path) -> None:
        self.path = copy
        self._what = f"{copy} cannot be read"
        self._connection = open_reader(copy)
        try:
            with self.reading():
                self._connection.execute(sql("begin_reading"))
                found = read_device_id(self._connection)
                if found is None:
                    raise NotAnEdgeStoreFile(f"{copy} belongs to no box: it was never set up")
                timelines = self._connection.execute(sql("select_lake_timelines"))
                self.timelines = tuple(timeline for (timeline,) in timelines)
                self._present = {
                    (alias, name)
                    for alias, of in OF_ALIAS.items()
                    for name, _ in _columns(self._connection, of)
                }
        except BaseException:
            self._connection.close()
            raise
        self.device_id: DeviceId = found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connection.close()

    @property
    def connection(self) -> Connection:
        """What it is read by."""
        return self._connection

    def has(self, table: str) -> bool:
        """Whether the copy has a table of that name: an older box may lack it."""
        with self.reading():
            return bool(_columns(self._connection, table))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A box may have written what no edge-store writes: that is its own copy's failure."""
        with translated(self._what):
            try:
                yield
            except (TypeError, ValueError, OverflowError) as exc:  # Arrow's errors, too
                raise Corrupt(f"{self._what}: a value is none that a box writes: {exc}") from exc

    def points(self, table: str, marks: Marks) -> list[Point]:
        """The lake's points of this box, on the timelines that the copy knows."""
        return [
            point
            for timeline in self.timelines
            for point in marks.points(table, self.device_id, timeline)
        ]

    def known_point(self, table: str, marks: Marks) -> Point | None:
        """The point up to which all rows of the copy are in the lake: the newest that the copy
        holds, or held before it deleted it. None when it holds none.
        """
        for point in sorted(self.points(table, marks), key=lambda each: -each.seq):
            if self.holds(point):
                return point
        return None

    def is_passed(self, known: Point, table: str, marks: Marks) -> bool:
        """Whether the lake may have rows of the copy after a point that it holds: another copy,
        which went on from there as well, was exported further. It may, too, where there was no
        place for more points.
        """
        for timeline in self.timelines[self.timelines.index(known.timeline) :]:
            points = marks.points(table, self.device_id, timeline)
            if len(points) >= SLOTS_MAX or any(point.seq > known.seq for point in points):
                return True
        return False

    def holds(self, point: Point) -> bool:
        """Whether that result is in the copy, or was before it was deleted there; and whatever
        retention had deleted in the copy that was exported is deleted in this one, too. No copy
        holds a point that does not say what that was.
        """
        if point.retired is None:
            return False
        with self.reading():
            found = self._connection.execute(sql("select_lake_digest"), {"seq": point.seq})
            if all(mark_of(digest) != point.mark for (digest,) in found.fetchall()):
                return False
        return not point.retired or self.holds_deletion(point.retired, point.retired_mark)

    def holds_deletion(self, number: int, mark: int) -> bool:
        """Whether that very deletion is in the copy."""
        with self.reading():
            asked = {"number": number}
            row = self._connection.execute(sql("select_lake_deletion"), asked).fetchone()
            return row is not None and mark_of_deletion(*row) == mark

    def _retired(self, table: str) -> tuple[int, int]:
        """The newest deletion of that table's rows by retention, and its mark."""
        with self.reading():
            asked = {"content": table == "requests"}
            row = self._connection.execute(sql("select_lake_retired"), asked).fetchone()
            return (0, 0) if row is None else (int(row[0]), mark_of_deletion(*row[1:]))

    def steps(self, table: str, after: int, buckets: int) -> Iterator[Step]:
        """The rows after that seq, in steps: each of a span of seq on one timeline, with rows or
        without.
        """
        schema, retired = schema_of(table), self._retired(table)
        statement = self._statement(table)
        bucket = bucket_of(self.device_id, buckets)
        results = RESULTS_AT_FIRST
        while True:
            with self.reading():
                asked = {"after": after, "results": results}
                end = self._connection.execute(sql("select_lake_step"), asked).fetchone()
                if end is None:
                    return
                seq, timeline, digest = end
                point = Point(timeline, int(seq), mark_of(digest), *retired)
                with _no_collection():
                    span = {"after": after, "upto": seq}
                    rows = self._connection.execute(statement, span).fetchall()
                    batch = self._batch(rows, schema, bucket)
            yield Step(batch, point)
            after = seq
            if batch.nbytes > STEP_BYTES:
                results = max(1, results // 2)
            elif batch.nbytes <= STEP_BYTES // 2:
                results = min(RESULTS_PER_STEP, results * 2)

    def _statement(self, table: str) -> str:
        """Of what the copy's schema lacks, NULL."""

        def present(match: re.Match[str]) -> str:
            return match[0] if (match[1], match[2]) in self._present else f"NULL AS {match[2]}"

        head, rest = sql(TABLES[table]).split("FROM", 1)
        return f"{COLUMN.sub(present, head)}FROM{rest}"

    def _batch(self, rows: list[tuple[Any, ...]], schema: pa.Schema, bucket: int) -> pa.RecordBatch:
        if not rows:
            return pa.RecordBatch.from_pylist([], schema=schema)
        columns = zip(zip(*rows, strict=True), schema, strict=False)
        arrays = [_array(values, field.type) for values, field in columns]
        boxes = pc.unique(arrays[schema.get_field_index("device_id")]).to_pylist()
        if boxes != [self.device_id]:
            others = ", ".join(sorted(map(str, {*boxes} - {self.device_id})))
            raise Corrupt(f"{self._what}: it is {self.device_id}'s and has results of {others}")
        created_at = arrays[schema.get_field_index("created_at")]
        if created_at.null_count:
            raise Corrupt(f"{self._what}: a result has no created_at")
        span = pc.min_max(created_at).as_py()
        if not 0 <= span["min"] <= span["max"] <= CREATED_AT_MAX:
            worst = span["min"] if span["min"] < 0 else span["max"]
            raise Corrupt(f"{self._what}: a result's created_at is {worst}, which is in no year")
        arrays.append(pc.divide(created_at, DAY_MS).cast(pa.int32()).cast(pa.date32()))
        arrays.append(pa.repeat(pa.scalar(bucket, pa.int32()), len(rows)))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Rows are in no cycle: to look for one in each new seven hundred takes 5 % of the reading."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


def _array(values: tuple[Any, ...], of: pa.DataType) -> pa.Array:
    if values[0] is None and values.count(None) == len(values):
        return pa.nulls(len(values), of)  # a third of the columns of most boxes
    return pa.array(values, of)
