"""Views that last one connection and stand before the tables and views of a database: a name
without a database means theirs. By them a file is read as if it held other columns, or fewer
results.

SQL is composed here from the names in the database and the conditions of a selection only; every
name is quoted, every value is a literal.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_store.result import Record
from edge_store.selection import EVERYTHING, Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = [
    "ACCOUNTS", "OF_RESULTS", "Column", "Relation", "columns", "narrowed", "narrowing", "quoted",
    "relations_of", "shadows", "words_of",
]  # fmt: skip

# What belongs to a result, and the column that names it.
OF_RESULTS = {
    "annotations": "id",
    "outputs": "seq",
    "repairs": "id",
    "request_blobs": "seq",
    "requests": "seq",
    "response_blobs": "id",
    "response_events": "id",
    "responses": "id",
}
# They account for all that was admitted: of a part of the results they would say that the rest is
# missing.
ACCOUNTS = frozenset({"boot_extents", "completeness", "completeness_by_day"})
WORD = re.compile(r"\w+")
VALUE = re.compile(r":(\w+)")


class Column(Record, frozen=True, kw_only=True):
    """``default`` is SQL, as it is declared."""

    name: str
    declared: str
    default: str | None


class Relation(Record, frozen=True, kw_only=True):
    """A table or view, with its columns in order. ``sql`` makes it."""

    name: str
    columns: tuple[Column, ...]
    is_view: bool
    sql: str

    @property
    def has_device_id(self) -> bool:
        """Whether rows of it say which box they are from."""
        return any(column.name == "device_id" for column in self.columns)


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def columns(connection: Connection, database: str, relation: str) -> tuple[Column, ...]:
    """Those of a table or view; none when it is not there."""
    rows = connection.execute(sql("select_columns"), {"relation": relation, "database": database})
    return tuple(Column(name=row[0], declared=row[1], default=row[2]) for row in rows)


def relations_of(connection: Connection, database: str) -> tuple[Relation, ...]:
    """Every table and view that is there, in the order in which they were made."""
    statement = sql("select_relations").replace(
        "sqlite_schema", f"{quoted(database)}.sqlite_schema"
    )
    return tuple(
        Relation(
            name=name, columns=columns(connection, database, name), is_view=kind == "view", sql=text
        )
        for name, kind, text in connection.execute(statement).fetchall()
    )


@contextmanager
def shadows(
    connection: Connection,
    database: str,
    relations: Iterable[Relation],
    selection: Selection,
    statement: str = "",
) -> Iterator[None]:
    """Make a view for each of the relations: with its columns, whatever there is in ``database``,
    and of the chosen results only. What belongs to results is narrowed where ``statement`` names
    it: a view joins it to results, which are.
    """
    words = words_of(statement)
    there = dict(connection.execute(sql("select_temp_views")).fetchall())  # an older file's
    made: list[str] = []
    try:
        for relation in relations:
            if relation.name in there:
                _drop(connection, relation.name)
            made.append(relation.name)
            connection.execute(_shadow(connection, database, relation, selection, words))
        yield
    finally:
        for name in made:
            _drop(connection, name)
            if name in there:
                connection.execute(_temporary(there[name]))


def _drop(connection: Connection, name: str) -> None:
    connection.execute(sql("drop_view").replace('"name"', f"temp.{quoted(name)}"))


def _temporary(view: str) -> str:
    return view.replace("CREATE VIEW", "CREATE TEMP VIEW", 1)


@contextmanager
def narrowed(connection: Connection, selection: Selection, statement: str) -> Iterator[None]:
    """Let ``statement`` see the chosen results only, on a connection that is opened read-only."""
    if selection.condition == EVERYTHING:
        yield
        return
    words = words_of(statement)
    seen = [
        each
        for each in relations_of(connection, "main")
        if each.name == "results"
        or each.is_view
        or (each.name in OF_RESULTS and each.name in words)
    ]
    connection.execute("PRAGMA query_only = 0")  # the file itself is opened read-only
    with shadows(connection, "main", seen, selection, statement):
        connection.execute("PRAGMA query_only = 1")
        try:
            yield
        finally:
            connection.execute("PRAGMA query_only = 0")


def _shadow(
    connection: Connection,
    database: str,
    relation: Relation,
    selection: Selection,
    words: set[str],
) -> str:
    is_narrow = selection.condition != EVERYTHING
    if relation.is_view and not (is_narrow and relation.name in ACCOUNTS):
        return _temporary(relation.sql)
    present = {column.name for column in columns(connection, database, relation.name)}
    chosen = ", ".join(
        f"r.{quoted(column.name)}"
        if column.name in present
        else f"{column.default or 'NULL'} AS {quoted(column.name)}"
        for column in relation.columns
    )
    source = f"FROM {quoted(database)}.{quoted(relation.name)} AS r" if present else "WHERE 0"
    if present:
        source += narrowing(relation.name, selection, words)
    return f"CREATE TEMP VIEW {quoted(relation.name)} AS SELECT {chosen} {source}"


def narrowing(name: str, selection: Selection, words: set[str]) -> str:
    """What narrows the rows ``r`` of a table to those of the chosen results; ``words``: of the
    statement. Empty where nothing does.
    """
    if selection.condition == EVERYTHING:
        return ""
    if name == "results":
        return f" WHERE {_condition(selection)}"
    key = OF_RESULTS.get(name)
    if key is None or name not in words:
        return ""
    return f" WHERE EXISTS (SELECT 1 FROM temp.results AS chosen WHERE chosen.{key} = r.{key})"  # noqa: S608


def words_of(statement: str) -> set[str]:
    """In lower case: what it may name, and what a view of that name is made of that belongs to
    results.
    """
    words = set(WORD.findall(statement.lower()))
    return words | {"requests"} if "bodies" in words else words


def _condition(selection: Selection) -> str:
    """A view has no values, so they are written out. Of fields that are columns of results."""
    values = selection.values
    return VALUE.sub(lambda found: _literal(values[found[1]]), selection.condition)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(float(value)) if isinstance(value, float) else str(int(value))
