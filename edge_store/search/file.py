"""search.db: which results hold which words and trigrams. It is made of the results alone, so it
may be deleted at any time, and whatever is wrong with it ends in one that is made anew.

A crash at any point leaves it as of one of its COMMITs, from where it goes on: it has a WAL too.
``synchronous`` is NORMAL, with which a power cut takes the last of them, and no more. Every COMMIT
holds how far the results are in it, and which timeline's and which row's that is: where these do
not fit the database, it is another one's index. What SQLite finds damaged is dropped.

One thread at a time. Texts are not in it, only their words; those of deleted results are merged
away, and overwritten.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from edge_store.errors import StoreError
from edge_store.sql import sql, sql_of
from edge_store.sqlite import Connection, driver, translated

__all__ = [
    "IndexBroken", "Position", "drop_index", "extent", "index_bytes", "index_of_copy",
    "index_path", "is_index", "is_of", "open_index", "position_of",
    "reading_damaged_texts", "take_index_away", "transaction", "usable",
]  # fmt: skip

NAME = "search.db"  # recorder/disk.py drops it by this name
APPLICATION_ID = 0x65646778  # "edgx"
FORM = 1  # of the tables, and of how texts are taken apart: another one is made anew
PRAGMAS = (
    ("journal_mode", "WAL"),  # who searches does not wait
    ("synchronous", "NORMAL"),  # see above
    ("secure_delete", "ON"),  # words of what was forgotten are overwritten
    ("journal_size_limit", str(16 * 2**20)),
)


class IndexBroken(StoreError):
    """The index cannot be used as it is. It is to be made anew."""


class Position(NamedTuple):
    """How far an index is. ``digest``: of the row at ``seq``, or of the last before it."""

    form: int
    timeline: str
    seq: int
    digest: bytes | None
    deletion_id: int


def index_path(database: Path) -> Path:
    """Beside the database, under the name that a low disk drops."""
    return database.with_name(NAME)


def index_of_copy(database: Path) -> Path:
    """Beside a file that may have others like it beside it."""
    return database.with_name(f"{database.name}.{NAME}")


def is_index(path: Path) -> bool:
    """Whether it has the name of an index: in a folder of copies it is none of them."""
    return path.name == NAME or path.name.endswith(f".{NAME}")


def index_bytes(path: Path) -> int:
    """What it takes on the disk."""
    size = 0
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):  # or it goes just now
            size += path.with_name(path.name + end).stat().st_size
    return size


def drop_index(path: Path) -> None:
    """Nothing is left of it.

    Raises:
        StoreError: it cannot be deleted.
    """
    for end in ("", "-wal", "-shm"):
        file = path.with_name(path.name + end)
        try:
            file.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(
                f"{file} cannot be deleted: {exc.strerror}",
                hint="look at its disk and at the rights of its folder, or delete it by hand",
            ) from exc


def take_index_away(path: Path) -> None:
    """Whoever follows the results drops the rest of it when it has closed what it had open, and
    makes another: one step, so that no other one's WAL can be taken with it.
    """
    path.unlink(missing_ok=True)


@contextmanager
def reading_damaged_texts(reader: Connection) -> Iterator[None]:
    """A text that is not UTF-8, as a bad disk leaves it, is read as far as it is: else no result
    behind it would be taken in, and the error would tell the log of it.
    """
    before = reader.text_factory
    reader.text_factory = _decoded
    try:
        yield
    finally:
        reader.text_factory = before


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace")


@contextmanager
def usable() -> Iterator[None]:
    """Tell what is wrong with the index from what is wrong with the database or the disk."""
    try:
        with translated("the search index"):
            yield
    except IndexBroken:
        raise
    except StoreError as exc:
        code = getattr(exc.__cause__, "sqlite_errorcode", None) or 0
        if code & 0xFF in (driver.SQLITE_CORRUPT, driver.SQLITE_NOTADB, driver.SQLITE_ERROR):
            raise IndexBroken(str(exc)) from exc
        raise


def open_index(path: Path, reader: Connection) -> Connection:
    """The index of the database that ``reader`` reads, to be written; a new one where there is none
    that fits.

    Raises:
        StoreError: it cannot be made.
    """
    if path.exists():
        try:
            connection = _connected(path)
        except IndexBroken:
            pass
        else:
            if _fits(connection, reader):
                return connection
            connection.close()
    drop_index(path)
    return make_index(path, reader)


def make_index(path: Path, reader: Connection) -> Connection:
    """One without a row."""
    connection = _connected(path)
    timeline, _newest, _oldest, deletion_id = extent(reader)
    with usable(), transaction(connection):
        connection.execute(sql_of("search", "create_state"))
        connection.execute(sql_of("search", "create_shards"))
        connection.execute(
            sql_of("search", "insert_state"),
            {"form": FORM, "timeline": timeline, "deletion_id": deletion_id},
        )
    return connection


def _connected(path: Path) -> Connection:
    """Raises ``IndexBroken`` also where SQLite may only read what we may write: a newer one has
    written it, or its header is damaged.
    """
    try:
        return _opened(path)
    except IndexBroken:
        raise
    except StoreError as exc:
        code = getattr(exc.__cause__, "sqlite_errorcode", None)
        if code == driver.SQLITE_READONLY and os.access(path, os.W_OK):
            raise IndexBroken(str(exc)) from exc
        raise


def _opened(path: Path) -> Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode=rwc"
    with usable():
        connection = driver.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            (schema,) = connection.execute("PRAGMA schema_version").fetchone()
            if schema and application_id != APPLICATION_ID:
                raise IndexBroken(f"{path} is another application's")
            if not schema:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for name, value in PRAGMAS:
                connection.execute(f"PRAGMA {name} = {value}").fetchone()
            connection.execute(f"PRAGMA user_version = {FORM}")  # whether it may be written
        except BaseException:
            connection.close()
            raise
    return connection


def extent(reader: Connection) -> tuple[str, int, int, int]:
    with translated("the results cannot be read"):
        timeline, newest, oldest, deletion_id = reader.execute(
            sql("select_newest_searchable")
        ).fetchone()
    return timeline or "", newest, oldest, deletion_id


def position_of(connection: Connection) -> Position:
    """How far the index is.

    Raises:
        IndexBroken: it does not say.
    """
    with usable():
        row = connection.execute(sql_of("search", "select_state")).fetchone()
    if row is None:
        raise IndexBroken("the search index has no state")
    return Position(*row)


def is_of(position: Position, reader: Connection) -> bool:
    """Whether an index that is so far is one of the database that ``reader`` reads."""
    timeline, newest, _oldest, deletion_id = extent(reader)
    if (position.form, position.timeline) != (FORM, timeline):
        return False
    with translated("the results cannot be read"):
        found = reader.execute(sql("select_digest_of"), {"seq": position.seq}).fetchone()
    if found is not None:
        return bool(found[0] == position.digest)
    # its last row is deleted, which leaves a tombstone; else the file is older than the index
    return position.seq <= newest or deletion_id > 0 or position.seq == 0


def _fits(connection: Connection, reader: Connection) -> bool:
    try:
        return is_of(position_of(connection), reader)
    except IndexBroken:
        return False


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    connection.execute(sql("begin"))
    try:
        yield
        connection.execute(sql("commit"))
    except BaseException:
        if connection.in_transaction:
            connection.execute(sql("rollback"))
        raise
