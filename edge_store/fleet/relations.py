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

from edge_store.schema import FILES, statements
from edge_store.selection import EVERYTHING, Selection
from edge_store.shadows import Column, Relation, columns, quoted, relations_of, shadows
from edge_store.sqlite import Connection, driver, open_reader, translated

__all__ = ["Column", "Relation", "columns", "open_compatible", "quoted", "relations", "shadowed"]


@cache
def relations() -> tuple[Relation, ...]:
    """Every table and view of the current schema, in the order in which they are made."""
    with closing(driver.connect(":memory:", isolation_level=None)) as connection:
        for file in FILES:
            for statement in statements(file):
                connection.execute(statement)
        return relations_of(connection, "main")


@contextmanager
def shadowed(
    connection: Connection,
    database: str,
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    statement: str = "",
) -> Iterator[str]:
    """The name of the database in which every relation of this schema is: ``database`` itself, or
    ``temp`` where one is missing there or is another, or only some results are wanted of those that
    ``statement`` names. A name without a database means ``temp``'s.
    """
    known = relations()
    is_same = {each.sql for each in known} <= {
        each.sql for each in relations_of(connection, database)
    }
    if is_same and selection.condition == EVERYTHING:
        yield database
        return
    with shadows(connection, database, known, selection, statement):
        yield "temp"


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
