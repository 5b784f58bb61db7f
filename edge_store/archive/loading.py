"""Files of the archive as a database again: to be asked, alone or beside the live one, or to be
kept.

It is the state of one moment: files are loaded as they are found, and what became live, archived or
forgotten meanwhile is put right within one read transaction of the live database, in which no file
is missing any more. So a result is there once, live or archived, whatever retention and ``forget``
do beside it. Rows are checked as they are read: a digest that does not hold ends it.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from edge_store.archive.ledger import Archived, forgotten_in, read_archives
from edge_store.archive.parquet import LATER, Packed
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import read_current
from edge_store.blobs import split
from edge_store.chain import check_rows
from edge_store.clock import now_ms
from edge_store.errors import ArchiveFailed, NotFound
from edge_store.identity import create_identity, read_device_id
from edge_store.recorder.deletions import Reason, What
from edge_store.rows import OUTPUT_COLUMNS, RESULT_COLUMNS, insert_blobs
from edge_store.schema import migrate
from edge_store.selection import Selection
from edge_store.shadows import ACCOUNTS, narrowing, quoted, relations_of, words_of
from edge_store.sql import sql, sql_of
from edge_store.sqlite import Connection, open_copy, open_reader, open_writer, translated
from edge_store.sqlitefiles import PARTS

__all__ = ["Span", "chosen_files", "load_file", "restore", "scratch", "together"]

UNITED = ("results", "outputs", "requests", "request_blobs", "blobs", *LATER)
INSERTS = {"annotations": "insert_old_annotation", "repairs": "insert_old_repair"}
ROWS_AT_ONCE = 256
ROUNDS_MAX = 100  # each is of what was archived during the one before it
ABOVE = 1 << 48  # numbers of annotations and repairs: not those of live ones

Span = tuple[int | None, int | None]  # UTC ms of an answer's end: from, and before


def chosen_files(connection: Connection, span: Span) -> list[Archived]:
    """The verified files with results of that time: whole results first, and the newest of them, as
    a result may be in several and the newest has all that was said of it.
    """
    since, until = span
    found = [
        each
        for each in read_archives(connection)
        if each.verified_at is not None
        and each.rows
        and (since is None or each.completed_to >= since)
        and (until is None or each.completed_from < until)
    ]
    return sorted(found, key=lambda each: (each.what is What.CONTENT, -each.archive_no))


def restore(database: Path, url: str, target: Path, span: Span) -> int:
    """Put the archived results of that time into a new file; how many there were. Of bodies that
    went before their results, it takes these from ``database`` or its archive.

    Raises:
        ArchiveFailed: a file is not there or not as it was; or ``target`` is there already.
        NotFound: nothing of that time is archived.
        StoreError: the disk.
    """
    for path in (target, *(target.with_name(f"{target.name}{end}") for end in PARTS)):
        if path.exists():  # also what would be played into it
            raise ArchiveFailed(f"{path} is there already", hint="name a new file")
    if not target.absolute().parent.is_dir():
        raise ArchiveFailed(f"{target}: there is no folder for it", hint="create the folder first")
    try:
        with closing(open_reader(database)) as live, closing(_new(target, live)) as made:
            _Filling(made, live, ArchiveStore(url), span).fill(with_live=True)
            low, high, rows = made.execute(sql("select_result_span")).fetchone()
            if not rows:
                of_that_time = "" if span == (None, None) else " of that time"
                raise NotFound(
                    f"nothing{of_that_time} is archived", hint="see `edge-store archive ls`"
                )
            faults = check_rows(made, low, high)
        if faults:
            raise ArchiveFailed(f"what was restored is not as it was committed: {faults[0]}")
        open_copy(target).close()  # one file, which anyone who can read it can query
    except BaseException:
        for ending in ("", "-wal", "-shm"):
            target.with_name(f"{target.name}{ending}").unlink(missing_ok=True)
        raise
    return int(rows)


@contextmanager
def scratch(database: Path, url: str, span: Span) -> Iterator[Path]:
    """A temporary database with what is archived, and not live."""
    with closing(open_reader(database)) as live, _scratch(live, url, span) as path:
        live.execute(sql("rollback"))
        yield path


@contextmanager
def together(
    database: Path,
    url: str,
    span: Span = (None, None),
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    statement: str = "",
) -> Iterator[Connection]:
    """A reader of the live database on which the tables and views of results have the archived
    ones, too; of those that ``selection`` chooses, for ``statement``. It is within a read
    transaction. Views of what happened, as ``completeness``, are the live one's: it counts both.

    Raises:
        ArchiveFailed: the archive cannot be read.
        StoreError: the database cannot be read.
    """
    with (
        translated("the archive cannot be put beside the database"),
        closing(open_reader(database)) as connection,
        _scratch(connection, url, span) as path,
    ):
        connection.execute("PRAGMA query_only = 0")  # of files that are opened read-only
        source = f"file:{quote(str(path))}?mode=ro"
        connection.execute(sql("attach_archive"), {"source": source})
        _unite(connection, selection, words_of(statement))
        connection.execute("PRAGMA query_only = 1")
        try:
            yield connection
        finally:
            connection.close()  # before its files go


def _unite(connection: Connection, selection: Selection, words: set[str]) -> None:
    for relation in relations_of(connection, "main"):
        name = relation.name
        if relation.is_view and name not in ACCOUNTS:
            connection.execute(relation.sql.replace("CREATE VIEW", "CREATE TEMP VIEW", 1))
            continue
        where = narrowing(name, selection, words)
        if name in UNITED or where:
            block = sql_of("copies", "unite" if name in UNITED else "keep")
            names = ", ".join(quoted(column.name) for column in relation.columns)  # as it is here
            block = block.replace('"columns"', names).replace('"name"', quoted(name))
            connection.execute(block + where)


@contextmanager
def _scratch(live: Connection, url: str, span: Span) -> Iterator[Path]:
    """Leaves ``live`` within the read transaction whose state it is."""
    with tempfile.TemporaryDirectory(prefix="edge-store-archive-") as folder:
        path = Path(folder, "archive.db")
        with closing(_new(path, live)) as made:
            made.execute("PRAGMA synchronous = OFF")  # of a temporary file, gone after it
            for table in LATER:
                made.execute(sql("begin_numbers"), {"table": table, "above": ABOVE})
            _Filling(made, live, ArchiveStore(url), span).fill(with_live=False)
        yield path


def _new(path: Path, live: Connection) -> Connection:
    made = open_writer(path)
    migrate(made)
    made.execute("PRAGMA foreign_keys = OFF")  # bodies may come before their result
    create_identity(made, read_device_id(live) or "", reason="restored")
    cursor = live.execute(sql("select_boots"))
    names = [column[0] for column in cursor.description]
    for row in cursor:
        made.execute(sql("insert_boot"), dict(zip(names, row, strict=True)))
    return made


class _Filling:
    """Fills ``made``."""

    def __init__(self, made: Connection, live: Connection, store: ArchiveStore, span: Span) -> None:
        self._made, self._live, self._store, self._span = made, live, store, span

    def fill(self, *, with_live: bool) -> None:
        """Load until nothing is missing, and leave ``live`` in the read transaction in which that
        is so. ``with_live``: live results whose bodies alone are archived are copied.

        Raises:
            ArchiveFailed: the archive cannot be read, or changes faster than that.
        """
        loaded: set[int] = set()
        forgotten = None
        for _ in range(ROUNDS_MAX):
            self._live.execute(sql("begin_reading"))
            files = chosen_files(self._live, self._span)
            gone = forgotten_in(self._live)
            now = self._live.execute(sql("select_newest_forgotten")).fetchone()
            if now != forgotten:
                forgotten = now
                if loaded:
                    loaded = set()
                    self._clear()
            missing = [each for each in files if each.archive_no not in loaded]
            if not missing:
                self._put_right(with_live=with_live)
                return
            self._live.execute(sql("rollback"))
            for archive in missing:
                self._load(archive, gone.get(archive.archive_no, set()), is_newer=bool(loaded))
            loaded |= {each.archive_no for each in missing}
        raise ArchiveFailed(
            "more is archived than can be read meanwhile", hint="narrow it, or try again later"
        )

    def _clear(self) -> None:
        """Something was forgotten that may be here."""
        for table in (*UNITED, "deletions"):
            self._made.execute(sql_of("copies", "clear").replace('"name"', quoted(table)))

    def _load(self, archive: Archived, gone: set[int], *, is_newer: bool) -> None:
        """``is_newer`` than all that was loaded before: it has all that was said of its results."""
        rows = _rows_of(self._store, self._live, archive)
        self._made.execute(sql("begin"))
        for row in rows:
            if row["seq"] in gone or not _is_of(row, self._span):
                continue
            if archive.what is What.CONTENT:
                _insert_content(self._made, row)
            elif not _is_here(self._made, row["seq"]):
                _insert(self._made, row)
            elif is_newer:
                self._remove([row["seq"]])
                _insert(self._made, row)
        self._made.execute(sql("commit"))

    def _put_right(self, *, with_live: bool) -> None:
        """What is live, is there and not here; bodies without their result are nowhere."""
        made = self._made
        made.execute(sql("begin"))
        for seqs in _some(made, "select_all_seqs"):
            live = dict(self._live.execute(sql("select_live_of"), _listed(seqs)).fetchall())
            here = {seq for (seq,) in made.execute(sql("select_here_of"), _listed(seqs))}
            self._remove([seq for seq in here if seq in live])
            lost = _listed([seq for seq in seqs if live.get(seq, seq not in here)])
            for block in ("delete_request_blobs_of", "delete_contents"):
                made.execute(sql(block), lost)
            for seq in seqs if with_live else ():
                if live.get(seq) == 0:
                    _copy_result(made, self._live, seq)
        if not with_live:
            for names in _some(made, "select_all_blobs"):
                there = self._live.execute(sql("select_live_blobs"), _listed(names, "names"))
                made.execute(
                    sql("delete_named_blobs"), _listed([name for (name,) in there], "names")
                )
        made.execute(sql("commit"))

    def _remove(self, seqs: Sequence[int]) -> None:
        """But for the bodies."""
        for block in ("delete_annotations", "delete_repairs", "delete_outputs_of",
                      "delete_deletions_of", "delete_results"):  # fmt: skip
            self._made.execute(sql(block), _listed(seqs))


def _some(connection: Connection, block: str) -> Iterator[list[Any]]:
    """The keys of a table, some at a time, while rows of them are deleted."""
    after: Any = None
    while True:
        rows = connection.execute(sql(block), {"after": after, "rows": ROWS_AT_ONCE}).fetchall()
        if not rows:
            return
        after = rows[-1][0]
        yield [key for (key,) in rows]


def _listed(keys: Sequence[Any], name: str = "seqs") -> dict[str, str]:
    return {name: msgspec.json.encode(keys).decode()}


def load_file(path: Path, live: Connection, store: ArchiveStore, archive: Archived) -> None:
    """Make a database of one file of whole results, but for what was forgotten or is live.
    ``live`` is in no transaction.
    """
    gone = forgotten_in(live).get(archive.archive_no, set())
    with closing(_new(path, live)) as made:
        made.execute(sql("begin"))
        for row in _rows_of(store, live, archive):
            if row["seq"] not in gone and not _is_here(live, row["seq"]):
                _insert(made, row)
        made.execute(sql("commit"))


def _rows_of(store: ArchiveStore, live: Connection, archive: Archived) -> list[Packed]:
    if archive.store != str(store):
        raise ArchiveFailed(
            f"{archive.file} is in {archive.store}, not in retention.archive = {store}",
            hint="set retention.archive to that address for this command",
        )
    return read_current(store, live, archive)


def _is_of(row: Mapping[str, Any], span: Span) -> bool:
    since, until = span
    at = row["completed_at"]
    return (since is None or at >= since) and (until is None or at < until)


def _is_here(connection: Connection, seq: int) -> bool:
    return connection.execute(sql("select_is_here"), {"seq": seq}).fetchone() is not None


def _insert(made: Connection, row: Mapping[str, Any]) -> None:
    seq, name = row["seq"], row["id"]
    made.execute(sql("insert_result"), tuple(row[column] for column in RESULT_COLUMNS))
    for output in row["outputs"]:
        made.execute(
            sql("insert_output"), (seq, *(output[column] for column in OUTPUT_COLUMNS[1:]))
        )
    for table, block in INSERTS.items():
        for each in row[table]:
            made.execute(sql(block), {"id": name, **each})
    if row["request_body"] is not None:
        _insert_content(made, row)
    elif made.execute(sql("select_content"), {"seq": seq}).fetchone() is None:
        expired = {
            "reason": Reason.RETENTION.value,
            "at": now_ms(),
            "digest": row["content_digest"],
            "seq": seq,
        }
        made.execute(sql("note_deleted_content"), expired)


def _insert_content(made: Connection, row: Mapping[str, Any]) -> None:
    seq = row["seq"]
    if made.execute(sql("select_content"), {"seq": seq}).fetchone() is not None:
        return
    body, parts = split(row["request_body"])
    whole = (seq, row["input_text"], body, row["response_body"], None)
    made.execute(sql("insert_content"), whole)
    insert_blobs(made, "insert_request_blob", seq, parts)
    made.execute(sql("delete_expired"), {"seq": seq})


def _copy_result(made: Connection, live: Connection, seq: int) -> None:
    if _is_here(made, seq):
        return
    span = {"seq_from": seq, "seq_to": seq}
    row = live.execute(sql("select_chain_results"), span).fetchone()
    made.execute(sql("insert_result"), row[: len(RESULT_COLUMNS)])
    for output in live.execute(sql("select_chain_outputs"), span):
        made.execute(sql("insert_output"), output)
