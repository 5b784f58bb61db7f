"""One SQL statement over many boxes: it sees a box's tables and views, each the union over all.

Only what the statement reads is copied, box by box, into a scratch database on disk; then it runs
there under the limits of ``query``. Views are evaluated over each box by itself. A relation without
the column ``device_id`` gets it as its first. A box of another schema is read as one of this (see
relations.py).
SQL is composed here from the schema's own names only, and every name is quoted.
"""

import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from edge_store.errors import EdgeStoreError, NotAnEdgeStoreFile, NotFound, QueryRefused
from edge_store.fleet.copies import require_named, require_own
from edge_store.fleet.relations import Relation, quoted, relations, shadowed
from edge_store.identity import read_device_id
from edge_store.ids import DeviceId
from edge_store.query import LISTED, QueryResult, run_query
from edge_store.replica.extent import DEVICE_ID
from edge_store.result import Record
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, open_reader, translated

__all__ = ["FleetAnswer", "Union", "Unread", "find_copies", "query_fleet", "united"]

COPY_TIMEOUT_S = 600.0  # of one box's rows
STEPS_BETWEEN_CHECKS = 100_000  # SQLite virtual machine steps; about 10 ms
FLEET_LISTED = (
    '`edge-store fleet query --in DIR --live "select name from sqlite_schema"` lists them'
)
WORD = re.compile(r"\w+")
OF_A_BOX = {"results", "search"}  # the databases in its folder, by their usual names
# Of the temporary file of one query, which is gone after it; never of a box's file or a copy.
SCRATCH_PRAGMAS = ("journal_mode = MEMORY", "synchronous = OFF")


class Unread(Record, frozen=True, kw_only=True):
    """A copy that could not be read, and so is missing from the answer."""

    path: Path
    error: str


class FleetAnswer(Record, frozen=True, kw_only=True):
    """The rows, how many boxes they are from, and the boxes that are missing. ``absent_lake``: the
    one that was to be asked, where there is none, so that the copies answered. ``left_out``: how
    many older copies are kept aside that did not, as their rows would be counted twice.
    """

    result: QueryResult
    boxes: int
    unread: tuple[Unread, ...]
    absent_lake: str | None = None
    left_out: int = 0


class Union(NamedTuple):
    """``connection`` sees what the statement reads of all boxes, and is not to be written to."""

    connection: Connection
    boxes: int
    unread: tuple[Unread, ...]


def find_copies(folder: Path) -> list[Path]:
    """The copies that ``fleet pull`` has put there, one of each box. An older one that it has kept
    beside, ``<device id>.<time>.db``, is not among them: its rows would be counted twice.

    Raises:
        NotFound: there is none.
    """
    found = sorted(path for path in folder.glob("*.db") if DEVICE_ID.fullmatch(path.stem))
    if (folder / "edge-store.lock").exists() and {path.stem for path in found} <= OF_A_BOX:
        raise NotFound(
            f"{folder} is the folder of a box, and has no copies of boxes",
            hint=f"ask it itself: edge-store query --config {folder}",
        )
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
    try:
        with united(copies, statement, params) as union:
            result = run_query(
                union.connection, statement, params, rows_max=rows_max, timeout_s=timeout_s
            )
            return FleetAnswer(result=result, boxes=union.boxes, unread=union.unread)
    except QueryRefused as exc:
        exc.hint = FLEET_LISTED if exc.hint == LISTED else exc.hint
        raise


@contextmanager
def united(
    copies: Iterable[Path],
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    any_name: bool = False,
) -> Iterator[Union]:
    """What ``statement`` may read of the boxes, for as long as it takes to answer it. Unless
    ``any_name`` is good, a copy that is not called as its box is unread; one of a box that was
    there before always is.

    Raises:
        QueryRefused: it does not parse, or would write.
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
            boxes: set[str] = set()
            unread = []
            for path in copies:
                try:
                    device_id = _whose(path, any_name=any_name)
                    if device_id in boxes:
                        raise NotAnEdgeStoreFile(
                            f"{path} is {device_id}'s, whose rows are there: it would count twice"
                        )
                    _copy_box(scratch, path, device_id, wanted, (selection, statement))
                    boxes.add(device_id)
                except EdgeStoreError as exc:
                    unread.append(Unread(path=path, error=str(exc)))
            scratch.execute("PRAGMA query_only = 1")
            yield Union(scratch, len(boxes), tuple(unread))
        finally:
            scratch.close()


def _create(relation: Relation) -> str:
    """The union's table: the relation's columns and types, without its constraints."""
    names = [f"{quoted(each.name)} {each.declared}".rstrip() for each in relation.columns]
    if not relation.has_device_id:
        names.insert(0, "device_id TEXT")
    return f"CREATE TABLE {quoted(relation.name)} ({', '.join(names)})"


def _wanted(
    scratch: Connection,
    known: Iterable[Relation],
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
        msgspec.structs.replace(
            relation,
            columns=tuple(
                each
                for each in relation.columns
                if each.name == "device_id"
                or (relation.name, each.name) in read
                or each.name.lower() in text
                or "natural" in words
            ),
        )
        for relation in known
        if relation.name.lower() in words
    ]


def _whose(path: Path, *, any_name: bool) -> DeviceId:
    """The box that a copy is of.

    Raises:
        StoreError: it is of none, or of another than its name says; or it cannot be read.
    """
    reader = open_reader(path)
    try:
        with translated(f"{path} cannot be read"):
            device_id = read_device_id(reader)
    finally:
        reader.close()
    if any_name and device_id is not None:
        return device_id
    return require_named(path, device_id)


def _copy_box(
    scratch: Connection,
    path: Path,
    device_id: DeviceId,
    wanted: list[Relation],
    chosen: tuple[Selection, str],
) -> None:
    """Add one box's rows, all or none of them. ``chosen``: which results, for which statement.

    Raises:
        StoreError: the copy cannot be read.
    """
    deadline = time.monotonic() + COPY_TIMEOUT_S
    with translated(f"{path} cannot be read"):
        source = f"file:{quote(str(path.absolute()))}?mode=ro"
        scratch.execute(sql("attach_box"), {"source": source})
        try:
            scratch.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
            with shadowed(scratch, "box", *chosen) as database:
                scratch.execute(sql("savepoint_box"))
                try:
                    for relation in wanted:
                        others = _copy_relation(scratch, relation, database, device_id)
                        require_own(path, device_id, others)
                except BaseException:
                    scratch.execute(sql("rollback_box"))
                    raise
                finally:
                    scratch.execute(sql("release_box"))
        finally:
            scratch.set_progress_handler(None, 0)
            scratch.execute(sql("detach_box"))


def _copy_relation(
    scratch: Connection, relation: Relation, database: str, device_id: str
) -> list[str]:
    """Returns another box that one of the rows names, if any does."""
    name = quoted(relation.name)
    ((before,),) = scratch.execute(f"SELECT coalesce(max(rowid), 0) FROM main.{name}")  # noqa: S608
    names = [each.name for each in relation.columns]
    targets, sources = [quoted(n) for n in names], [quoted(n) for n in names]
    if "device_id" not in names:
        targets.insert(0, "device_id")
        sources.insert(0, ":device_id")
    scratch.execute(
        f"INSERT INTO main.{name} ({', '.join(targets)}) "  # noqa: S608  (quoted)
        f"SELECT {', '.join(sources)} FROM {database}.{name}",
        {"device_id": device_id},
    )
    others = scratch.execute(
        f"SELECT device_id FROM main.{name} "  # noqa: S608  (quoted)
        "WHERE rowid > :before AND device_id <> :device_id LIMIT 1",
        {"before": before, "device_id": device_id},
    )
    return [other for (other,) in others]
