"""One SQL statement over many boxes: it sees a box's tables and views, each the union over all.

Only what the statement reads is copied, box by box, into a scratch database on disk; then it runs
there under the limits of ``query``. Each box evaluates its own views. A relation without the column
``device_id`` gets it as its first. Columns or relations that an older box lacks are NULL or empty.
SQL is composed here from the schema's own names only, and every name is quoted.
"""

import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_store.errors import EdgeStoreError, NotAnEdgeStoreFile, NotFound
from edge_store.identity import read_device_id
from edge_store.query import QueryResult, run_query
from edge_store.replica.extent import DEVICE_ID
from edge_store.result import Record
from edge_store.schema import FILES, statements
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, translated

__all__ = ["FleetAnswer", "Relation", "Unread", "find_copies", "query_fleet", "quoted", "relations"]

COPY_TIMEOUT_S = 600.0  # of one box's rows
STEPS_BETWEEN_CHECKS = 100_000  # SQLite virtual machine steps; about 10 ms
WORD = re.compile(r"\w+")
# Of the temporary file of one query, which is gone after it; never of a box's file or a copy.
SCRATCH_PRAGMAS = ("journal_mode = MEMORY", "synchronous = OFF", "temp_store = FILE")


class Unread(Record, frozen=True, kw_only=True):
    """A copy that could not be read, and so is missing from the answer."""

    path: Path
    error: str


class FleetAnswer(Record, frozen=True, kw_only=True):
    """The rows, how many boxes they are from, and the boxes that are missing."""

    result: QueryResult
    boxes: int
    unread: tuple[Unread, ...]


class Relation(Record, frozen=True, kw_only=True):
    """A table or view of a box, with its columns in order."""

    name: str
    columns: tuple[tuple[str, str], ...]  # (name, declared type)

    @property
    def has_device_id(self) -> bool:
        """Whether rows of it say which box they are from."""
        return any(name == "device_id" for name, _ in self.columns)


def find_copies(folder: Path) -> list[Path]:
    """The copies that ``fleet pull`` has put there, one of each box. An older one that it has kept
    beside, ``<device id>.<time>.db``, is not among them: its rows would be counted twice.

    Raises:
        NotFound: there is none.
    """
    found = sorted(path for path in folder.glob("*.db") if DEVICE_ID.fullmatch(path.stem))
    if not found:
        raise NotFound(
            f"{folder} has no copies of boxes",
            hint="fetch them with `edge-store fleet pull --from URL --into DIR`",
        )
    return found


def query_fleet(
    copies: Iterable[Path],
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    rows_max: int,
    timeout_s: float,
) -> FleetAnswer:
    """Run one statement that only reads. ``timeout_s`` bounds the statement, not the copying.

    Raises:
        QueryRefused: it does not parse, would write, or ran too long.
        StoreError: the scratch database cannot be written.
    """
    known = relations()
    with tempfile.TemporaryDirectory(prefix="edge-store-fleet-") as folder:
        scratch = driver.connect(
            f"file:{quote(folder)}/fleet.db", uri=True, isolation_level=None, cached_statements=0
        )
        try:
            for pragma in SCRATCH_PRAGMAS:
                scratch.execute(f"PRAGMA {pragma}")
            for relation in known:
                scratch.execute(_create(relation))
            wanted = _wanted(scratch, known, statement, params)
            boxes, unread = 0, []
            for path in copies:
                try:
                    _copy_box(scratch, path, wanted)
                    boxes += 1
                except EdgeStoreError as exc:
                    unread.append(Unread(path=path, error=str(exc)))
            scratch.execute("PRAGMA query_only = 1")
            result = run_query(scratch, statement, params, rows_max=rows_max, timeout_s=timeout_s)
        finally:
            scratch.close()
    return FleetAnswer(result=result, boxes=boxes, unread=tuple(unread))


def relations() -> list[Relation]:
    """Every table and view of the current schema."""
    connection = driver.connect(":memory:", isolation_level=None)
    try:
        for file in FILES:
            for statement in statements(file):
                connection.execute(statement)
        return [
            Relation(name=name, columns=_columns(connection, "main", name))
            for (name,) in connection.execute(sql("select_relations")).fetchall()
        ]
    finally:
        connection.close()


def _columns(connection: Connection, database: str, relation: str) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(sql("select_columns"), {"relation": relation, "database": database})
    return tuple((name, declared) for name, declared in rows)


def _create(relation: Relation) -> str:
    """The union's table: the relation's columns and types, without its constraints."""
    columns = [f"{quoted(name)} {declared}".rstrip() for name, declared in relation.columns]
    if not relation.has_device_id:
        columns.insert(0, "device_id TEXT")
    return f"CREATE TABLE {quoted(relation.name)} ({', '.join(columns)})"


def _wanted(
    scratch: Connection,
    relations: list[Relation],
    statement: str,
    params: Mapping[str, Any] | None,
) -> list[Relation]:
    """The relations that ``statement`` may read, each with the columns that it may read.

    SQLite itself names the columns while it compiles. It does not name those of a join by name
    (USING, NATURAL), so every column whose name is in the text counts too, and all do when it says
    NATURAL. The price of a wrong guess is a column copied in vain.
    """
    read: set[tuple[str, str]] = set()

    def note(action: int, table: str | None, column: str | None, *_where: str | None) -> int:
        if action == driver.SQLITE_READ:
            read.add((table or "", column or ""))
        return driver.SQLITE_OK

    text = statement.lower()
    words = set(WORD.findall(text))
    is_explained = text.lstrip().startswith("explain")
    # The first run refuses what must be refused; the second, which only compiles, is overheard.
    prepared = statement if is_explained else f"EXPLAIN {statement}"
    run_query(scratch, prepared, params, rows_max=1, timeout_s=COPY_TIMEOUT_S)
    scratch.set_authorizer(note)
    try:
        scratch.execute(prepared, dict(params or {})).close()
    finally:
        scratch.set_authorizer(None)
    return [
        Relation(
            name=relation.name,
            columns=tuple(
                (column, declared)
                for column, declared in relation.columns
                if (relation.name, column) in read or column.lower() in text or "natural" in words
            ),
        )
        for relation in relations
        if relation.name.lower() in words
    ]


def _copy_box(scratch: Connection, path: Path, wanted: list[Relation]) -> None:
    """Add one box's rows, all or none of them.

    Raises:
        StoreError: the copy cannot be read.
    """
    reader = open_reader(path)
    try:
        with translated(f"{path} cannot be read"):
            device_id = read_device_id(reader)
    finally:
        reader.close()
    if device_id is None:
        raise NotAnEdgeStoreFile(f"{path} belongs to no box: it was never set up")
    deadline = time.monotonic() + COPY_TIMEOUT_S
    with translated(f"{path} cannot be read"):
        source = f"file:{quote(str(path.absolute()))}?mode=ro"
        scratch.execute(sql("attach_box"), {"source": source})
        try:
            scratch.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
            scratch.execute(sql("savepoint_box"))
            try:
                for relation in wanted:
                    _copy_relation(scratch, relation, device_id)
            except BaseException:
                scratch.execute(sql("rollback_box"))
                raise
            finally:
                scratch.execute(sql("release_box"))
        finally:
            scratch.set_progress_handler(None, 0)
            scratch.execute(sql("detach_box"))


def _copy_relation(scratch: Connection, relation: Relation, device_id: str) -> None:
    present = {name for name, _ in _columns(scratch, "box", relation.name)}
    if not present:
        return  # an older box without it
    names = [name for name, _ in relation.columns if name in present]
    targets, sources = [quoted(n) for n in names], [quoted(n) for n in names]
    if "device_id" not in names:
        targets.insert(0, "device_id")
        sources.insert(0, ":device_id")
    scratch.execute(
        f"INSERT INTO main.{quoted(relation.name)} ({', '.join(targets)}) "  # noqa: S608  (quoted)
        f"SELECT {', '.join(sources)} FROM box.{quoted(relation.name)}",
        {"device_id": device_id},
    )


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
