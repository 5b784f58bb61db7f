"""Read-only SQL with limits: what ``edge-store query``, the fleet and the API let a person run.

Four walls, each enough for most accidents: ``mode=ro``, ``query_only``, an authorizer that allows
reading only, and a deadline checked by SQLite itself. A cut result says that it is cut.
``answering`` gives rows as they come, in batches; ``run_query`` holds them.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from edge_store.errors import QueryRefused
from edge_store.nearest import what_may_help
from edge_store.result import Record
from edge_store.sqlite import Connection, driver

__all__ = [
    "LISTED", "SQL_CHARS_MAX", "TIMEOUT_S_MAX", "Answer", "QueryResult", "answering", "bounded",
    "run_query", "unique_names", "without_value",
]  # fmt: skip

STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
SQL_CHARS_MAX = 100_000
RESULT_BYTES_MAX = 128 * 1024 * 1024  # of text and blobs: the daemon lives in the same memory
TIMEOUT_S_MAX = 24 * 3600
BATCH_ROWS_MIN, BATCH_ROWS_MAX = 16, 1024  # the first rows come soon, the others cheaply
BATCH_BYTES = 4 * 1024 * 1024  # about so much of texts and blobs

READING = frozenset(
    {driver.SQLITE_SELECT, driver.SQLITE_READ, driver.SQLITE_FUNCTION, driver.SQLITE_RECURSIVE}
)
READING_PRAGMAS = frozenset(
    {
        "application_id",
        "compile_options",
        "data_version",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "journal_mode",
        "page_count",
        "page_size",
        "table_info",
        "table_list",
        "table_xinfo",
        "user_version",
    }
)
READING_HINT = "only statements that read are allowed"
FORBIDDEN = "not authorized to use function"
LISTED = '`edge-store query "select name from sqlite_schema"` lists tables and views'


class QueryResult(Record, frozen=True, kw_only=True):
    """Column names, rows in order, and whether rows beyond the cap were left out. ``unused``: names
    of values that the statement does not ask for.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    is_cut: bool
    unused: tuple[str, ...] = ()

    def batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """All rows, as ``Answer`` gives them."""
        if self.rows:
            yield self.rows


class Values(dict[str, Any]):
    """The values of ``:NAME``, by name. The driver asks it for each that a statement has."""

    def __init__(self, params: Mapping[str, Any] | None) -> None:
        super().__init__(params or {})
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        if name not in self:
            raise without_value(name)
        return super().__getitem__(name)


def without_value(name: str) -> QueryRefused:
    """A statement asks for a value that it was not given."""
    return QueryRefused(f":{name} has no value", hint=f"give it one: -p {name} VALUE")


def _authorize(
    action: int, first: str | None, second: str | None, _db: str | None, _trigger: str | None
) -> int:
    if action in READING and second != "load_extension":
        return driver.SQLITE_OK
    if action == driver.SQLITE_PRAGMA and first in READING_PRAGMAS:
        # a value would set it, but for those that take the name of a table
        setting = second is not None and first in ("user_version", "application_id", "journal_mode")
        return driver.SQLITE_DENY if setting else driver.SQLITE_OK
    return driver.SQLITE_DENY


class Deadline:
    """When a statement must end. The time between its batches is not its own."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.at = time.monotonic() + timeout_s

    def is_past(self) -> bool:
        """For SQLite: whether to stop."""
        return time.monotonic() > self.at


class Answer:
    """Rows as they come, of ``answering``. ``is_cut``, ``count`` and ``unused`` are true of what
    has been taken. Until all are, or ``release`` is called, no checkpoint can begin the WAL of a
    live box anew; ``pausing`` is around the time that each batch is in another's hands, and
    ``ends_reading`` has the transaction end then that it was asked in.
    """

    pausing: Callable[[], AbstractContextManager[None]] = nullcontext
    ends_reading = False

    def __init__(
        self, connection: Connection, statement: str, values: Values, rows_max: int, until: Deadline
    ) -> None:
        self._connection, self._statement, self._values = connection, statement, values
        self._rows_max, self._until = rows_max, until
        self.count, self.is_cut = 0, False
        self._cursor = self._ask()
        if self._cursor.description is None:
            raise QueryRefused(
                "the SQL holds no statement", hint='as in "select * from generations"'
            )
        self.columns = unique_names(column[0] for column in self._cursor.description)
        self._is_fresh = True

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of values that the statement does not ask for."""
        return tuple(sorted(self._values.keys() - self._values.asked))

    def batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """All rows up to the cap, some at a time. Called again, the statement is run again.

        Raises:
            QueryRefused: it failed on the way, or ran too long.
        """
        if not self._is_fresh:
            self._cursor = self._ask()
        self._is_fresh, self.count, self.is_cut = False, 0, False
        size = BATCH_ROWS_MIN
        while rows := self._take(min(size, self._rows_max - self.count)):
            self.count += len(rows)
            size = min(BATCH_ROWS_MAX, 2 * size, max(1, BATCH_BYTES // (_bytes(rows[-1]) + 1)))
            paused = time.monotonic()
            with self.pausing():
                yield rows
            self._until.at += time.monotonic() - paused
        self.is_cut = self.count == self._rows_max and bool(self._take(1))
        self.release()

    def release(self) -> None:
        """Read no more."""
        self._cursor.close()
        if self.ends_reading:
            self._connection.set_authorizer(None)  # which lets no statement do that
            self._connection.rollback()
            self._connection.set_authorizer(_authorize)

    def _ask(self) -> Any:
        with self._refusing():
            return self._connection.execute(self._statement, self._values)

    def rows(self) -> Generator[tuple[Any, ...]]:
        """All rows, one by one: no more are read than are taken. Raises as ``batches``."""
        with self._refusing():
            try:
                yield from self._cursor
            finally:
                self.release()

    def _take(self, size: int) -> list[tuple[Any, ...]]:
        """The next rows, at most ``size``; fewer when some of them turn out to be large."""
        rows: list[tuple[Any, ...]] = []
        with self._refusing():
            while (left := min(BATCH_ROWS_MIN, size - len(rows))) > 0:
                some = self._cursor.fetchmany(left)
                rows += some
                if len(some) < left or len(rows) * _bytes(some[-1]) > BATCH_BYTES:
                    break
        return rows

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        # Warning: two statements, before Python 3.12; the last two: values that cannot be bound
        except (driver.Error, driver.Warning, ValueError, OverflowError) as exc:
            raise _refusal(exc, self._connection, self._statement, self._until) from exc


@contextmanager
def answering(
    connection: Connection,
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    rows_max: int,
    timeout_s: float,
) -> Iterator[Answer]:
    """One statement that only reads, as it answers. ``timeout_s`` is SQLite's alone: not of who
    takes the rows.

    Raises:
        QueryRefused: it does not parse, would write, or ran longer than ``timeout_s``.
    """
    if not 0 < timeout_s <= TIMEOUT_S_MAX:  # also refuses NaN, which no deadline ever passes
        raise QueryRefused(f"a time limit of {timeout_s} s is not between 0 and {TIMEOUT_S_MAX}")
    if len(statement) > SQL_CHARS_MAX:
        raise QueryRefused(f"the SQL has {len(statement)} characters; {SQL_CHARS_MAX} are allowed")
    until = Deadline(timeout_s)
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(until.is_past, STEPS_BETWEEN_CHECKS)
    try:
        yield Answer(connection, statement, Values(params), rows_max, until)
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


def run_query(
    connection: Connection,
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    rows_max: int,
    timeout_s: float,
) -> QueryResult:
    """Run one statement that only reads, and hold its rows.

    Raises:
        QueryRefused: it does not parse, would write, or ran longer than ``timeout_s``.
    """
    with answering(connection, statement, params, rows_max=rows_max, timeout_s=timeout_s) as answer:
        with closing(answer.rows()) as found:
            rows, is_cut = bounded(found, rows_max)
        return QueryResult(columns=answer.columns, rows=rows, is_cut=is_cut, unused=answer.unused)


def bounded(cursor: Iterable[tuple[Any, ...]], rows_max: int) -> tuple[list[tuple[Any, ...]], bool]:
    """Rows up to a number and a size, and whether there are more."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        if len(rows) == rows_max or size > RESULT_BYTES_MAX:
            return rows, True
        rows.append(row)
        size += _bytes(row)
    return rows, False


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, with a number after each that came before: a row is also shown as an object."""
    found: list[str] = []
    for name in names:
        count, unique = 1, name
        while unique in found:
            count += 1
            unique = f"{name}_{count}"
        found.append(unique)
    return tuple(found)


def _bytes(row: tuple[Any, ...]) -> int:
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def _refusal(
    exc: Exception, connection: Connection, statement: str, until: Deadline
) -> QueryRefused:
    match getattr(exc, "sqlite_errorcode", None):
        case driver.SQLITE_INTERRUPT:
            return QueryRefused(
                f"the query took longer than {until.timeout_s:g} s",
                hint="narrow it, or raise --timeout",
            )
        case driver.SQLITE_AUTH | driver.SQLITE_READONLY:
            return QueryRefused(f"the query is refused: {exc}", hint=READING_HINT)
        case driver.SQLITE_ERROR if FORBIDDEN in str(exc):  # a function has no code of its own
            return QueryRefused(f"the query is refused: {exc}", hint=READING_HINT)
        case None if isinstance(exc, UnicodeError):
            return QueryRefused("the query is refused: it is not a text in UTF-8")
        case None:  # the driver's own: it never reached SQLite
            is_no_utf8 = str(exc).startswith("Could not decode to UTF-8")
            return QueryRefused(
                f"the query is refused: {exc}",
                hint="such a text is shown as a BLOB: cast(… as blob), or hex(…)"
                if is_no_utf8
                else "run one statement, and give each :NAME in it a value",
            )
        case _:
            return QueryRefused(
                f"the query failed: {exc}",
                hint=what_may_help(connection, statement, str(exc), LISTED),
            )
