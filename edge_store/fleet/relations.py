"""A copy of any schema, read as if its box were of this one: by views that last one connection.

A copy is never migrated: it is brought forward page by page, and so must stay what the replica has.
What an older box lacks has its default, or is NULL or empty; what a newer one has beyond is not
seen; views are this schema's, over what there is. SQL is composed here from the names and the views
of this schema only, and every name is quoted.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from edge_store.result import Record
from edge_store.schema import FILES, statements
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, translated

__all__ = ["Column", "Relation", "columns", "open_compatible", "quoted", "relations", "shadowed"]


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


@cache
def relations() -> tuple[Relation, ...]:
    """Every table and view of the current schema, in the order in which they are made."""
    with closing(driver.connect(":memory:", isolation_level=None)) as connection:
        for file in FILES:
            for statement in statements(file):
                connection.execute(statement)
        return tuple(
            Relation(
                name=name,
                columns=columns(connection, "main", name),
                is_view=kind == "view",
                sql=text,
            )
            for name, kind, text in _made(connection, "main")
        )


def _made(connection: Connection, database: str) -> list[tuple[str, str, str]]:
    """Name, type and SQL of each table and view."""
    statement = sql("select_relations").replace(
        "sqlite_schema", f"{quoted(database)}.sqlite_schema"
    )
    return connection.execute(statement).fetchall()


def columns(connection: Connection, database: str, relation: str) -> tuple[Column, ...]:
    """Those of a table or view; none when it is not there."""
    rows = connection.execute(sql("select_columns"), {"relation": relation, "database": database})
    return tuple(Column(name=row[0], declared=row[1], default=row[2]) for row in rows)


@contextmanager
def shadowed(connection: Connection, database: str) -> Iterator[str]:
    """The name of the database in which every relation of this schema is: ``database`` itself, or
    ``temp`` where one is missing there or is another. A name without a database means ``temp``'s.
    """
    made: list[str] = []
    try:
        if {each.sql for each in relations()} <= {
            text for _, _, text in _made(connection, database)
        }:
            yield database
            return
        for relation in relations():
            connection.execute(_shadow(connection, database, relation))
            made.append(relation.name)
        yield "temp"
    finally:
        for name in made:
            connection.execute(sql("drop_view").replace('"name"', f"temp.{quoted(name)}"))


def _shadow(connection: Connection, database: str, relation: Relation) -> str:
    if relation.is_view:
        return relation.sql.replace("CREATE VIEW", "CREATE TEMP VIEW", 1)
    present = {column.name for column in columns(connection, database, relation.name)}
    chosen = ", ".join(
        quoted(column.name)
        if column.name in present
        else f"{column.default or 'NULL'} AS {quoted(column.name)}"
        for column in relation.columns
    )
    source = f"FROM {quoted(database)}.{quoted(relation.name)}" if present else "WHERE 0"
    return f"CREATE TEMP VIEW {quoted(relation.name)} AS SELECT {chosen} {source}"


@contextmanager
def open_compatible(copy: Path) -> Iterator[Connection]:
    """A reader on which this schema's tables and views are all there.

    Raises:
        NotAnEdgeStoreFile: there is no such file, or it is not a database of ours.
        StoreError: it cannot be read.
    """
    with closing(open_reader(copy)) as connection, translated(f"{copy} cannot be read"):
        connection.execute("PRAGMA query_only = 0")  # of a file that is opened read-only
        with shadowed(connection, "main"):
            connection.execute("PRAGMA query_only = 1")
            try:
                yield connection
            finally:
                connection.execute("PRAGMA query_only = 0")


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'
