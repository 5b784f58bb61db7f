"""Files of the archive as a database again: to be asked, alone or beside the live one, or to be
kept.

What was forgotten does not come back, and what is live is not loaded a second time. Rows are
checked as they are read: a digest that does not hold ends it.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_store.archive.ledger import Archived, forgotten_in, read_archives
from edge_store.archive.parquet import LATER, Packed
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import read_file
from edge_store.blobs import split
from edge_store.chain import check_rows
from edge_store.clock import now_ms
from edge_store.errors import ArchiveFailed, NotFound
from edge_store.identity import create_identity, read_device_id
from edge_store.recorder.deletions import Reason, What
from edge_store.rows import OUTPUT_COLUMNS, RESULT_COLUMNS, insert_blobs
from edge_store.schema import migrate
from edge_store.sql import sql, sql_of
from edge_store.sqlite import Connection, open_copy, open_reader, open_writer, translated

__all__ = ["Span", "chosen_files", "load_file", "restore", "scratch", "together"]

OWN_COUNT = ("boot_extents", "completeness", "completeness_by_day")  # views of what happened
UNITED = ("results", "outputs", "requests", "request_blobs", "blobs", *LATER)
INSERTS = {"annotations": "insert_old_annotation", "repairs": "insert_old_repair"}

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
    if target.exists():
        raise ArchiveFailed(f"{target} is there already", hint="name a new file")
    try:
        with closing(open_reader(database)) as live, closing(_new(target, live)) as made:
            _fill(made, live, ArchiveStore(url), span, with_live=True)
            if not chosen_files(live, span):
                raise NotFound("nothing of that time is archived", hint="`edge-store archive ls`")
            low, high, rows = made.execute(sql("select_result_span")).fetchone()
            faults = check_rows(made, low, high) if rows else []
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
    with tempfile.TemporaryDirectory(prefix="edge-store-archive-") as folder:
        path = Path(folder, "archive.db")
        with closing(open_reader(database)) as live, closing(_new(path, live)) as made:
            made.execute("PRAGMA foreign_keys = OFF")
            made.execute("PRAGMA synchronous = OFF")  # of a temporary file, gone after it
            _fill(made, live, ArchiveStore(url), span, with_live=False)
        yield path


@contextmanager
def together(database: Path, url: str, span: Span = (None, None)) -> Iterator[Connection]:
    """A reader of the live database on which the tables and views of results have the archived
    ones, too. Views of what happened, as ``completeness``, are the live one's: it counts both.

    Raises:
        ArchiveFailed: the archive cannot be read.
        StoreError: the database cannot be read.
    """
    with (
        scratch(database, url, span) as path,
        closing(open_reader(database)) as connection,
        translated("the archive cannot be put beside the database"),
    ):
        connection.execute("PRAGMA query_only = 0")  # of files that are opened read-only
        source = f"file:{quote(str(path))}?mode=ro"
        connection.execute(sql("attach_archive"), {"source": source})
        for table in UNITED:
            connection.execute(sql_of("copies", "unite").replace('"name"', f'"{table}"'))
        for name, text in connection.execute(sql("select_views")).fetchall():
            if name not in OWN_COUNT:
                connection.execute(text.replace("CREATE VIEW", "CREATE TEMP VIEW", 1))
        connection.execute("PRAGMA query_only = 1")
        yield connection


def _new(path: Path, live: Connection) -> Connection:
    made = open_writer(path)
    migrate(made)
    create_identity(made, read_device_id(live) or "", reason="restored")
    cursor = live.execute(sql("select_boots"))
    names = [column[0] for column in cursor.description]
    for row in cursor:
        made.execute(sql("insert_boot"), dict(zip(names, row, strict=True)))
    return made


def _fill(
    made: Connection, live: Connection, store: ArchiveStore, span: Span, *, with_live: bool
) -> None:
    gone = forgotten_in(live)
    for archive in chosen_files(live, span):
        rows = [
            row
            for row in _rows_of(store, archive)
            if row["seq"] not in gone.get(archive.archive_no, ()) and _is_of(row, span)
        ]
        made.execute(sql("begin"))
        for row in rows:
            is_live = _is_live(live, row["seq"])
            if archive.what is What.RESULT:
                if not is_live and not _is_live(made, row["seq"]):
                    _insert(made, row)
            elif with_live or is_live or _is_live(made, row["seq"]):
                if with_live and is_live:
                    _copy_result(made, live, row["seq"])
                _insert_content(made, row)
        made.execute(sql("commit"))


def load_file(path: Path, live: Connection, store: ArchiveStore, archive: Archived) -> None:
    """Make a database of one file of whole results, but for what was forgotten or is live."""
    gone = forgotten_in(live).get(archive.archive_no, set())
    with closing(_new(path, live)) as made:
        made.execute(sql("begin"))
        for row in _rows_of(store, archive):
            if row["seq"] not in gone and not _is_live(live, row["seq"]):
                _insert(made, row)
        made.execute(sql("commit"))


def _rows_of(store: ArchiveStore, archive: Archived) -> list[Packed]:
    if archive.store != str(store):
        raise ArchiveFailed(
            f"{archive.file} is in {archive.store}, not in retention.archive = {store}",
            hint="set retention.archive to that address for this command",
        )
    return read_file(store, archive)


def _is_of(row: Mapping[str, Any], span: Span) -> bool:
    since, until = span
    at = row["completed_at"]
    return (since is None or at >= since) and (until is None or at < until)


def _is_live(connection: Connection, seq: int) -> bool:
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
    else:
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
    made.execute(sql("insert_content"), (seq, row["input_text"], body, row["response_body"]))
    insert_blobs(made, "insert_request_blob", seq, parts)
    made.execute(sql("delete_expired"), {"seq": seq})


def _copy_result(made: Connection, live: Connection, seq: int) -> None:
    if _is_live(made, seq):
        return
    span = {"seq_from": seq, "seq_to": seq}
    row = live.execute(sql("select_chain_results"), span).fetchone()
    made.execute(sql("insert_result"), row[: len(RESULT_COLUMNS)])
    for output in live.execute(sql("select_chain_outputs"), span):
        made.execute(sql("insert_output"), output)
