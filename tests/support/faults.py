"""A connection whose n-th operation fails, as SQLite's own tests do it (malloc_common.tcl)."""

from collections.abc import Callable
from typing import Any

from edge_store.sqlite import Connection, driver


class Faults:
    """Counts operations once armed; the ``at``-th fails, and if it lasts, those after it too."""

    def __init__(self, code: int, *, at: int, lasting: bool) -> None:
        self.code = code
        self.at = at
        self.lasting = lasting
        self.is_armed = False
        self.operations = 0
        self.hits = 0

    def pass_by(self) -> None:
        """One operation."""
        if not self.is_armed:
            return
        self.operations += 1
        if self.operations == self.at or (self.lasting and self.operations > self.at):
            self.hits += 1
            error = driver.OperationalError(f"injected fault {self.code}")
            error.sqlite_errorcode = self.code
            raise error

    def mend(self) -> None:
        """No fault from now on."""
        self.is_armed = False


class FaultyConnection:
    """A real connection behind ``Faults``."""

    def __init__(self, connection: Connection, faults: Faults) -> None:
        self._connection = connection
        self._faults = faults

    def execute(self, *args: Any) -> Any:
        self._faults.pass_by()
        return self._connection.execute(*args)

    def executemany(self, *args: Any) -> Any:
        self._faults.pass_by()
        return self._connection.executemany(*args)

    def close(self) -> None:
        self._connection.close()


def faulty(faults: Faults) -> Callable[[Connection], Any]:
    """To be given to ``recording(connected=…)``."""
    return lambda connection: FaultyConnection(connection, faults)
