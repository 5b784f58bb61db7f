"""Results that were made elsewhere, committed as those of this boot: while the daemon runs through
its slots and its writer, while it is stopped as a boot of their own. Either way each is admitted, a
row of a commit, and counted; what is here already, or was deleted here, is not taken again.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edge_store import __version__
from edge_store.clock import now_ms
from edge_store.errors import EdgeStoreError, StoreError
from edge_store.identity import read_device_id
from edge_store.loggers import get_logger
from edge_store.recorder.app import Recorder
from edge_store.recorder.batch import ChainHead, read_head, write_batch
from edge_store.recorder.boot import begin_boot, end_boot
from edge_store.recorder.disk import Disk
from edge_store.recorder.losses import Loss
from edge_store.recorder.transactions import in_transaction
from edge_store.result import Boot, Receipt, Record, Result, Said
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["BootOfItsOwn", "Intake", "Take", "Taken", "insert_said"]

log = get_logger(__name__)

ENGINE = "import"  # of a boot that takes nothing else
SLOTS_PART = 4  # a quarter of them at once: callers have the rest
DISK_FACTOR = 3  # a row lies in the WAL, in the file and in its indexes
ROW_BYTES = 1024


class Take(Record, frozen=True, kw_only=True):
    """Results, whose device, boot and number are replaced by this box's, and what was said of
    them.
    """

    results: tuple[Result, ...]
    said: tuple[Said, ...] = ()


class Taken(Record, frozen=True, kw_only=True):
    """What became of them. ``refused``: ids, and why."""

    taken: int = 0
    known: int = 0
    deleted: int = 0
    refused: tuple[tuple[str, str], ...] = ()


class Sorted(NamedTuple):
    """``fresh`` are those to take."""

    fresh: list[Result]
    taken: Taken


def sort_out(connection: Connection, results: Sequence[Result]) -> Sorted:
    """Those that are not here, were not deleted here, and whose line of a batch has no result."""
    fresh: list[Result] = []
    known = deleted = 0
    refused: list[tuple[str, str]] = []
    ids: set[str] = set()
    lines: set[tuple[str, str | None]] = set()
    for result in results:
        line = None
        if result.batch_id is not None and result.status == "completed":
            line = result.batch_id, result.custom_id
        asked = {"id": result.id, "batch_id": line and line[0], "custom_id": line and line[1]}
        row = connection.execute(sql("select_import_known"), asked).fetchone()
        is_here, was_deleted, has_result = map(bool, row)
        if is_here or result.id in ids:
            known += 1
        elif was_deleted:
            deleted += 1
        elif has_result or line in lines:
            why = f"its custom_id, {result.custom_id!r}, has a result in its batch already"
            refused.append((result.id, why))
        else:
            fresh.append(result)
            ids.add(result.id)
            if line is not None:
                lines.add(line)
    return Sorted(fresh, Taken(known=known, deleted=deleted, refused=tuple(refused)))


def insert_said(connection: Connection, said: Sequence[Said]) -> None:
    """Write what is not here yet, of results that are."""
    for each in said:
        for block, rows in (
            ("insert_import_annotation", each.annotations),
            ("insert_import_repair", each.repairs),
        ):
            for row in rows:
                connection.execute(sql(block), {**row, "id": each.id})


def size_of(results: Sequence[Result]) -> int:
    """Bytes that they take on the disk, about."""
    return DISK_FACTOR * sum(
        ROW_BYTES
        + len(result.content.request_body)
        + len(result.content.response_body)
        + len(result.content.input_text or "")
        + sum(len(output.output_text) for output in result.outputs)
        for result in results
    )


def _told(taken: Taken, results: Sequence[Result], outcomes: Sequence[Any]) -> Taken:
    """With what became of those that were handed over."""
    refused = [
        (result.id, str(outcome))
        for result, outcome in zip(results, outcomes, strict=True)
        if not isinstance(outcome, Receipt)
    ]
    return msgspec.structs.replace(
        taken, taken=len(results) - len(refused), refused=(*taken.refused, *refused)
    )


class Intake:
    """While the daemon runs. One caller at a time: what is here is looked up before it is taken."""

    def __init__(self, recorder: Recorder, boot: Boot, disk: Disk) -> None:
        self._recorder = recorder
        self._boot = boot
        self._disk = disk
        self._turn = asyncio.Lock()

    async def take(self, asked: Take) -> Taken:
        """Once it returns they are committed.

        Raises:
            DiskFull: they would take what is reserved for results of this box.
            Overloaded: all slots stayed taken; what was taken before is in.
            StoreError: one is not known to be committed.
        """
        async with self._turn:
            if (shortage := self._disk.refusal_of(size_of(asked.results))) is not None:
                raise shortage
            fresh, taken = await self._recorder.change(sort_out, asked.results)
            outcomes: list[Receipt | EdgeStoreError] = []
            part = max(1, self._recorder.slots.total // SLOTS_PART)
            for start in range(0, len(fresh), part):
                outcomes += await self._commit(fresh[start : start + part])
            if asked.said:
                await self._recorder.change(insert_said, asked.said)
            return _told(taken, fresh, outcomes)

    async def _commit(self, results: Sequence[Result]) -> list[Receipt | EdgeStoreError]:
        commits: list[asyncio.Future[Receipt]] = []
        try:
            for result in results:
                slot = await self._recorder.slots.reserve()
                ours = _as_ours(result, self._boot, slot.boot_seq)
                commits.append(self._recorder.enqueue(ours, slot))
        finally:  # those that are on their way are waited for: the next look-up must see them
            if commits:
                await asyncio.shield(asyncio.wait(commits))
        return [_outcome(commit) for commit in commits]


def _outcome(commit: asyncio.Future[Receipt]) -> Receipt | EdgeStoreError:
    exc = commit.exception()
    if exc is None:
        return commit.result()
    if isinstance(exc, EdgeStoreError):
        return exc
    raise exc


def _as_ours(result: Result, boot: Boot, boot_seq: int) -> Result:
    return msgspec.structs.replace(
        result, device_id=boot.device_id, boot_id=boot.boot_id, boot_seq=boot_seq
    )


class BootOfItsOwn:
    """While the daemon is stopped: the writer's connection, under the lock. The boot begins with
    the first result that is taken.
    """

    def __init__(self, connection: Connection, disk: Disk, source: str) -> None:
        self._connection = connection
        self._disk = disk
        self._source = source
        self._boot: Boot | None = None
        self._head = ChainHead(0, b"")
        self._admitted = 0
        self._losses: list[Loss] = []

    def take(self, asked: Take) -> Taken:
        """Commit them.

        Raises:
            DiskFull: they would take what is reserved for results of this box.
            StoreError: they are not committed.
        """
        if (shortage := self._disk.refusal_of(size_of(asked.results))) is not None:
            raise shortage
        with translated("what is here cannot be read"):
            fresh, taken = sort_out(self._connection, asked.results)
        outcomes = self._committed(fresh) if fresh else []
        if asked.said:
            in_transaction(self._connection, insert_said, asked.said)
        return _told(taken, fresh, outcomes)

    def _committed(self, fresh: Sequence[Result]) -> list[Receipt | EdgeStoreError]:
        boot = self._begun()
        ours = [_as_ours(each, boot, n) for n, each in enumerate(fresh, self._admitted + 1)]
        upto = self._admitted + len(ours)
        written = write_batch(self._connection, boot, self._head, upto, ours, self._losses)
        self._head, self._admitted = written.head, upto
        self._losses = [
            _loss(result, outcome)
            for result, outcome in zip(ours, written.outcomes, strict=True)
            if isinstance(outcome, EdgeStoreError)
        ]
        return written.outcomes

    def _begun(self) -> Boot:
        if self._boot is None:
            with translated("the import could not begin"):
                device_id = read_device_id(self._connection)
            if device_id is None:
                raise StoreError("the database belongs to no box", hint="edge-store init")
            self._boot = begin_boot(
                self._connection,
                device_id=device_id,
                version=__version__,
                engine=ENGINE,
                engine_version=self._source,
            )
            self._head = read_head(self._connection)
        return self._boot

    def end(self) -> None:
        """Its clean end, if it began."""
        if self._boot is None:
            return
        if self._losses:
            write_batch(self._connection, self._boot, self._head, self._admitted, (), self._losses)
        end_boot(self._connection, self._boot)


def _loss(result: Result, error: EdgeStoreError) -> Loss:
    return Loss(
        at=now_ms(),
        boot_id=result.boot_id,
        boot_seq=result.boot_seq,
        id=result.id,
        code=error.code,
        message=str(error),
    )
