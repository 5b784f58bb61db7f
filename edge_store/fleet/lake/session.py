"""DuckDB for one question: statements that only read, under limits.

Nothing outside is reachable: no file, no network, no extension, no object of this process but those
that were registered. Memory is bounded; what does not fit in it goes to a folder that is gone
afterwards, and a statement that still does not fit is refused. Rows are read while they are made.
Values come out as SQLite's kinds: integer, float, text, bytes, None.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

import duckdb

from edge_store.errors import EdgeStoreError, LakeFailed, QueryRefused
from edge_store.query import (
    SQL_CHARS_MAX,
    TIMEOUT_S_MAX,
    QueryResult,
    bounded,
    unique_names,
    without_value,
)

__all__ = ["Session", "refused"]

MEMORY_MAX = "512MB"  # of DuckDB; beside it lie the Arrow batches that it reads
THREADS = 2
STREAM = "reading the stream registered as "
INTERRUPT_EVERY_S = 0.05
SIGNALS_EVERY_S = 0.2
LIMITS = {
    "memory_limit": MEMORY_MAX,
    "threads": str(THREADS),
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
LOCKS = ("SET TimeZone = 'UTC'", "SET enable_external_access = false",
         "SET lock_configuration = true")  # fmt: skip
EXPLAIN = re.compile(r"\s*explain\s+(?:analyze\s+)?", re.IGNORECASE)
# Of the functions that give tables. The others take a path, an address in memory, or SQL as a text.
TABLE_FUNCTIONS = frozenset(
    {"duckdb_columns", "duckdb_functions", "duckdb_views", "generate_series", "json_each",
     "json_tree", "pragma_table_info", "range", "repeat", "unnest"}
)  # fmt: skip
PARSED = '{"error":false'
TABLE_FUNCTION = re.compile(
    r'''"type":"TABLE_FUNCTION".*?"function_name":"((?:[^"\\]|\\.)*)"''', re.DOTALL
)
FENCE = "only the fleet's views are read, and no file"
WORD = re.compile(r"\w+")
NAMED = re.compile(r":(\w+)")
T = TypeVar("T")


class Session:
    """A database in memory, open from ``__enter__`` to ``__exit__``. For one thread."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="edge-store-fleet-")
        try:
            self.connection = duckdb.connect(
                ":memory:", config={**LIMITS, "temp_directory": self._folder.name}
            )
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.connection.close()
        self._folder.cleanup()

    def lock(self) -> None:
        """Cut it off from all but what is registered; for good."""
        for statement in LOCKS:
            self.connection.execute(statement)

    def run(
        self,
        statement: str,
        params: Mapping[str, Any] | None = None,
        *,
        rows_max: int,
        timeout_s: float,
    ) -> QueryResult:
        """Run one statement that only reads. Values are for its ``:name`` and ``$name``.

        Raises:
            QueryRefused: it does not parse, does more than read, or takes too long or too much.
        """
        if not 0 < timeout_s <= TIMEOUT_S_MAX:
            raise QueryRefused(
                f"a time limit of {timeout_s} s is not between 0 and {TIMEOUT_S_MAX}"
            )
        text, given = self._checked(statement, dict(params or {}))

        def work() -> QueryResult:
            cursor = self.connection.execute(text, given or None)
            names = unique_names(column[0] for column in cursor.description or ())
            rows, is_cut = bounded(_rows(cursor), rows_max)
            unused = tuple(sorted((params or {}).keys() - given.keys()))
            return QueryResult(columns=names, rows=rows, is_cut=is_cut, unused=unused)

        return self._limited(timeout_s, work)

    def scans(
        self, statement: str, params: Mapping[str, Any], timeout_s: float
    ) -> dict[str, set[str]] | None:
        """Which columns of which tables a statement reads; None where DuckDB does not tell."""
        text, given = self._checked(statement, dict(params))
        prefix = EXPLAIN.match(text)
        explained = f"EXPLAIN (FORMAT json) {text[prefix.end() if prefix else 0 :]}"
        try:
            ((_, plan),) = self._limited(
                timeout_s, lambda: self.connection.execute(explained, given or None).fetchall()
            )
        except QueryRefused:
            # DESCRIBE and the like cannot be explained: what is wrong with others, they say alone
            self.run(statement, params, rows_max=1, timeout_s=timeout_s)
            return None
        found: dict[str, set[str]] = {}
        for table, columns in _scans(json.loads(plan)):
            found.setdefault(table, set()).update(columns)
        return found

    def _checked(self, statement: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The statement with DuckDB's parameters, and the values of those that it has."""
        if len(statement) > SQL_CHARS_MAX:
            raise QueryRefused(
                f"the SQL has {len(statement)} characters; {SQL_CHARS_MAX} are allowed"
            )
        try:
            statement.encode()  # the tokenizer's error says nothing
            text = _with_dollars(statement, params)
            parsed = self.connection.extract_statements(text)
            prefix = EXPLAIN.match(text)
            inner = self.connection.extract_statements(text[prefix.end() :]) if prefix else parsed
            asked = {"statement": text[prefix.end() :] if prefix else text}
            ((tree,),) = self.connection.execute(
                "SELECT CAST(json_serialize_sql($statement) AS VARCHAR)", asked
            ).fetchall()
        except (duckdb.Error, UnicodeError) as exc:
            if isinstance(exc, duckdb.ParserException):
                self._require_values(statement, params)
            raise refused(exc) from exc
        if not parsed:
            raise QueryRefused(
                "the SQL holds no statement", hint='as in "select * from generations"'
            )
        if len(parsed) > 1:
            raise QueryRefused("the query is refused: it is more than one statement")
        if [each.type for each in inner] != [duckdb.StatementType.SELECT]:
            raise QueryRefused(
                f"the query is refused: it is of the kind {parsed[0].type.name}",
                hint="only statements that read are allowed",
            )
        for name in sorted(_table_functions(tree) - TABLE_FUNCTIONS):
            raise QueryRefused(f"the query is refused: it calls {name}", hint=FENCE)
        wanted = parsed[0].named_parameters
        for name in sorted(wanted - params.keys()):
            raise without_value(name)
        return text, {name: value for name, value in params.items() if name in wanted}

    def _require_values(self, statement: str, params: Mapping[str, Any]) -> None:
        """Refuse a statement that would parse if each ``:name`` of it had a value."""
        others = dict.fromkeys(NAMED.findall(statement))
        with suppress(duckdb.Error):
            for each in self.connection.extract_statements(_with_dollars(statement, others)):
                for name in sorted(each.named_parameters - params.keys()):
                    raise without_value(name)

    def _limited(self, timeout_s: float, work: Callable[[], T]) -> T:
        """Do it on a thread of its own, as DuckDB hears no signal while it works, and end it after
        that time, or when this thread is interrupted. An interrupt that comes before a statement
        is lost, so it is given until all has ended.
        """
        with ThreadPoolExecutor(1, "query") as thread:
            future = thread.submit(work)
            deadline = monotonic() + timeout_s
            try:  # in steps: a signal that another thread was given wakes nobody
                while not future.done() and (left := deadline - monotonic()) > 0:
                    wait([future], min(left, SIGNALS_EVERY_S))
                is_late = not future.done()
            finally:
                while not future.done():
                    self.connection.interrupt()
                    wait([future], INTERRUPT_EVERY_S)
        if is_late:
            raise QueryRefused(
                f"the query took longer than {timeout_s:g} s",
                hint="narrow it, or raise --timeout",
            ) from future.exception()
        try:
            return future.result()
        except (duckdb.Error, UnicodeError, OverflowError, ValueError) as exc:
            raise refused(exc) from exc


def refused(exc: Exception) -> EdgeStoreError:
    """DuckDB's error as ours: its first line, and what to do about it."""
    message = str(exc).partition("\n")[0].partition("Error: ")[2] or str(exc).partition("\n")[0]
    if message.startswith(STREAM):  # there is no class of its own for it
        return LakeFailed(
            f"a file of the lake cannot be read: {message.removeprefix(STREAM)}",
            hint="it may have been compacted, or something forgotten in it: ask again",
        )
    match exc:
        case duckdb.OutOfMemoryException():
            return QueryRefused(
                f"the query needs more than {MEMORY_MAX} of memory",
                hint="narrow it, as by date, or group by less",
            )
        case duckdb.InterruptException():
            return QueryRefused("the query was interrupted")
        case duckdb.PermissionException():
            return QueryRefused(f"the query is refused: {message}", hint=FENCE)
        case UnicodeError():
            return QueryRefused("the query is refused: it is not a text in UTF-8")
        case _:
            return QueryRefused(f"the query failed: {message}")


def _table_functions(tree: str) -> set[str]:
    """The functions that a statement takes tables from, as DuckDB's own parser has it. The tree may
    be deeper than Python reads JSON; a quote in a text of it is escaped.
    """
    if not tree.startswith(PARSED):  # every SELECT is; what is not, nobody has looked into
        raise QueryRefused("the query is refused: it cannot be looked into", hint=FENCE)
    return {json.loads(f'"{name}"').lower() for name in TABLE_FUNCTION.findall(tree)}


def _with_dollars(statement: str, params: Mapping[str, Any]) -> str:
    """``:name``, of a name that has a value, as DuckDB has it: ``$name``."""
    tokens = duckdb.tokenize(statement)
    if len(statement.encode()) != len(statement):  # it counts bytes
        data = statement.encode()
        tokens = [(len(data[:at].decode(errors="ignore")), kind) for at, kind in tokens]
    text = list(statement)
    for at, kind in tokens:
        if kind != duckdb.token_type.operator or statement[at : at + 1] != ":":
            continue
        name = WORD.match(statement, at + 1)
        if name and name[0] in params and statement[at - 1 : at] != ":":
            text[at] = "$"
    return "".join(text)


def _scans(nodes: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    for node in nodes:
        info = node.get("extra_info", {})
        if "Table" in info:
            columns = info.get("Projections", [])
            table = info["Table"].rpartition(".")[2]
            yield table, [columns] if isinstance(columns, str) else columns
        yield from _scans(node.get("children", ()))


def _rows(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while row := cursor.fetchone():
        yield tuple(_value(value) for value in row)


def _value(value: Any) -> Any:
    """As SQLite has it. A list or an object becomes JSON."""
    if value is None or isinstance(value, str | bytes | float):
        return value
    if isinstance(value, int):  # and true and false
        return int(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(_nested(value), ensure_ascii=False)
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _nested(value: Any) -> Any:
    match value:
        case dict():
            return {str(name): _nested(each) for name, each in value.items()}
        case list() | tuple():
            return [_nested(each) for each in value]
        case bytes():
            return value.hex()
        case bool():
            return value
        case _:
            return _value(value)
