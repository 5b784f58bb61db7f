"""The seams: what stands in the simulation where the daemon has a thread or a process."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.faults import Faults, FaultyConnection

from edge_store.errors import StoreError
from edge_store.recorder.batch import write_batch
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, driver, open_writer

if TYPE_CHECKING:
    from support.simulation.world import Life

__all__ = ["InlineReader", "NoJsonWorkers", "SimulatedThread"]

SLOW_COMMIT_S = 3.0
MAY_FAIL = ("write_batch", "end_boot", "_verified_head", "in_transaction")  # the rest: a start
FAULTS = (driver.SQLITE_BUSY, driver.SQLITE_IOERR, driver.SQLITE_FULL)


class FailingConnection(FaultyConnection):
    """A COMMIT that fails may have got in all the same: only the file can tell."""

    def __init__(self, connection: Connection, faults: Faults, chance: random.Random) -> None:
        super().__init__(connection, faults)
        self._chance = chance

    def execute(self, *args: Any) -> Any:
        is_uncertain = args[0] == sql("commit") and self._faults.code == driver.SQLITE_IOERR
        if is_uncertain and self._chance.random() < 0.5:
            cursor = self._connection.execute(*args)
            self._faults.pass_by()
            return cursor
        return super().execute(*args)


class SimulatedThread(DatabaseThread):
    """Calls the function on the loop, some time later, on a connection that may fail."""

    def __init__(self, life: "Life") -> None:
        self._life = life
        self._faults = Faults(driver.SQLITE_BUSY, at=0, lasting=False)

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        life, chance = self._life, self._life.chance
        is_slow = chance.random() < 0.03
        life.was_slow |= is_slow
        await life.while_alive(chance.uniform(0, SLOW_COMMIT_S if is_slow else 0.004))
        name = getattr(function, "__name__", "?")
        if name in MAY_FAIL:
            self._arm(name)
        was_open, hits = life.connection.in_transaction, self._faults.hits
        try:
            failing = FailingConnection(life.connection, self._faults, chance)
            result = function(failing, *args, **kwargs)
        except StoreError as exc:
            life.failures += 1
            life.last_mark_failed = (
                name == "_verified_head"
                or (function is write_batch and not args[3])
                or (life.last_mark_failed and function is not write_batch)
            )
            life.say(f"{name} fails: {exc.code}, {type(exc).__name__}")
            # The ROLLBACK may have failed too: the next failure must then end the transaction.
            if self._faults.hits == hits and (not was_open or life.connection.in_transaction):
                life.wrong.append(f"{name} failed by itself: {exc}")
            raise
        finally:
            self._faults.is_armed = False
        if function is write_batch:
            life.last_mark_failed = False
            life.say(f"commit of {len(args[3])}, admitted up to {args[2]}, seq {result.head.seq}")
        await life.while_alive(chance.uniform(0, 0.004))  # committed, and nobody knows it yet
        return result

    def _arm(self, name: str) -> None:
        chance, is_failing = self._life.chance, self._life.is_failing()
        operations, part = {"in_transaction": (25, 0.2), "end_boot": (4, 0.2)}.get(name, (7, 0.06))
        self._faults.code, self._faults.at = chance.choice(FAULTS), chance.randint(1, operations)
        self._faults.lasting = is_failing
        self._faults.operations = 0
        self._faults.is_armed = is_failing or chance.random() < part

    async def reopen(self) -> None:
        life = self._life
        await life.while_alive(life.chance.uniform(0, 0.004))
        if life.is_failing() and life.chance.random() < 0.5:
            life.last_mark_failed = True
            raise StoreError("the file cannot be opened")
        old, life.connection = life.connection, open_writer(life.world.path)
        old.close()
        life.say("the database is opened again")

    async def close(self) -> None:
        return


class InlineReader(DatabaseThread):
    """What looks an Idempotency-Key up: no request has one."""

    def __init__(self) -> None:
        return

    @classmethod
    async def open(cls, connect: Callable[[], Connection], path: Path | None = None) -> Self:
        return cls()

    async def close(self) -> None:
        return


class NoJsonWorkers:
    """In place of the worker processes: no request asks for JSON."""

    def __init__(self, _config: Any) -> None:
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        return
