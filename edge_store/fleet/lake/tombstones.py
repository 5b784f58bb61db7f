"""What boxes have forgotten, as a table of the lake: ``forgotten``, a row by (device_id, id).

Another centre's copies may have such rows yet, and are not to bring them back. Ids are added
before the table that is forgotten in names the box in a commit (``forgotten/<device id>``): so
whoever has read that table later finds them here, and of whoever has read it before, Delta refuses
the rows.
"""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from edge_store.fleet.lake.store import Lake, lake_errors, said
from edge_store.fleet.lake.tables import bucket_of

__all__ = ["FORGOTTEN", "Tombstones", "flag_of"]

FORGOTTEN = "forgotten"  # its folder in the lake
BUCKETS = 4
SCHEMA = pa.schema([("device_id", pa.string()), ("id", pa.string()), ("bucket", pa.int32())])


def flag_of(device_id: str) -> str:
    """The transaction of a table that says: of that box something is here."""
    return f"{FORGOTTEN}/{device_id}"


class Tombstones:
    """As they are whenever they are asked for."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def of(self, device_id: str) -> frozenset[str]:
        """The ids that a box has forgotten, as far as any centre has carried it out.

        Raises:
            LakeFailed: they cannot be read.
        """
        table = self._lake.find(FORGOTTEN)
        return frozenset() if table is None else self._read(table, device_id)

    def add(self, device_id: str, ids: Collection[str]) -> None:
        """Raises:
        LakeFailed: not all of them are there.
        """
        with lake_errors(self._lake):
            table = DeltaTable.create(
                self._lake.uri(FORGOTTEN),
                SCHEMA,
                mode="ignore",
                partition_by=["bucket"],
                name=FORGOTTEN,
                storage_options=self._lake.options,
            )
            new = sorted(set(ids) - self._read(table, device_id))
            if not new:
                return
            columns = [[device_id] * len(new), new, [bucket_of(device_id, BUCKETS)] * len(new)]
            rows = pa.table(columns, schema=SCHEMA)
            write_deltalake(table, rows, mode="append", commit_properties=said("forgotten"))

    def _read(self, table: DeltaTable, device_id: str) -> frozenset[str]:
        wanted = (pc.field("bucket") == bucket_of(device_id, BUCKETS)) & (
            pc.field("device_id") == device_id
        )
        with lake_errors(self._lake):
            rows = table.to_pyarrow_dataset().to_table(filter=wanted, columns=["id"])
        return frozenset(rows["id"].to_pylist())
