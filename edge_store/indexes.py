"""Indexes on a path inside the stored JSON: ``edge-store index``.

A path is ``output`` (the JSON of an answer, ``outputs.output_json``) or ``metadata`` (the caller's,
``results.metadata``), then keys and positions: ``output.customer.id``, ``metadata.tags[0]``. A key
is letters, digits, ``_`` and ``-``: nothing that could end the SQL it becomes part of. The index is
ordinary SQL in ``results.db``, named ``json.`` and its path: replicas and restored files have it.
Only the process that holds ``edge-store.lock`` makes or removes one.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_store.errors import AlreadyRunning, InvalidRequest, NotFound, StoreError
from edge_store.lock import DatabaseLock
from edge_store.recorder.damage import examine
from edge_store.result import Record
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import (
    Connection,
    is_index_held,
    open_reader,
    open_writer,
    translated,
)

__all__ = ["JsonIndex", "JsonPath", "add_index", "list_indexes", "remove_index", "sole_writer"]

PATH = re.compile(r"(output|metadata)((?:\.[\w-]+|\[\d{1,9}\])+)")
PATH_CHARS_MAX = 200
_kept_open: list[Connection] = []  # until the process ends
ENTRY_BYTES = 10  # beside the value: its header, the row's number, its place in the page


class Root(NamedTuple):
    """Where the JSON of a root lies, and the blocks of indexes.sql for it."""

    table: str
    column: str
    create: str
    measure: str


ROOTS = {
    "output": Root("outputs", "output_json", "create_output_index", "measure_output_index"),
    "metadata": Root("results", "metadata", "create_metadata_index", "measure_metadata_index"),
}


class JsonPath(NamedTuple):
    """A path that has been checked."""

    root: str
    steps: str  # as in ``.customer.id``

    @classmethod
    def parse(cls, text: str) -> "JsonPath":
        """Raises ``InvalidRequest`` for what is no path, or a longer one than 200 characters."""
        found = PATH.fullmatch(text)
        if found is None or len(text) > PATH_CHARS_MAX:
            raise InvalidRequest(
                f"{text[:PATH_CHARS_MAX]!r} is not a path into stored JSON",
                hint="as in output.customer.id, metadata.order or output.items[0].sku",
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return self.root + self.steps

    @property
    def expression(self) -> str:
        """What a query must say for the index to be used."""
        return f"json_extract({ROOTS[self.root].column}, '${self.steps}')"

    def sql(self, block: str) -> str:
        """A block of indexes.sql for this path."""
        return (
            sql(block).replace("'$'", f"'${self.steps}'").replace('"json.path"', f'"json.{self}"')
        )


class JsonIndex(Record, frozen=True, kw_only=True):
    """One index. ``bytes`` is about: entries and the lengths of their values."""

    path: str
    table: str
    expression: str
    entries: int
    bytes: int


@contextmanager
def sole_writer(database: Path, *, stays_open: bool) -> Iterator[Connection]:
    """The writer's connection, under the lock.

    ``stays_open`` where Litestream replicates the file: to close it would delete the WAL, and the
    next start would upload the whole database (docs/adr/0010). The process then ends by
    ``os._exit``; and whatever ends it before there is a writer, or closes that, another connection
    stays open, which only reads, so that no writer's is the last.

    Raises:
        AlreadyRunning: the daemon writes this database.
        StoreError: there is no such database, or it cannot be written safely.
    """
    if not database.exists():
        open_reader(database)  # says so
    try:
        with DatabaseLock(database) as lock:
            was_held = is_index_held(database)
            examine(database, lock, index_was_held=was_held)
            if stays_open:
                _kept_open.append(open_reader(database))
            connection = open_writer(database, same_thread=False)
            with translated("the database cannot be prepared"):
                migrate(connection)
                (ended,) = connection.execute(sql("select_last_boot_ended")).fetchone()
            if was_held and not ended:
                raise StoreError(
                    "the daemon was killed, and another process reads the database since before",
                    hint="end it (`fuser -v` on the -shm file names it), or start and stop the "
                    "daemon",
                )
            yield connection
            if not stays_open:
                connection.close()
    except AlreadyRunning as exc:
        hint = "stop the daemon first (`systemctl stop edge-store`), then again"
        raise AlreadyRunning(str(exc), hint=hint) from exc


def add_index(connection: Connection, path: JsonPath) -> bool:
    """Make the index; false when it is there already. Reads the whole table once.

    Raises:
        InvalidRequest: there is one on a path that differs in upper and lower case only.
    """
    with translated(f"the index on {path} could not be made"):
        there = _paths(connection)
        if str(path) in there:
            return False
        alike = [each for each in there if each.lower() == str(path).lower()]
        if alike:
            raise InvalidRequest(
                f"there is an index on {alike[0]}, whose name differs from {path} in case only",
                hint=f"remove that one first: edge-store index rm {alike[0]}",
            )
        connection.execute(path.sql(ROOTS[path.root].create))
    return True


def remove_index(connection: Connection, path: JsonPath) -> None:
    """Raises ``NotFound`` when there is none on that path."""
    with translated(f"the index on {path} could not be removed"):
        if str(path) not in _paths(connection):
            raise NotFound(f"there is no index on {path}", hint="see `edge-store index ls`")
        connection.execute(path.sql("drop_json_index"))


def list_indexes(connection: Connection) -> list[JsonIndex]:
    """Every such index, in the order of their paths. Reads each of them through."""
    found = []
    with translated("the indexes cannot be read"):
        for path in map(JsonPath.parse, _paths(connection)):
            root = ROOTS[path.root]
            entries, value_bytes = connection.execute(path.sql(root.measure)).fetchone()
            found.append(
                JsonIndex(
                    path=str(path),
                    table=root.table,
                    expression=path.expression,
                    entries=entries,
                    bytes=value_bytes + entries * ENTRY_BYTES,
                )
            )
    return found


def _paths(connection: Connection) -> list[str]:
    return [path for (path,) in connection.execute(sql("select_json_indexes"))]
