"""Where a lake lies, its Delta tables, and its watermarks.

A folder, or a prefix in S3. Each table is a Delta table of its own, ``<lake>/<table>``. Its
watermarks are application transactions in its log, so that rows and watermark are one commit:
``rows/<device id>/<timeline>/<n>`` holds a seq, ``mark/<device id>/<timeline>/<n>`` the first 63
bits of that result's digest, ``retired/…`` and ``retired-mark/…`` name a deletion, 0 and 0 when
there is none (see ``tables.Point``), and each box of a commit is named by ``box/<device id>``.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from edge_store.errors import ConfigError, LakeFailed, LakeOvertaken, NotFound
from edge_store.fleet.lake.tables import (
    BUCKETS_DEFAULT,
    PARTITION,
    SLOTS_MAX,
    Point,
    schema_of,
)
from edge_store.fleet.lake.transactions import Transactions
from edge_store.replica.location import Location, Scheme, parse_location, read_credentials

__all__ = [
    "KEPT_SINCE",
    "LEFT_OUT",
    "Lake",
    "Watermarks",
    "kept_since",
    "lake_errors",
    "reached",
    "said",
    "watermarks",
]

BUCKETS_KEY = "edge_store.buckets"
# A property of a table, and so of its metadata: of a writer that has not seen it, Delta refuses the
# rows. What is older than that day was let go, and does not come again.
KEPT_SINCE = "edge_store.kept_since"
KINDS = ("rows", "mark", "retired", "retired-mark")  # of a point, in the order of its fields
LEFT_OUT = "too-old"  # …/<device id>: rows of it came too late, and were left out
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONFIGURATION = {
    # of the others statistics would only make the log long
    "delta.dataSkippingStatsColumns": "device_id,timeline,seq,id,created_at",
    "delta.checkpointInterval": "50",
}


class Lake:
    """A lake by its address. Nothing is read or made before it is asked for."""

    def __init__(self, url: str, *, key: str = "--lake") -> None:
        self.location = parse_location(url, key=key)
        if self.location.scheme not in (Scheme.FILE, Scheme.S3):
            raise ConfigError(
                f"{key}: a lake lies in a folder or in S3, not at {self.location}",
                hint="use a folder, or s3://bucket/prefix?endpoint=…",
            )
        self.options = _storage_options(self.location)

    def __str__(self) -> str:
        return str(self.location)

    def uri(self, table: str) -> str:
        """As Delta readers take it, with ``options``."""
        if self.location.scheme is Scheme.FILE:
            return str(Path(self.location.path, table))
        return "/".join(
            part for part in (f"s3://{self.location.bucket}", self.location.path, table) if part
        )

    def find(self, table: str) -> DeltaTable | None:
        """The table as it is now; None before it was made."""
        with lake_errors(self):
            try:
                return DeltaTable(self.uri(table), storage_options=self.options)
            except TableNotFoundError:
                return None

    def open(self, table: str) -> DeltaTable:
        """The table as it is now.

        Raises:
            NotFound: it was never made.
        """
        found = self.find(table)
        if found is None:
            raise NotFound(
                f"there is no table {table} at {self}",
                hint="`edge-store fleet export` makes it",
            )
        return found

    def make(self, table: str, buckets: int) -> DeltaTable:
        """The table, made if there was none: then with so many buckets a day."""
        found = self.find(table)
        if found is not None:
            return found
        with lake_errors(self):
            return DeltaTable.create(
                self.uri(table),
                schema_of(table),
                mode="ignore",
                partition_by=list(PARTITION),
                name=table,
                configuration={**CONFIGURATION, BUCKETS_KEY: str(buckets)},
                storage_options=self.options,
                raise_if_key_not_exists=False,
            )


def _storage_options(location: Location) -> dict[str, str]:
    """As delta-rs takes them. Writes are conditional: a commit never replaces another."""
    if location.scheme is Scheme.FILE:
        return {}
    credentials = read_credentials(location)
    options = {
        "aws_region": location.region,
        "aws_conditional_put": "etag",
        "aws_virtual_hosted_style_request": str(not location.is_path_style).lower(),
    }
    if credentials is not None:
        options["aws_access_key_id"] = credentials.access_key_id
        options["aws_secret_access_key"] = credentials.secret_access_key
    if location.endpoint:
        options["aws_endpoint"] = location.endpoint
        options["aws_allow_http"] = str(location.endpoint.startswith("http://")).lower()
    return options


@contextmanager
def lake_errors(lake: Lake) -> Iterator[None]:
    """Turn the errors of Delta and its store into ours."""
    try:
        yield
    except CommitFailedError as exc:
        raise LakeOvertaken(
            f"the lake at {lake}: another writer was faster: {_plain(exc)}", hint="run it again"
        ) from exc
    except (DeltaError, OSError) as exc:
        raise LakeFailed(
            f"the lake at {lake}: {_plain(exc)}",
            hint="see docs/operations.md; it may be tried again",
        ) from exc


def _plain(exc: Exception) -> str:
    """What it says, in one line: Delta's errors have several, in colours."""
    return " ".join(COLOUR.sub("", str(exc)).split())


class Watermarks:
    """The watermarks of a lake, as each table was when this was made."""

    def __init__(self, lake: Lake, tables: Mapping[str, DeltaTable]) -> None:
        self._lake = lake
        self.tables = tables
        with lake_errors(lake):
            self.transactions = {
                name: Transactions(delta, lake.options) for name, delta in tables.items()
            }
        self.buckets = min(map(_buckets, tables.values()), default=BUCKETS_DEFAULT)

    def points(self, table: str, device_id: str, timeline: str) -> tuple[Point, ...]:
        """Those of one box on one timeline."""
        return tuple(self._points(table, device_id, timeline))

    def _points(self, table: str, device_id: str, timeline: str) -> Iterator[Point]:
        known = self.transactions.get(table)
        if known is None:
            return
        with lake_errors(self._lake):
            for slot in range(SLOTS_MAX):
                name = f"{device_id}/{timeline}/{slot}"
                seq = known.get(f"rows/{name}")
                if seq is None:
                    return
                mark, retired, retired_mark = (known.get(f"{kind}/{name}") for kind in KINDS[1:])
                yield Point(timeline, seq, mark or 0, retired, retired_mark or 0)


def watermarks(lake: Lake) -> Watermarks:
    """What is in the lake, as of now. Its ``tables`` are those that exist, each at one version: a
    reader that takes rows from those, and the rest by ``rows_after``, has each row once.
    """
    found = {name: lake.find(name) for name in ("results", "outputs", "requests")}
    return Watermarks(lake, {name: delta for name, delta in found.items() if delta is not None})


def _buckets(delta: DeltaTable) -> int:
    return int(delta.metadata().configuration.get(BUCKETS_KEY, BUCKETS_DEFAULT))


def kept_since(delta: DeltaTable) -> date | None:
    """The first day that the table keeps; None: it keeps all."""
    day = delta.metadata().configuration.get(KEPT_SINCE)
    return None if day is None else date.fromisoformat(day)


def reached(points: Mapping[tuple[str, str, int], Point]) -> dict[str, int]:
    """The transactions of watermarks by (device id, timeline, slot). Of two commits that name one
    box, and know nothing of each other, Delta refuses the second.
    """
    found: dict[str, int] = {}
    for (device_id, timeline, slot), point in points.items():
        name = f"{device_id}/{timeline}/{slot}"
        values = zip(KINDS, point[1:], strict=True)
        found |= {f"{kind}/{name}": value for kind, value in values if value is not None}
        found[f"box/{device_id}"] = point.seq
    return found


def said(what: str, transactions: Mapping[str, int] | None = None, **more: int) -> CommitProperties:
    """A commit that says what it is."""
    return CommitProperties(
        custom_metadata={"edge_store": what, **{name: str(more[name]) for name in more}},
        app_transactions=[Transaction(*each) for each in (transactions or {}).items()] or None,
    )
