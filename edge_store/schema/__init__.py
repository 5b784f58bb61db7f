"""The database's shape: forward-only migrations, each in a transaction with its record.

A migration is one SQL file. ``application_id`` marks the file as ours; ``user_version`` is the
number of the newest migration it has. Runs on the writer's connection, before anything else does.
"""

from collections.abc import Callable, Iterator
from importlib.resources import files

from sqlite_utils import Database, Migrations

from edge_store.errors import SchemaTooNew
from edge_store.sqlite import Connection, complete_statement

__all__ = ["SCHEMA_VERSION", "migrate", "migrations", "statements"]

FILES = ("0001_initial.sql",)
SCHEMA_VERSION = len(FILES)

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
