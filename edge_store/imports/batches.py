"""Takes what a source yields in batches of bounded size, and counts what became of each row."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from edge_store.errors import ImportFailed
from edge_store.imports.sourced import Fault, Source, Sourced, named
from edge_store.recorder.intake import Take, Taken, size_of
from edge_store.result import Result, Said

__all__ = ["TOLD_MAX", "Counts", "Importing"]

ROWS_PER_BATCH = 256
BATCH_BYTES = 8 * 2**20
TOLD_MAX = 20  # rows that were not taken and are named one by one

Progress = Callable[[int, int], None]


class Counts(msgspec.Struct):
    """Rows by what became of them."""

    read: int = 0
    taken: int = 0
    known: int = 0
    deleted: int = 0
    refused: int = 0
    faults: int = 0

    @property
    def shown(self) -> dict[str, Any]:
        """For programs."""
        return msgspec.structs.asdict(self)

    @property
    def said(self) -> str:
        """For people, of an import that was cut."""
        open_ = self.read - self.taken - self.known - self.deleted - self.refused - self.faults
        return (
            f"{self.taken} taken, {self.known} here already, {self.deleted} deleted here before, "
            f"{self.refused} refused, {self.faults} malformed, {open_} read and not known to be in"
        )


class Importing:
    """``take`` commits a batch; ``redacted`` is what is written of a result; ``said`` tells.
    ``counts`` are true whenever it ends.
    """

    def __init__(
        self,
        take: Callable[[Take], Taken],
        redacted: Callable[[Result], Result],
        *,
        tenant: str | None,
        faults_max: int,
        said: Callable[[str], object],
        counts: Counts | None = None,
    ) -> None:
        self._take = take
        self._redacted = redacted
        self._tenant = tenant
        self._faults_max = faults_max
        self._say = said
        self._unit = "row"
        self.counts = Counts() if counts is None else counts
        self._batch: list[Result] = []
        self._said: list[Said] = []
        self._numbers: dict[str, int] = {}
        self._bytes = 0
        self._untold = 0

    def run(self, source: Source, progress: Progress) -> Counts:
        """All of its rows.

        Raises:
            ImportFailed: more are malformed than may be, or the source cannot be read on.
            EdgeStoreError: a batch was not taken; those before it are in.
        """
        self._unit = source.unit
        try:
            return self._run(source.rows, progress)
        finally:
            if self._untold:
                self._say(f"and {self._untold} more")

    def _run(self, rows: Iterable[Sourced | Fault], progress: Progress) -> Counts:
        for row in self._read(rows):
            self.counts.read += 1
            if isinstance(row, Fault):
                self._fault(row)
                continue
            try:
                result = named(row.result, self._tenant)
            except ValueError as exc:
                self._fault(Fault(row.number, str(exc)))
                continue
            self._add(row, self._redacted(result))
            if len(self._batch) >= ROWS_PER_BATCH or self._bytes >= BATCH_BYTES:
                self._flush()
                progress(self.counts.read, self.counts.taken)
        self._flush()
        progress(self.counts.read, self.counts.taken)
        return self.counts

    def _read(self, rows: Iterable[Sourced | Fault]) -> Iterator[Sourced | Fault]:
        try:
            yield from rows
        except ImportFailed:  # the source ends before its end
            self._flush()
            raise

    def _add(self, row: Sourced, result: Result) -> None:
        self._batch.append(result)
        self._numbers[result.id] = row.number
        self._bytes += size_of((result,))
        if row.said is not None and (row.said.annotations or row.said.repairs):
            self._said.append(row.said)

    def _fault(self, fault: Fault) -> None:
        self.counts.faults += 1
        self._tell(fault.number, fault.why)
        if self.counts.faults > self._faults_max:
            self._flush()
            count, unit = self.counts.faults, self._unit
            malformed = f"{count} {unit}s are" if count > 1 else f"1 {unit} is"
            raise ImportFailed(
                f"{malformed} malformed, and --faults-max is "
                f"{self._faults_max}; the last one is {self._unit} {fault.number}: {fault.why}",
                hint="is it the right --from? --faults-max lets more of them pass",
            )

    def _flush(self) -> None:
        if not self._batch:
            return
        taken = self._take(Take(results=tuple(self._batch), said=tuple(self._said)))
        self.counts.taken += taken.taken
        self.counts.known += taken.known
        self.counts.deleted += taken.deleted
        for name, why in taken.refused:
            self.counts.refused += 1
            self._tell(self._numbers[name], why)
        self._batch, self._said, self._numbers, self._bytes = [], [], {}, 0

    def _tell(self, number: int, why: str) -> None:
        if self.counts.faults + self.counts.refused <= TOLD_MAX:
            self._say(f"{self._unit} {number}: {why}")
        else:
            self._untold += 1
