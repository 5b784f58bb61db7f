"""The database's shape: forward-only migrations, each in a transaction with its record.

A migration is one SQL file. ``application_id`` marks the file as ours; ``user_version`` is the
number of the newest migration it has. Runs on the writer's connection, before anything else does.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from importlib.resources import files

from sqlite_utils import Database, Migrations

from edge_store.errors import Corrupt, SchemaTooNew
from edge_store.sql import sql
from edge_store.sqlite import Connection, complete_statement, driver

__all__ = ["SCHEMA_VERSION", "migrate", "migrations", "require_schema", "statements"]

FILES = ("0001_initial.sql", "0002_keys.sql")
SCHEMA_VERSION = len(FILES)
MISSING_SHOWN = 3  # of a dropped table each column is missing too

migrations = Migrations("edge_store")


def statements(name: str) -> Iterator[str]:
    """The SQL statements of one migration file, in order."""
    pending = ""
    for line in (files(__package__) / name).read_text(encoding="utf-8").splitlines(keepends=True):
        pending += line
        if complete_statement(pending):
            yield pending.strip()
            pending = ""
    assert not pending.strip(), f"{name} ends inside a statement"


def _migration(version: int, name: str) -> Callable[[Database], None]:
    # Statement by statement: executescript() would commit the migration's transaction.
    def apply(db: Database) -> None:
        for statement in statements(name):
            db.conn.execute(statement)
        db.conn.execute(f"PRAGMA user_version = {version}")

    return apply


for _version, _name in enumerate(FILES, start=1):
    migrations(name=_name.removesuffix(".sql"))(_migration(_version, _name))


def migrate(connection: Connection) -> None:
    """Bring the file to the newest schema.

    Raises:
        SchemaTooNew: the file was written by a newer edge-store.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the database has schema {version}; this edge-store knows up to {SCHEMA_VERSION}",
            hint="install the edge-store that wrote it, or a newer one",
        )
    migrations.apply(Database(connection, recursive_triggers=False))


def require_schema(connection: Connection, what: str) -> None:
    """Refuse a file that lacks a table, a column or a view of ours; ``what`` begins the message.

    It may have more: indexes and tables of the operator's. One with another version of the schema
    is not looked at.

    Raises:
        Corrupt: something is not there.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        return
    missing = sorted(_expected() - _names(connection))
    if missing:
        raise Corrupt(
            f"{what}: its schema lacks {', '.join(missing[:MISSING_SHOWN])}"
            + (", …" if len(missing) > MISSING_SHOWN else ""),
            hint="keep the file; `edge-store replica restore --to FILE` rebuilds it",
        )


@cache
def _expected() -> frozenset[str]:
    with closing(driver.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        return _names(connection)


def _names(connection: Connection) -> frozenset[str]:
    """As in ``table results``, ``column results.seq``, ``view generations``."""
    return frozenset(name for (name,) in connection.execute(sql("select_schema")))
