"""A lake with what copies have."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from edge_store.fleet.lake.store import Lake, commit_of, watermarks
from edge_store.fleet.lake.tables import PARTITION, Source, schema_of

__all__ = ["fill"]


def fill(lake: Lake, copies: Iterable[Path], tables: Iterable[str]) -> None:
    for table in tables:
        for copy in copies:
            delta, marks = lake.make(table, 4), watermarks(lake)
            with Source(copy) as source:
                after = source.known_upto(table, marks) or 0
                steps = list(source.steps(table, after, marks.buckets))
                if not steps:
                    continue
                point = steps[-1].upto
                write_deltalake(
                    delta,
                    pa.Table.from_batches([step.batch for step in steps], schema_of(table)),
                    mode="append",
                    partition_by=list(PARTITION),
                    commit_properties=commit_of({(source.device_id, point.timeline, 0): point}),
                )
