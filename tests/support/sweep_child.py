"""A writer's whole life, once for each system call that can fail in it:
``python -m support.sweep_child FOLDER ERROR KINDS passing|lasting STRIDE``.

Runs with ``syscall_faults.c`` preloaded, on ``FOLDER/results.db``. Each round opens, migrates,
commits, checkpoints, commits again and closes, and fails at the n-th call; the last round is the
first that meets no fault. Prints one line of JSON; any broken promise is a traceback.
"""

import asyncio
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from support.records import DEVICE, make_result
from support.syscall_faults import SyscallFaults

from edge_store.chain import verify_chain
from edge_store.config import RecorderSection
from edge_store.errors import DiskFull, EdgeStoreError, StoreError
from edge_store.identity import create_identity
from edge_store.observability.metrics import Metrics
from edge_store.recorder.batch import read_head
from edge_store.recorder.boot import begin_boot, end_boot
from edge_store.recorder.disk import Disk
from edge_store.recorder.slots import Slots
from edge_store.recorder.writer import Writer
from edge_store.result import Boot, Receipt, Result
from edge_store.schema import migrate
from edge_store.sqlite import (
    Connection,
    DatabaseThread,
    check_integrity,
    open_reader,
    open_writer,
    translated,
)
from edge_store.wal import checkpoint

DEADLINE_S = 60.0
CALLS_MAX = 2000  # more than any round makes; a sweep that reaches it does not end
BATCH = 3
STALLED = "may still be stored"  # by its COMMIT, which has taken longer than its caller waits


class Life:
    """One round."""

    def __init__(self, path: Path, faults: SyscallFaults, *, lasting: bool) -> None:
        self.path = path
        self.faults = faults
        self.lasting = lasting
        self.submitted: list[Result] = []
        self.acknowledged: set[str] = set()

    async def live(self) -> None:
        """From the opening to the end of the last connection."""
        database, boot = await self._started()
        config = RecorderSection(beat_s=0.02, commit_timeout_s=0.05 if self.lasting else DEADLINE_S)
        slots = Slots(config)
        head = await database.run(read_head)
        writer = Writer(database, boot, head, slots, Disk(self.path, 0), config, Metrics())
        slots.open()
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(writer.run())
            await self._work(writer, slots, boot)
            with suppress(StoreError):  # the next one does it
                await database.run(checkpoint)
            await self._work(writer, slots, boot)
            await self._work(writer, slots, boot)
            # after the fault everything is stored, once a COMMIT is within its short deadline
            while self.lasting and self.faults.hits and len(self.acknowledged) < BATCH:
                await self._work(writer, slots, boot)
            writer.close()
        if writer.is_sound:
            with suppress(StoreError):
                await database.run(end_boot, boot)
        await database.close()
        self.faults.mend()
        self._check(boot)

    async def _started(self) -> tuple[DatabaseThread, Boot]:
        try:
            return await self._start()
        except EdgeStoreError:
            assert self.faults.hits, "a start fails without a fault"
            self.faults.mend()
        return await self._start()

    async def _start(self) -> tuple[DatabaseThread, Boot]:
        database = await DatabaseThread.open(lambda: open_writer(self.path))
        try:
            return database, await database.run(_prepare)
        except BaseException:
            await database.close()
            raise

    async def _work(self, writer: Writer, slots: Slots, boot: Boot) -> None:
        """A batch; afterwards, a disk that failed for good is mended and admission opens."""
        held = [await slots.reserve() for _ in range(BATCH)]
        results = [make_result(slot.boot_seq, boot.boot_id) for slot in held]
        self.submitted += results
        outcomes = await asyncio.gather(
            *(writer.submit(result, slot) for result, slot in zip(results, held, strict=True)),
            return_exceptions=True,
        )
        self._note(outcomes)
        await slots.drained()
        if self.lasting and self.faults.hits:
            self.faults.mend()
        while slots.closed is not None:  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.002)

    def _note(self, outcomes: Sequence[Receipt | BaseException]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Receipt):
                self.acknowledged.add(outcome.id)
                continue
            assert isinstance(outcome, StoreError), outcome
            if self.lasting and STALLED in str(outcome):  # a slow machine needs no fault for it
                continue
            assert self.faults.hits, outcome
            assert self.lasting or isinstance(outcome, DiskFull), f"tried again: {outcome}"

    def _check(self, boot: Boot) -> None:
        ids = {result.id for result in self.submitted}
        reader = open_reader(self.path)
        try:
            assert check_integrity(reader, full=True) == "ok"
            check = verify_chain(reader)
            assert check.faults == (), check.faults
            stored = [row[0] for row in reader.execute("SELECT id FROM results")]
            lost = [row[0] for row in reader.execute("SELECT id FROM losses")]
            (admitted,) = reader.execute(
                "SELECT max(admitted_upto) FROM commits WHERE boot_id = ?", (boot.boot_id,)
            ).fetchone()
        finally:
            reader.close()
        assert len(stored) + len(lost) == len(ids), "each is stored once or lost once"
        assert set(stored) | set(lost) == ids
        assert self.acknowledged <= set(stored)
        assert admitted == len(ids)


def _prepare(connection: Connection) -> Boot:
    with translated("the database cannot be prepared"):
        migrate(connection)
        create_identity(connection, DEVICE)
        return begin_boot(
            connection, device_id=DEVICE, version="0", engine="demo", engine_version="0"
        )


def main(folder: Path, error: int, kinds: int, *, lasting: bool, stride: int) -> None:
    """The sweep. Files of a round that holds are deleted."""
    faults = SyscallFaults(Path(os.environ["FAULTS_CONTROL"]))
    path = folder / "results.db"
    lost = 0
    for at in range(1, CALLS_MAX, stride):
        faults.arm(at, lasting=lasting, error=error, kinds=kinds)
        life = Life(path, faults, lasting=lasting)
        try:
            asyncio.run(life.live())
        except BaseException:  # noqa: BLE001  (whatever it is, it is told)
            traceback.print_exc()
            print(f"the fault was at call {at}", file=sys.stderr, flush=True)
            os._exit(1)  # the thread of a database that is not closed would wait for ever
        lost += len(life.submitted) - len(life.acknowledged)
        for file in folder.glob("results.db*"):
            file.unlink()
        if not faults.hits:
            print(json.dumps({"calls": faults.calls, "rounds": at, "lost": lost}))
            return
    raise AssertionError(f"still a fault at call {CALLS_MAX}")


structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
main(
    Path(sys.argv[1]),
    int(sys.argv[2]),
    int(sys.argv[3]),
    lasting=sys.argv[4] == "lasting",
    stride=int(sys.argv[5]),
)
