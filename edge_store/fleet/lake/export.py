"""Brings the lake up to the copies in a folder: what is new is appended, what is forgotten deleted.

Table by table, and copy by copy, older ones that are kept aside included. In tables that the lake
has and the plan does not name, it is forgotten only. Each table's commits have
watermarks of their own, so an export that ends anywhere is gone on with by the next, and no row is
there twice. A copy that cannot be read is reported; the others are exported.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from edge_store.errors import LakeFailed, LakeOvertaken, NotFound, StoreError
from edge_store.fleet.lake.append import Appender
from edge_store.fleet.lake.forget import Forgetter, forgotten_in
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import BUCKETS_DEFAULT, TABLES, TABLES_DEFAULT, Source, bucket_of
from edge_store.ids import DeviceId
from edge_store.replica.extent import DEVICE_ID
from edge_store.result import Record
from edge_store.search.file import is_index

__all__ = ["CopyReport", "ExportPlan", "TableReport", "export", "find_all_copies"]

ATTEMPTS = 4  # of one table, when another writer is in between


class ExportPlan(Record, frozen=True, kw_only=True):
    """Which copies go to which tables. ``buckets`` are those of a table that is made."""

    copies: tuple[Path, ...]
    tables: tuple[str, ...] = TABLES_DEFAULT
    buckets: int = BUCKETS_DEFAULT


class CopyReport(Record, frozen=True, kw_only=True):
    """What became of one copy for one table; without a table, it could not be opened.
    ``conflicts``: ids of which the lake had a row with other content; both are there.
    ``forgotten``: rows that were deleted. ``too_old``: rows that were left out, as they are older
    than the table keeps.
    """

    copy: Path
    table: str | None = None
    device_id: DeviceId | None = None
    rows: int = 0
    conflicts: tuple[str, ...] = ()
    forgotten: int = 0
    too_old: int = 0
    error: str | None = None
    code: str | None = None


class TableReport(Record, frozen=True, kw_only=True):
    """What became of one table: rows appended, deleted and left out; copies that failed."""

    table: str
    rows: int
    forgotten: int
    conflicts: int
    too_old: int
    failed: int
    seconds: float
    cpu_seconds: float


def find_all_copies(folder: Path) -> tuple[Path, ...]:
    """Every copy in a folder, older ones that are kept aside included.

    Raises:
        NotFound: there is none.
    """
    copies = (path for path in folder.glob("*.db") if not is_index(path))
    found = sorted(path for path in copies if DEVICE_ID.fullmatch(path.name.partition(".")[0]))
    if not found:
        raise NotFound(f"there is no copy in {folder}", hint="`edge-store fleet pull` brings them")
    return tuple(found)


def export(
    plan: ExportPlan, lake: Lake, on_report: Callable[[CopyReport], None] = lambda _report: None
) -> list[TableReport]:
    """Export each table; others are reported where something was forgotten in them, or failed.
    ``on_report`` is called for each copy that had something, or failed.

    Raises:
        LakeFailed: the lake cannot be written. Tables and copies before that are exported.
    """
    boxes, unread = _by_box(plan)
    for report in unread:
        on_report(report)
    others = [table for table in TABLES if table not in plan.tables and lake.find(table)]
    done = [
        _Table(plan, lake, table, on_report).export(boxes, len(unread))
        for table in (*plan.tables, *others)
    ]
    return [each for each in done if each.table in plan.tables or each.forgotten or each.failed]


def _by_box(plan: ExportPlan) -> tuple[list[list[Path]], list[CopyReport]]:
    """The copies of each box, boxes of one partition together; and those that cannot be opened."""
    boxes = defaultdict[DeviceId, list[Path]](list)
    unread = []
    for copy in plan.copies:
        try:
            with Source(copy) as source:
                boxes[source.device_id].append(copy)
        except StoreError as exc:
            unread.append(CopyReport(copy=copy, error=str(exc), code=exc.code))
    order = sorted(boxes, key=lambda each: (bucket_of(each, plan.buckets), each))
    return [boxes[device_id] for device_id in order], unread


class _Table:
    """One table of an export."""

    def __init__(
        self, plan: ExportPlan, lake: Lake, table: str, on_report: Callable[[CopyReport], None]
    ) -> None:
        self._plan = plan
        self._lake = lake
        self._table = table
        self._on_report = on_report
        self._rows = self._forgotten = self._conflicts = self._too_old = self._failed = 0

    def export(self, boxes: Sequence[Sequence[Path]], unread: int) -> TableReport:
        """Export it; so many copies could not be opened. Whoever is overtaken by another writer
        looks again at what the lake has.
        """
        began, cpu = time.monotonic(), time.process_time()
        for attempt in range(1, ATTEMPTS + 1):
            self._conflicts, self._too_old, self._failed = 0, 0, unread
            appender = Appender(self._lake, self._table, self._plan.buckets)
            try:
                self._export(boxes, appender)
                break
            except LakeFailed as exc:
                if attempt == ATTEMPTS or not self._is_overtaken(exc, appender):
                    raise
            finally:
                self._rows += appender.rows
        return TableReport(
            table=self._table,
            rows=self._rows,
            forgotten=self._forgotten,
            conflicts=self._conflicts,
            too_old=self._too_old,
            failed=self._failed,
            seconds=round(time.monotonic() - began, 3),
            cpu_seconds=round(time.process_time() - cpu, 3),
        )

    def _is_overtaken(self, exc: LakeFailed, appender: Appender) -> bool:
        """Also where a file is gone in which another writer has forgotten something meanwhile."""
        if isinstance(exc, LakeOvertaken):
            return True
        return self._lake.open(self._table).version() != appender.delta.version()

    def _export(self, boxes: Sequence[Sequence[Path]], appender: Appender) -> None:
        forgetter = Forgetter(self._lake, self._table, appender.marks)
        for copies in boxes:
            for report in self._export_box(copies, appender, forgetter):
                self._conflicts += len(report.conflicts)
                self._too_old += report.too_old
                self._failed += report.error is not None
                self._forgotten += report.forgotten
                if report.rows or report.forgotten or report.too_old or report.error:
                    self._on_report(report)
        appender.flush()
        forgetter.finish()

    def _export_box(
        self, copies: Sequence[Path], appender: Appender, forgetter: Forgetter
    ) -> Iterator[CopyReport]:
        """Append the rows of a box's copies, but those that one of them says are forgotten; then
        delete what they say of rows that the lake has already.
        """
        forgotten = frozenset[str]()
        for copy in copies if len(copies) > 1 else ():
            with suppress(StoreError), Source(copy) as source:  # it is reported below
                forgotten |= forgotten_in(source)
        for copy in copies:
            yield self._export_copy(copy, appender, forgetter, forgotten)

    def _export_copy(
        self, copy: Path, appender: Appender, forgetter: Forgetter, forgotten: frozenset[str]
    ) -> CopyReport:
        report = CopyReport(copy=copy, table=self._table)
        try:
            with Source(copy) as source:
                report = replace(report, device_id=source.device_id)
                try:
                    if self._table in self._plan.tables:
                        appended = appender.append(source, forgotten)
                        report = replace(report, **appended._asdict())
                except StoreError as exc:  # what it says is forgotten goes all the same
                    report = replace(report, error=str(exc), code=exc.code)
                if forgetter.due(source):
                    appender.flush()  # while rows wait, the open table must not move on
                    report = replace(report, forgotten=forgetter.forget(source))
        except StoreError as exc:
            report = replace(report, error=str(exc), code=exc.code)
        return report
