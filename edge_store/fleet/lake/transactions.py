"""All application transactions of a Delta table in one pass over its log.

``DeltaTable.transaction_version`` answers for one, and goes through all to find it: with the ten
that each of 10,000 boxes has, a question took 12 ms, and all of them would take twenty minutes.
Here the column ``txn`` of the newest checkpoint is read, and the commits after it. Where the log
has another shape than one checkpoint file and commits (a newer Delta's), each is asked for.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

__all__ = ["Transactions"]

LOG = "_delta_log"


class Transactions:
    """The transactions of a table as it was open; what is committed later is noted."""

    def __init__(self, delta: DeltaTable, options: Mapping[str, str]) -> None:
        self._delta = delta
        handler = DeltaStorageHandler(delta.table_uri, dict(options))
        self._files = pa_fs.PyFileSystem(handler)
        self._all: dict[str, int] | None = self._read(delta.version())

    def get(self, app_id: str) -> int | None:
        """The version of a transaction; None when there is none."""
        if self._all is None:
            return self._delta.transaction_version(app_id)
        return self._all.get(app_id)

    def look_again(self) -> None:
        """At the table as it is open now: others may have committed, too."""
        self._all = self._read(self._delta.version())

    def note(self, committed: Mapping[str, int]) -> None:
        """These are committed now."""
        if self._all is not None:
            self._all.update(committed)

    def _read(self, version: int) -> dict[str, int] | None:
        """None when the log is not as it is known here."""
        found: dict[str, int] = {}
        checkpoint = self._checkpoint()
        if checkpoint is not None:
            if {"parts", "v2Checkpoint"} & checkpoint.keys() or checkpoint["version"] > version:
                return None
            name = f"{LOG}/{checkpoint['version']:020}.checkpoint.parquet"
            with self._files.open_input_file(name) as file:
                rows = pq.read_table(file, columns=["txn"])["txn"].to_pylist()
            found = {row["appId"]: row["version"] for row in rows if row is not None}
        after = checkpoint["version"] + 1 if checkpoint else 0
        for number in range(after, version + 1):
            try:
                with self._files.open_input_stream(f"{LOG}/{number:020}.json") as stream:
                    lines = stream.read().splitlines()
            except FileNotFoundError:
                return None  # a checkpoint without _last_checkpoint
            # most lines are of files: they need no look
            actions = [json.loads(line) for line in lines if line.startswith(b'{"txn"')]
            found |= {each["txn"]["appId"]: each["txn"]["version"] for each in actions}
        return found

    def _checkpoint(self) -> dict[str, Any] | None:
        try:
            with self._files.open_input_stream(f"{LOG}/_last_checkpoint") as stream:
                found: dict[str, Any] = json.loads(stream.read())
        except FileNotFoundError:
            return None
        return found
