"""Carries what boxes have forgotten out in a table of the lake: rows go, and then their bytes.

How far the tombstones of a copy are carried out is a watermark too, of the copy's newest timeline:
``gone/<device id>/<timeline>/<kind>`` is the number of a tombstone, ``gone-mark/…`` begins a digest
of it, and ``noted/…``, the same as that, says that ``Tombstones`` has all up to it: an edge-store
that kept none does not write it. They are committed last, after the files that the rows were in are
removed; so whenever this process ends before, all is done again. That changes nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
from deltalake import QueryBuilder, write_deltalake

from edge_store.fleet.lake.append import properties
from edge_store.fleet.lake.store import Lake, Watermarks, lake_errors, said
from edge_store.fleet.lake.tables import PARTITION, Source, bucket_of, mark_of_deletion, schema_of
from edge_store.fleet.lake.tombstones import Tombstones, flag_of
from edge_store.ids import DeviceId
from edge_store.sql import sql

__all__ = ["Forgetter", "forgotten_in"]

WRITING_HOURS_MAX = 24  # from the writing of a file to its commit
IDS_PER_DELETE = 500  # in one predicate
KINDS = {  # blocks of lake.sql: those after a number, and one
    "results": ("select_lake_tombstones", "select_lake_deletion"),
    "others": ("select_lake_forgotten", "select_lake_forgotten_one"),
}


class Tombstone(NamedTuple):
    """``mark`` tells it from another of the same number, of a file that was set back."""

    number: int
    id: str
    mark: int


def forgotten_in(source: Source) -> frozenset[str]:
    """All ids that the copy says are forgotten."""
    return frozenset(each.id for kind in KINDS for each in _tombstones(source, kind, 0))


def _tombstones(source: Source, kind: str, after: int) -> Iterator[Tombstone]:
    if kind == "others" and not source.has("forgotten"):
        return  # an older box
    with source.reading():
        for number, name, at in source.connection.execute(sql(KINDS[kind][0]), {"after": after}):
            yield Tombstone(int(number), str(name), mark_of_deletion(name, at))


class Forgetter:
    """One table of a lake that is forgotten in. ``rows`` is how many went."""

    def __init__(self, lake: Lake, table: str, marks: Watermarks) -> None:
        self._lake = lake
        self._table = table
        self._delta = marks.tables[table]
        self._transactions = marks.transactions[table]
        self._buckets = marks.buckets
        self._reached: dict[str, int] = {}
        self._is_due = False
        self.rows = 0

    def forget(self, source: Source) -> int:
        """Delete what the copy has new tombstones of; how many rows went. Nothing waits to be
        appended by the same table that is open here.

        Raises:
            StoreError: the copy cannot be read.
            LakeFailed: not all of it is deleted.
        """
        timeline = source.timelines[-1] if source.timelines else "none"
        gone = 0
        for kind in KINDS:
            name = f"{source.device_id}/{timeline}/{kind}"
            new = list(_tombstones(source, kind, self._known(source, name, kind)))
            if not new:
                continue
            self._is_due = True
            ids = sorted({each.id for each in new})
            Tombstones(self._lake).add(source.device_id, ids)
            named = (f"box/{source.device_id}", flag_of(source.device_id))
            self._commit(dict.fromkeys(named, new[-1].number))
            gone += self._delete(source.device_id, ids)
            self._reached[f"gone/{name}"] = new[-1].number
            for kept in ("gone-mark", "noted"):
                self._reached[f"{kept}/{name}"] = new[-1].mark
        if self._is_due:
            with lake_errors(self._lake):
                self._transactions.look_again()
        self.rows += gone
        return gone

    def _commit(self, transactions: dict[str, int]) -> None:
        """No rows. Of a writer that has read an older copy of a box that is named, Delta refuses
        the rows: it looks again, and finds the tombstones.
        """
        with lake_errors(self._lake):
            self._delta.create_write_transaction(
                [],
                mode="append",
                schema=schema_of(self._table),
                partition_by=list(PARTITION),
                commit_properties=said("forgotten", transactions),
            )
            self._delta.update_incremental()

    def due(self, source: Source) -> frozenset[str]:
        """The ids that the copy says are forgotten, and that are not carried out in the table."""
        timeline = source.timelines[-1] if source.timelines else "none"
        names = {kind: f"{source.device_id}/{timeline}/{kind}" for kind in KINDS}
        return frozenset(
            each.id
            for kind, name in names.items()
            for each in _tombstones(source, kind, self._known(source, name, kind))
        )

    def _known(self, source: Source, name: str, kind: str) -> int:
        """The number of the last tombstone that is carried out; 0 when it is not the copy's, or
        that was done by an edge-store that kept no ``Tombstones``.
        """
        with lake_errors(self._lake):
            number = self._transactions.get(f"gone/{name}")
            mark = self._transactions.get(f"gone-mark/{name}")
            noted = self._transactions.get(f"noted/{name}")
        if number is None or noted != mark or (kind == "others" and not source.has("forgotten")):
            return 0
        with source.reading():
            asked = {"number": number}
            row = source.connection.execute(sql(KINDS[kind][1]), asked).fetchone()
        return number if row is not None and mark_of_deletion(*row) == mark else 0

    def _delete(self, device_id: DeviceId, ids: list[str]) -> int:
        gone = 0
        bucket = bucket_of(device_id, self._buckets)
        with lake_errors(self._lake):
            for start in range(0, len(ids), IDS_PER_DELETE):
                names = ", ".join(map(_quoted, ids[start : start + IDS_PER_DELETE]))
                where = (
                    f"bucket = {bucket} AND device_id = {_quoted(device_id)} AND id IN ({names})"
                )
                gone += self._delete_where(where)
        return gone

    def _delete_where(self, where: str) -> int:
        """By writing nothing over them: Delta's own delete leaves files whose texts are Arrow's
        ``string_view``, which pyarrow cannot filter.
        """
        count = f"SELECT count(*) AS rows FROM forgotten_in WHERE {where}"  # noqa: S608
        found = QueryBuilder().register("forgotten_in", self._delta).execute(count).read_all()
        rows = int(pa.table(found)["rows"][0].as_py())
        if rows:
            schema = pa.schema(self._delta.schema().to_arrow())
            write_deltalake(
                self._delta,
                pa.RecordBatchReader.from_batches(schema, []),
                mode="overwrite",
                predicate=where,
                writer_properties=properties(schema),
                commit_properties=said("forget"),
            )
        return rows

    def finish(self) -> None:
        """Remove the files that the deleted rows were in, and then note how far this came.

        Raises:
            LakeFailed: it is to be done again.
        """
        if not self._is_due:
            return
        with lake_errors(self._lake):
            # those no longer in force, and those of writers that were killed: not of one that runs
            for hours, is_full in ((0, False), (WRITING_HOURS_MAX, True)):
                self._delta.vacuum(
                    retention_hours=hours,
                    dry_run=False,
                    enforce_retention_duration=False,
                    full=is_full,
                    commit_properties=said("forget"),
                )
        self._commit(self._reached)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
