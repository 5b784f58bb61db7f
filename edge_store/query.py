"""Read-only SQL with limits: what ``edge-store query``, the fleet and the API let a person run.

Four walls, each enough for most accidents: ``mode=ro``, ``query_only``, an authorizer that allows
reading only, and a deadline checked by SQLite itself. A cut result says that it is cut.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from edge_store.errors import QueryRefused
from edge_store.result import Record
from edge_store.sqlite import Connection, driver

__all__ = [
    "LISTED", "SQL_CHARS_MAX", "TIMEOUT_S_MAX", "QueryResult", "bounded", "run_query",
    "unique_names", "without_value",
]  # fmt: skip

STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
SQL_CHARS_MAX = 100_000
RESULT_BYTES_MAX = 128 * 1024 * 1024  # of text and blobs: the daemon lives in the same memory
TIMEOUT_S_MAX = 24 * 3600

READING = frozenset(
    {driver.SQLITE_SELECT, driver.SQLITE_READ, driver.SQLITE_FUNCTION, driver.SQLITE_RECURSIVE}
)
READING_PRAGMAS = frozenset(
    {
        "application_id",
        "compile_options",
        "data_version",
        "foreign_key_list",
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
LISTED = '`edge-store query "select name from sqlite_schema"` lists tables and views'


class QueryResult(Record, frozen=True, kw_only=True):
    """Column names, rows in order, and whether rows beyond the cap were left out. ``unused``: names
    of values that the statement does not ask for.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    is_cut: bool
    unused: tuple[str, ...] = ()


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


def run_query(
    connection: Connection,
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    rows_max: int,
    timeout_s: float,
) -> QueryResult:
    """Run one statement that only reads.

    Raises:
        QueryRefused: it does not parse, would write, or ran longer than ``timeout_s``.
    """
    if not 0 < timeout_s <= TIMEOUT_S_MAX:  # also refuses NaN, which no deadline ever passes
        raise QueryRefused(f"a time limit of {timeout_s} s is not between 0 and {TIMEOUT_S_MAX}")
    if len(statement) > SQL_CHARS_MAX:
        raise QueryRefused(f"the SQL has {len(statement)} characters; {SQL_CHARS_MAX} are allowed")
    deadline = time.monotonic() + timeout_s
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
    try:
        values = Values(params)
        cursor = connection.execute(statement, values)
        if cursor.description is None:
            raise QueryRefused(
                "the SQL holds no statement", hint='as in "select * from generations"'
            )
        rows, is_cut = bounded(cursor, rows_max)
        columns = unique_names(column[0] for column in cursor.description)
        cursor.close()
    # Warning: two statements, before Python 3.12; the last two: values that cannot be bound
    except (driver.Error, driver.Warning, ValueError, OverflowError) as exc:
        raise _refusal(exc, timeout_s) from exc
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
    unused = tuple(sorted(values.keys() - values.asked))
    return QueryResult(columns=columns, rows=rows, is_cut=is_cut, unused=unused)


def bounded(cursor: Iterable[tuple[Any, ...]], rows_max: int) -> tuple[list[tuple[Any, ...]], bool]:
    """Rows up to a number and a size, and whether there are more."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        if len(rows) == rows_max or size > RESULT_BYTES_MAX:
            return rows, True
        rows.append(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
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


def _refusal(exc: Exception, timeout_s: float) -> QueryRefused:
    match getattr(exc, "sqlite_errorcode", None):
        case driver.SQLITE_INTERRUPT:
            return QueryRefused(
                f"the query took longer than {timeout_s:g} s", hint="narrow it, or raise --timeout"
            )
        case driver.SQLITE_AUTH | driver.SQLITE_READONLY:
            return QueryRefused(
                f"the query is refused: {exc}", hint="only statements that read are allowed"
            )
        case None if isinstance(exc, UnicodeError):
            return QueryRefused("the query is refused: it is not a text in UTF-8")
        case None:  # the driver's own: it never reached SQLite
            return QueryRefused(
                f"the query is refused: {exc}",
                hint="run one statement, and give each :NAME in it a value",
            )
        case _:
            return QueryRefused(
                f"the query failed: {exc}",
                hint=LISTED,
            )
