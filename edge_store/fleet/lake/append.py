"""Appends the rows of copies to one table of the lake, each commit with the watermarks it reaches.

Rows wait in memory until they are ``GROUP_BYTES``, then they are one commit: so the table holds all
rows up to its watermarks and none beyond, whenever this process ends. A commit that another writer
has overtaken, with rows of the same box, is refused by Delta, as both write that box's watermark.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import ColumnProperties, WriterProperties, write_deltalake

from edge_store.errors import LakeOvertaken
from edge_store.fleet.lake.store import (
    LEFT_OUT,
    Lake,
    Watermarks,
    kept_since,
    lake_errors,
    reached,
    said,
)
from edge_store.fleet.lake.tables import PARTITION, SLOTS_MAX, Point, Source, Step, schema_of
from edge_store.fleet.lake.tombstones import Tombstones, flag_of

__all__ = ["Appended", "Appender", "properties"]

GROUP_BYTES = 64 * 2**20  # as Arrow holds them; some 90,000 rows of results
ROWS_PER_GROUP = 131_072  # of a file of Parquet
# A dictionary of values that are all different only costs.
DIFFERENT = ("id", "seq", "boot_seq", "digest", "request_fingerprint", "output_text", "latency_ms",
             "input_text", "request_body", "response_body", "response_id", "trace_id")  # fmt: skip


class Appended(NamedTuple):
    """What became of a copy's rows: how many were appended; the ids that the table has with other
    content, appended all the same; how many were older than the table keeps, and left out.
    """

    rows: int
    conflicts: tuple[str, ...]
    too_old: int


class Appender:
    """One table of a lake that is appended to."""

    def __init__(self, lake: Lake, table: str, buckets: int) -> None:
        self._lake = lake
        self._table = table
        self.delta = lake.make(table, buckets)
        self._schema = schema_of(table)
        self.marks = Watermarks(lake, {table: self.delta})
        self.transactions = self.marks.transactions[table]
        self._since = kept_since(self.delta)
        self._batches: list[pa.RecordBatch] = []
        self._points: dict[tuple[str, str, int], Point] = {}
        self._notes: dict[str, int] = {}  # transactions of the next commit
        self._bytes = 0
        self.rows = 0

    def append(self, source: Source, forgotten: frozenset[str]) -> Appended:
        """All rows of the copy that the table lacks, but those that are forgotten or too old.

        Raises:
            StoreError: the copy cannot be read on. What was read before that is appended.
            LakeFailed: nothing of what waited was appended.
        """
        device_id = source.device_id
        if any(of == device_id for of, _, _ in self._points):
            self._flush_alone()  # a copy of the same box waits: it may hold the same rows
        known = source.known_point(self._table, self.marks)
        if known is None:
            is_compared = self.knows(device_id)
        else:
            is_compared = source.is_passed(known, self._table, self.marks)
        if is_compared:
            self._flush_alone()
        slots = self._slots(source, known)
        rows, conflicts, too_old = 0, list[str](), 0
        gone: frozenset[str] | None = None
        for step in source.steps(self._table, known.seq if known else 0, self.marks.buckets):
            young = self._young(step.batch)
            if young.num_rows < step.batch.num_rows:
                too_old += step.batch.num_rows - young.num_rows
                self._notes[f"{LEFT_OUT}/{device_id}"] = step.upto.seq
            if gone is None and young.num_rows:
                gone = forgotten | self._forgotten_here(device_id)
            batch = _without(young, gone or frozenset())
            if is_compared and batch.num_rows:
                batch, others = self._unknown(device_id, batch)
                conflicts += others
            self._take(device_id, Step(batch, step.upto), slots)
            rows += batch.num_rows
        return Appended(rows, tuple(dict.fromkeys(conflicts)), too_old)

    def knows(self, device_id: str) -> bool:
        """Whether the table has rows of that box."""
        with lake_errors(self._lake):
            return self.transactions.get(f"box/{device_id}") is not None

    def _forgotten_here(self, device_id: str) -> frozenset[str]:
        """What the box has told any centre to forget: this one's copies may not know it yet."""
        with lake_errors(self._lake):
            is_any = self.transactions.get(flag_of(device_id)) is not None
        return Tombstones(self._lake).of(device_id) if is_any else frozenset()

    def _slots(self, source: Source, known: Point | None) -> dict[str, int]:
        """Where the watermark of each timeline is kept: in the place of the one that the copy goes
        on from, or in a new one; in the last where there is no more (see ``Source.is_passed``).
        """
        slots = {}
        for timeline in source.timelines:
            points = self.marks.points(self._table, source.device_id, timeline)
            new = min(len(points), SLOTS_MAX - 1)
            slots[timeline] = points.index(known) if known in points else new
        return slots

    def _take(self, device_id: str, step: Step, slots: dict[str, int]) -> None:
        timeline = step.upto.timeline
        self._points[device_id, timeline, slots.get(timeline, 0)] = step.upto
        if step.batch.num_rows:
            self._batches.append(step.batch)
            self._bytes += step.batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            LakeFailed: nothing of it is in the table.
        """
        if not self._points and not self._notes:
            return
        batches, points = self._batches, self._points
        self._batches, self._points, self._bytes = [], {}, 0
        rows = sum(batch.num_rows for batch in batches)
        transactions = reached(points) | self._notes
        self._notes = {}
        with lake_errors(self._lake):
            before = self.delta.version()
            write_deltalake(
                self.delta,
                pa.RecordBatchReader.from_batches(self._schema, batches),
                mode="append",
                schema_mode="merge" if self._differs() else None,
                writer_properties=properties(self._schema),
                commit_properties=said("export", transactions, rows=rows),
            )
            if self.delta.version() == before + 1:
                self.transactions.note(transactions)
            else:  # the table is open at what others wrote meanwhile: Delta would not refuse it
                self.transactions.look_again()
        self.rows += rows

    def _flush_alone(self) -> None:
        """Commit what waits while a copy is open that has not been looked at yet.

        Raises:
            LakeOvertaken: another writer was in between, who may have seen a newer copy.
        """
        before, waits = self.delta.version(), bool(self._points or self._notes)
        self.flush()
        if waits and self.delta.version() != before + 1:
            raise LakeOvertaken(
                f"the lake at {self._lake}: another writer was in between", hint="run it again"
            )

    def _differs(self) -> bool:
        """Whether the table has other columns than are appended: it was made by another version."""
        return {field.name for field in self.delta.schema().fields} != set(self._schema.names)

    def _young(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Without what is older than the table keeps."""
        if self._since is None or not batch.num_rows:
            return batch
        return batch.filter(pc.greater_equal(batch["date"], pa.scalar(self._since)))

    def _unknown(self, device_id: str, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[str]]:
        """The rows that the table does not have, and the ids of those that it has another of."""
        ids = batch["id"]
        first, last = pc.min(ids).as_py(), pc.max(ids).as_py()
        wanted = (
            (pc.field("bucket") == batch["bucket"][0])
            & (pc.field("device_id") == device_id)
            & (pc.field("id") >= first)
            & (pc.field("id") <= last)
            & pc.field("id").isin(ids)
        )
        with lake_errors(self._lake):
            dataset = self.delta.to_pyarrow_dataset()
            columns = [name for name in self._compared() if name in dataset.schema.names]
            here = set(_tuples(dataset.to_table(filter=wanted, columns=columns)))
        place = columns.index("id")
        here_ids = {row[place] for row in here}
        rows = list(_tuples(batch.select(columns)))
        is_new = [row not in here for row in rows]
        others = [
            str(row[place])
            for row, new in zip(rows, is_new, strict=True)
            if new and row[place] in here_ids and self._table == "results"
        ]
        return batch.filter(pa.array(is_new, pa.bool_())), others

    def _compared(self) -> list[str]:
        """What makes two rows the same: of a result its digest says that."""
        if self._table == "results":
            return ["id", "digest"]
        return [name for name in self._schema.names if name not in PARTITION]


def _without(batch: pa.RecordBatch, forgotten: frozenset[str]) -> pa.RecordBatch:
    if not forgotten or not batch.num_rows:
        return batch
    ids = batch["id"].to_pylist()
    return batch.filter(pa.array([each not in forgotten for each in ids], pa.bool_()))


def _tuples(rows: "pa.Table | pa.RecordBatch") -> Iterator[tuple[object, ...]]:
    return zip(*(rows[name].to_pylist() for name in rows.schema.names), strict=True)


def properties(schema: pa.Schema) -> WriterProperties:
    """How its files are written."""
    plain = ColumnProperties(dictionary_enabled=False)
    return WriterProperties(
        compression="ZSTD",
        compression_level=1,  # 3 takes a third more of the writing, for 2 % of the bytes
        max_row_group_size=ROWS_PER_GROUP,
        column_properties={name: plain for name in DIFFERENT if name in schema.names},
    )
