"""One pass: settle what a cut one left, carry out what was forgotten, then rule by rule put away
and delete. It blocks, on a thread of its own; what it changes it asks for.

A cut anywhere loses nothing: a file is begun in the database before it is written, and counts only
once it was read back; its results are deleted after that, and what is left of them by the next
pass.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from edge_store.archive.aside import Aside
from edge_store.archive.ledger import (
    Archived,
    Begin,
    Checked,
    Numbered,
    expand,
    forgotten_in,
    ranges,
    read_archives,
    stale_in,
)
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import Job, Rewrite, Write, Written
from edge_store.clock import now_ms, utc_text
from edge_store.config import RetentionSection
from edge_store.errors import ArchiveFailed
from edge_store.identity import read_device_id
from edge_store.loggers import get_logger
from edge_store.recorder.deletions import What
from edge_store.recorder.transactions import COMING_S
from edge_store.result import Record
from edge_store.retention.alone import alone_at_it
from edge_store.retention.choice import (
    DAY_MS,
    PAGE_ROWS,
    Limits,
    Row,
    Rule,
    Step,
    excess,
    measure,
    pages,
    steps,
)
from edge_store.retention.deleting import ROW_S, DeleteOld
from edge_store.retention.floor import Floor
from edge_store.retention.standstill import Standstill, Stays
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, translated

__all__ = ["Done", "Make", "Pass"]

log = get_logger(__name__)

PART_ROWS = 4096  # of a file
PART_BYTES = 16 * 1024 * 1024  # of their values: the process holds some five times that

Make = Callable[[str, Record], Any]  # has a named change made, and waits for its COMMIT


class Done(Record, frozen=True, kw_only=True):
    """``kept_meanwhile``: what stays as it was pinned, held, needed or changed after it had been
    chosen. ``odd``: results that are not as they were committed, and so stay.
    """

    results: int = 0
    contents: int = 0
    files: int = 0
    bytes: int = 0
    kept_meanwhile: int = 0
    odd: int = 0
    rewritten: int = 0


class Pass:
    """``aside`` does the jobs of the archive: in a process, where it is not given. ``floor``: what
    the daemon knows of it; nothing goes for it without.
    """

    def __init__(
        self,
        path: Path,
        config: RetentionSection,
        make: Make,
        stop: threading.Event | None = None,
        aside: Callable[[Job], Written] | None = None,
        floor: Floor | None = None,
    ) -> None:
        self._path = path
        self._config = config
        self._make = make
        self._floor = floor or Floor(config)
        self._stop = stop or threading.Event()
        self._aside = aside or Aside(self._stop, self._are_results_coming)
        self._over = 0  # bytes that are too many
        self._newest, self._newest_at = 0, -math.inf  # result, and when it was seen
        self._row_s = ROW_S  # as the last deletion took
        self.stays = Stays()  # of what the rules of size looked through
        self._counts = dict.fromkeys(Done.__struct_fields__, 0)

    @property
    def done(self) -> Done:
        """So far."""
        return Done(**self._counts)

    def run(
        self, upto: int, standstill: Standstill | None = None, *, by_size: bool = False
    ) -> Done:
        """Do all of it, or what concerns the size alone; results after the seq ``upto`` stay. It
        ends early when ``stop`` is set. ``standstill`` is what passes before this one have found.

        Raises:
            ArchiveFailed: the archive; what is not in it stays.
            EdgeStoreError: what a change met.
        """
        known = standstill or Standstill()
        with self._at_work() as connection:
            self._require_mounted(connection)
            self.settle(connection)
            limits = Limits(upto, now_ms())
            known.look(connection)
            for step in steps(self._config, limits.now):
                if step.rule is not None and not by_size:
                    self._take(connection, step, limits, 0)
                elif step.rule is None:
                    self._make_room(connection, step, limits, known)
            self.rewrite_forgotten(connection)
        return self.done

    def forget(self) -> int:
        """Only what concerns what was forgotten; how many files were written anew. Raises as
        ``run``; it is pending then.
        """
        with self._at_work() as connection:
            self._require_mounted(connection)
            self.settle(connection)
            self.rewrite_forgotten(connection)
            left = {*forgotten_in(connection), *stale_in(connection)}
        if left:
            raise ArchiveFailed(f"{len(left)} files are where retention.archive does not lead")
        return self.done.rewritten

    @contextmanager
    def _at_work(self) -> Iterator[Connection]:
        with alone_at_it(self._path), closing(open_reader(self._path)) as self._reader:
            try:
                yield self._reader
            finally:
                if isinstance(self._aside, Aside):
                    self._aside.close()

    def _are_results_coming(self) -> bool:
        with translated("the newest result cannot be read"):
            (newest,) = self._reader.execute(sql("select_newest_seq")).fetchone()
        if newest != self._newest:
            self._newest, self._newest_at = newest, time.monotonic()
        return time.monotonic() - self._newest_at < COMING_S

    def settle(self, connection: Connection) -> None:
        """Finish what a cut pass left, or take it back."""
        for each in read_archives(connection, unsettled=True):
            if not self._reaches(each):
                continue
            number = Numbered(archive_no=each.archive_no)
            if each.verified_at is None:
                self._remove(each.file)
                self._make("archive.drop", number)
                continue
            if each.stale is not None:
                self._remove_stale(connection, each.archive_no, each.stale)
            if each.emptied_at is None:
                self._delete(each.what, expand(each.seqs), each.archive_no)
                if not self._stop.is_set():
                    self._make("archive.end", number)

    def rewrite_forgotten(self, connection: Connection) -> None:
        """Write files anew without what was forgotten since, and remove the old ones."""
        forgotten = forgotten_in(connection)
        for each in read_archives(connection) if forgotten else ():
            seqs = forgotten.get(each.archive_no)
            if seqs and not self._stop.is_set() and self._reaches(each):
                self._rewrite(connection, each, sorted(seqs))

    def _rewrite(self, connection: Connection, archive: Archived, seqs: list[int]) -> None:
        file = _renamed(archive.file)
        self._make("archive.intend_rewrite", Numbered(archive_no=archive.archive_no, file=file))
        job = Rewrite(url=self._config.archive, archive=archive, file=file, seqs=tuple(seqs))
        written = self._aside(Job(rewrite=job))
        self._hand_over(file, written)
        new = Checked(
            archive_no=archive.archive_no,
            file=file,
            seqs=written.seqs,
            bytes=written.bytes,
            sha256=written.sha256,
        )
        self._make("archive.end_rewrite", new)
        self._remove_stale(connection, archive.archive_no, archive.file)
        self._counts["rewritten"] += 1

    def _make_room(
        self, connection: Connection, step: Step, limits: Limits, known: Standstill
    ) -> None:
        (newest,) = connection.execute(sql("select_newest_seq")).fetchone()
        before = self.done
        self.stays = known.stays
        is_through = self._take(connection, step, limits, known.after(step.what))
        gone = self.done.results - before.results + self.done.contents - before.contents
        if is_through and not gone and self.done.kept_meanwhile == before.kept_meanwhile:
            known.note(step.what, min(newest, limits.upto))
            known.stays = self.stays

    def _take(self, connection: Connection, step: Step, limits: Limits, after: int) -> bool:
        """Whether all was looked at that the step might take."""
        parts = self._parts(connection, step, limits, after)
        left: list[Row] = []  # of a part that the floor took a piece of
        while not self._stop.is_set():
            size = measure(connection, self._path)
            rows = self._floor.rows(step.what, size)
            # where no more may go for the floor, the other rule still holds
            for_floor = self._floor.over(size) if rows else 0
            self._over, rule = excess(self._config, size, for_floor)
            if step.rule is None and self._over <= 0:
                return False
            part = _up_to(left, self._over) if left else next(parts, None)
            if part is None:
                return True
            if step.rule is None and rule is Rule.DISK_FLOOR:
                part, left = part[:rows], [*part[rows:], *left[len(part) :]]
                self._floor.took(step.what, len(part))
            else:
                left = left[len(part) :]
            self._put_away(connection, step.what, part)
        return False

    def _parts(
        self, connection: Connection, step: Step, limits: Limits, after: int
    ) -> Iterator[list[Row]]:
        """What goes into one file: of one day, so many, so large."""
        part: list[Row] = []
        size = 0
        for page in pages(connection, step, limits, after):
            if step.rule is None and step.what is What.RESULT:
                self.stays = self.stays.plus(page.kept)
            for row in page.rows:
                is_full = len(part) >= PART_ROWS or size + row[2] > PART_BYTES
                is_full = is_full or (step.rule is None and size >= self._over)
                if part and (is_full or part[0][1] // DAY_MS != row[1] // DAY_MS):
                    yield part
                    part, size = [], 0
                part.append(row)
                size += row[2]
        if part:
            yield part

    def _put_away(self, connection: Connection, what: What, part: Sequence[Row]) -> None:
        seqs = [row[0] for row in part]
        if not self._config.archive:
            self._delete(what, seqs, None)
            return
        device = read_device_id(connection)
        first = min(row[1] for row in part)
        file = (
            f"{device}/{what.value}s/date={utc_text(first, '%Y-%m-%d')}/"
            f"{seqs[0]:012d}-{seqs[-1]:012d}-{secrets.token_hex(4)}.parquet"
        )
        begun = Begin(
            what=what,
            store=str(ArchiveStore(self._config.archive)),
            file=file,
            seqs=ranges(seqs),
            completed_from=first,
            completed_to=max(row[1] for row in part),
        )
        number = self._make("archive.begin", begun)
        self._write(number, file, what, seqs)

    def _write(self, number: int, file: str, what: What, seqs: Sequence[int]) -> None:
        job = Write(
            database=str(self._path),
            url=self._config.archive,
            file=file,
            what=what,
            seqs=tuple(seqs),
        )
        try:
            written = self._aside(Job(write=job))
        except ArchiveFailed:
            if not self._stop.is_set():  # else a store that is away would hold the stop up
                with suppress(ArchiveFailed):  # then the next pass takes it back
                    self._remove(file)
                    self._make("archive.drop", Numbered(archive_no=number))
            raise
        if written.odd:
            log.error("results_not_archived", count=len(written.odd), first_seq=written.odd[0])
            self._counts["odd"] += len(written.odd)
        self._hand_over(file, written)
        if not written.seqs:
            self._make("archive.drop", Numbered(archive_no=number))
            return
        checked = Checked(
            archive_no=number,
            file=file,
            seqs=written.seqs,
            bytes=written.bytes,
            sha256=written.sha256,
        )
        self._make("archive.verified", checked)
        self._counts["files"] += 1
        self._counts["bytes"] += written.bytes
        self._delete(what, expand(written.seqs), number, written.said)
        if not self._stop.is_set():
            self._make("archive.end", Numbered(archive_no=number))

    def _delete(
        self,
        what: What,
        seqs: Sequence[int],
        archive_no: int | None,
        said: tuple[int, int] | None = None,
    ) -> None:
        for first in range(0, len(seqs), PAGE_ROWS):
            if self._stop.is_set():
                return
            some = tuple(seqs[first : first + PAGE_ROWS])
            params = DeleteOld(
                seqs=some, what=what, archive_no=archive_no, said=said, row_s=self._row_s
            )
            answer = self._make("retention.delete", params)
            self._row_s = answer["row_s"]
            self._counts["results" if what is What.RESULT else "contents"] += answer["count"]
            self._counts["kept_meanwhile"] += answer["kept"]

    def _require_mounted(self, connection: Connection) -> bool:
        """Whether a file shows that the archive is there; there may be none."""
        for each in reversed(read_archives(connection) if self._config.archive else ()):
            if each.verified_at is None or not each.rows or not self._reaches(each):
                continue
            if ArchiveStore(self._config.archive).is_away(each.file):
                raise self._not_mounted(each.file)
            return True
        return False

    def _not_mounted(self, file: str) -> ArchiveFailed:
        return ArchiveFailed(
            f"{file} is not in the archive {ArchiveStore(self._config.archive)}: is its disk "
            "mounted?",
            hint="nothing is archived or deleted until it is there",
        )

    def _reaches(self, archive: Archived) -> bool:
        """Whether it lies where files are put now."""
        if self._config.archive and str(ArchiveStore(self._config.archive)) == archive.store:
            return True
        log.warning("archive_elsewhere", archive_no=archive.archive_no, store=archive.store)
        return False

    def _remove_stale(self, connection: Connection, number: int, file: str) -> None:
        """No row names it after that: so it is to be seen that it is not only away."""
        store = ArchiveStore(self._config.archive)
        if store.is_folder_away(file) and not self._require_mounted(connection):
            raise self._not_mounted(file)
        store.delete(file)
        self._make("archive.clear_stale", Numbered(archive_no=number, file=file))
        store.tidy(file)

    def _hand_over(self, file: str, written: Written) -> None:
        if written.seqs:
            ArchiveStore(self._config.archive).hand_over(file, self._path)

    def _remove(self, file: str) -> None:
        store = ArchiveStore(self._config.archive)
        store.delete(file)
        store.tidy(file)


def _up_to(rows: list[Row], size: int) -> list[Row]:
    """The first of them, until they are of ``size`` bytes."""
    sizes = accumulate(row[2] for row in rows)
    enough = (number for number, each in enumerate(sizes, 1) if each >= size)
    return rows[: next(enough, len(rows))]


def _renamed(file: str) -> str:
    """The name of what takes its place: its last part says which writing it is."""
    return f"{file.removesuffix('.parquet')[:-8]}{secrets.token_hex(4)}.parquet"
