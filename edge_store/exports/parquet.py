"""Parquet (zstd), in folders by the UTC date of admission: ``date=…/part-FROM-TO.parquet``;
FROM and TO are the ``seq`` between which a part was made. What a kill left behind the mark has
larger ones, and is removed when the export goes on. It runs on the caller's thread, and holds one
part's columns.
"""

import os
from collections import Counter, defaultdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge_store.errors import ConfigError, InvalidRequest, install
from edge_store.exports.flat import columns, flat_rows
from edge_store.exports.kinds import Export, Fetched, Job
from edge_store.exports.mark import FOLDER_MODE, Mark, be_alone, sync_folder, written
from edge_store.exports.pages import Page
from edge_store.rows import whole_body
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["open_export"]

ROWS_PER_PART = 65_536
PART_BYTES = 64 * 2**20
PART = "part-{:019}-{:019}.parquet"
NO_DATE = "date=__HIVE_DEFAULT_PARTITION__"  # as Hive and Arrow name what has none
INTEGERS = frozenset(
    {"seq", "boot_seq", "hour", "schema_valid", "constraint_holds", "choices", "stream",
     "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "http_status"}
)  # fmt: skip
REALS = frozenset({"latency_ms", "ttft_ms", "queue_ms"})
TIMES = frozenset({"created_at", "completed_at"})
BODIES = ("request_body", "response_body")


def open_export(job: Job, mark: Mark) -> Export:
    """A folder of parts."""
    try:
        return ParquetExport(job, mark)
    except ImportError as exc:
        raise ConfigError(
            f"Parquet takes pyarrow, which is not installed: {exc}",
            hint=install("parquet"),
        ) from exc


class ParquetExport:
    """The folder. A part is written when there are enough rows for one, and at each sync."""

    def __init__(self, job: Job, mark: Mark) -> None:
        """Raises ``ImportError``, ``InvalidRequest``."""
        import pyarrow.parquet  # noqa: PLC0415  (an extra: slow to load, and maybe not there)

        self._pa = pyarrow
        self._names = columns() + (BODIES if job.bodies else ())
        self._created = self._names.index("created_at")
        self._schema = pyarrow.schema([(name, self._type(name)) for name in self._names])
        self._folder = Path(job.target)
        self.fetch = partial(_with_bodies if job.bodies else flat_rows, job)
        self._batches: list[Any] = []  # Arrow's, one of each page: a tenth of the rows as objects
        self._places: dict[str, list[int]] = defaultdict(list)  # by folder, in all batches
        self._rows = self._bytes = 0
        self._from = self._upto = mark.seq
        self._is_anew = job.restart and not mark.rows
        self._written: set[Path] = set()  # folders
        if self._folder.is_file():
            raise InvalidRequest(f"{self._folder} is a file", hint="name a folder")
        self._folder.mkdir(exist_ok=True, mode=FOLDER_MODE)
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            be_alone(self._lock, self._folder)
        except BaseException:
            os.close(self._lock)
            raise

    def begin(self) -> None:
        """Remove what lies behind the mark, and all there is of an export that begins anew."""
        sync_folder(self._folder.parent)
        for part in self._folder.glob("date=*/*part-*.parquet*"):
            numbers = part.name.removesuffix(".parquet").split("-")
            is_behind = numbers[-1].isdecimal() and int(numbers[-1]) > self._upto
            if part.name.startswith(".") or is_behind or self._is_anew:
                part.unlink()

    def _type(self, name: str) -> Any:
        if name in INTEGERS:
            return self._pa.int64()
        if name in REALS:
            return self._pa.float64()
        if name in TIMES:
            return self._pa.timestamp("ms", tz="UTC")
        return self._pa.binary() if name in BODIES else self._pa.string()

    def write(self, page: Page, _skipped: Counter[str]) -> int:
        """Gather them, or write a part."""
        self._upto = page.upto.seq
        if not page.rows:
            return 0
        for place, row in enumerate(page.rows, self._rows):
            self._places[_folder_of(row[self._created])].append(place)
        columns_of = zip(self._names, zip(*page.rows, strict=True), strict=True)
        arrays = [self._array(*column) for column in columns_of]
        self._batches.append(self._pa.record_batch(arrays, schema=self._schema))
        self._rows += len(page.rows)
        self._bytes += self._batches[-1].nbytes
        if self._rows >= ROWS_PER_PART or self._bytes >= PART_BYTES:
            self._write_part()
        return len(page.rows)

    def is_due(self) -> bool:
        """Once a part is there, and nothing is gathered behind it."""
        return bool(self._written) and not self._rows

    def sync(self) -> int:
        """Write what is gathered; the parts before are on the disk, and their names are now."""
        self._write_part()
        for folder in self._written:
            sync_folder(folder)
        if self._written:
            sync_folder(self._folder)
        self._written.clear()
        return 0

    def close(self) -> None:
        """What is gathered and not synced is not there."""
        os.close(self._lock)

    def _write_part(self) -> None:
        gathered = self._pa.Table.from_batches(self._batches, self._schema)
        for name, places in self._places.items():
            folder = self._folder / name
            folder.mkdir(exist_ok=True, mode=FOLDER_MODE)
            self._written.add(folder)
            table = gathered if len(self._places) == 1 else gathered.take(places)
            with written(folder / PART.format(self._from + 1, self._upto)) as made:
                self._pa.parquet.write_table(table, made, compression="zstd")
        self._batches, self._rows, self._bytes = [], 0, 0
        self._places.clear()
        self._from = self._upto

    def _array(self, name: str, values: tuple[Any, ...]) -> Any:
        found = [_moment(value) for value in values] if name in TIMES else values
        return self._pa.array(found, self._schema.field(name).type)


def _with_bodies(job: Job, connection: Connection, span: dict[str, Any]) -> Fetched:
    for seq, size, row in flat_rows(job, connection, span):
        found = connection.execute(sql("select_export_bodies"), {"seq": seq}).fetchone()
        sent, got = found or (b"", b"")
        sent = whole_body(connection, seq, sent)
        yield seq, size + len(sent) + len(got), (*row, sent, got)


def _folder_of(created_at: str | None) -> str:
    return f"date={created_at[:10]}" if created_at and _moment(created_at) else NO_DATE


def _moment(text: str | None) -> datetime | None:
    """None for what is in no year of a calendar."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except ValueError:
        return None
