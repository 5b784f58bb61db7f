"""The database's shape: forward-only migrations, each in a transaction with its record.

A migration is one SQL file. ``application_id`` marks the file as ours; ``user_version`` is the
number of the newest migration it has. Runs on the writer's connection, before anything else does.

A table or a column that is missing is damage. Views, indexes and triggers hold nothing of
their own: one that is missing or not as the migrations made it is made anew when the file is next
opened for writing.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from edge_store.errors import Corrupt, SchemaTooNew
from edge_store.sql import sql
from edge_store.sqlite import RESTORE_HINT, Connection, complete_statement, driver

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["FILES", "SCHEMA_VERSION", "altered", "migrate", "require_schema", "statements"]


FILES = (
    "0001_initial.sql",
    "0002_keys.sql",
    "0003_batches.sql",
    "0004_responses.sql",
    "0006_privacy.sql",
    "0007_open.sql",
    "0008_queries.sql",
    "0009_archives.sql",
    "0010_sinks.sql",
    "0011_days.sql",
    "0012_bodies.sql",
)
SCHEMA_VERSION = len(FILES)
DROP = {
    "view": "drop_view",
    "index": "drop_index",
    "trigger": "drop_trigger",
}  # blocks of damage.sql
MISSING_SHOWN = 3  # of a dropped table each column is missing too


def statements(name: str) -> Iterator[str]:
    """The SQL statements of one migration file, in order."""
    pending = ""
    for line in (files(__package__) / name).read_text(encoding="utf-8").splitlines(keepends=True):
        pending += line
        if complete_statement(pending):
            yield pending.strip()
            pending = ""
    assert not pending.strip(), f"{name} ends inside a statement"


def migrate(connection: Connection) -> None:
    """Bring the file to the newest schema, and its views, indexes and triggers to what that says.

    Raises:
        SchemaTooNew: the file was written by a newer edge-store.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the database has schema {version}; this edge-store knows up to {SCHEMA_VERSION}",
            hint="install the edge-store that wrote it, or a newer one",
        )
    connection.execute(sql("drop_view").replace('"name"', "temp.bodies"))  # of an older file
    _apply(connection)
    _make_anew(connection, altered(connection))


def _apply(connection: Connection) -> None:
    # imported here: who only reads a database starts in half the time
    from sqlite_utils import Database, Migrations  # noqa: PLC0415

    migrations = Migrations("edge_store")
    for version, name in enumerate(FILES, start=1):
        migrations(name=name.removesuffix(".sql"))(_migration(version, name))
    migrations.apply(Database(connection, recursive_triggers=False))


def _migration(version: int, name: str) -> Callable[["Database"], None]:
    # Statement by statement: executescript() would commit the migration's transaction.
    def apply(db: "Database") -> None:
        for statement in statements(name):
            db.conn.execute(statement)
        db.conn.execute(f"PRAGMA user_version = {version}")

    return apply


class Derived(NamedTuple):
    """A view, an index or a trigger."""

    type: str
    name: str
    sql: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


def altered(connection: Connection) -> tuple[Derived, ...]:
    """Views, indexes and triggers of ours that are missing or not as the migrations make them, as
    they should be. Of a file with another version of the schema nothing is said.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        return ()
    found = _derived(connection)
    return tuple(each for each in _expected()[1] if each not in found)


def _make_anew(connection: Connection, those: tuple[Derived, ...]) -> None:
    if not those:
        return
    from edge_store.loggers import get_logger  # noqa: PLC0415  (a third of the start of a pull)

    get_logger(__name__).warning("schema_mended", made_anew=[str(each) for each in those])
    connection.execute(sql("begin"))
    try:
        for each in those:
            connection.execute(sql(DROP[each.type]).replace('"name"', f'"{each.name}"'))
            connection.execute(each.sql)
        connection.execute(sql("commit"))
    except BaseException:
        with suppress(driver.Error):
            connection.execute(sql("rollback"))
        raise


def require_schema(connection: Connection, what: str) -> None:
    """Refuse a file that lacks a table or a column of ours; ``what`` begins the message.

    It may have more: indexes and tables of the operator's. One with another version of the schema
    is not looked at.

    Raises:
        Corrupt: something is not there.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        return
    missing = sorted(_expected()[0] - _names(connection))
    if missing:
        raise Corrupt(
            f"{what}: its schema lacks {', '.join(missing[:MISSING_SHOWN])}"
            + (", …" if len(missing) > MISSING_SHOWN else ""),
            hint=RESTORE_HINT,
        )


@cache
def _expected() -> tuple[frozenset[str], tuple[Derived, ...]]:
    with closing(driver.connect(":memory:", isolation_level=None)) as connection:
        _apply(connection)
        return _names(connection), _derived(connection)


def _names(connection: Connection) -> frozenset[str]:
    """As in ``table results``, ``column results.seq``."""
    return frozenset(name for (name,) in connection.execute(sql("select_schema")))


def _derived(connection: Connection) -> tuple[Derived, ...]:
    return tuple(Derived(*row) for row in connection.execute(sql("select_derived")))
