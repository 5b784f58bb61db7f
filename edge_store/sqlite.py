"""The one place that opens databases: driver, version check, pragmas, readers, the writer.

Driver: pysqlite3 (bundles a current SQLite) where there is a wheel, else the standard library's.
The database file itself is never ``open()``ed: closing any descriptor on it would drop SQLite's
POSIX locks in this process. Every foreign error is translated here, by its SQLite code.
"""

import fcntl
import os
import sqlite3 as standard
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import quote

from edge_store.bodies import complete
from edge_store.errors import Corrupt, DiskFull, NotAnEdgeStoreFile, StoreError, VulnerableSQLite
from edge_store.place import FOLDER_HINT, NO_DATABASE, Place, packed_hint, unopened_hint

if TYPE_CHECKING:
    import sqlite3 as driver  # the same interface, and the one with annotations

    import aiosqlite
else:
    try:
        from pysqlite3 import dbapi2 as driver
    except ImportError:  # no wheel for this machine: the version check below decides
        import sqlite3 as driver

__all__ = [
    "APPLICATION_ID",
    "PAGE_BYTES",
    "SQLITE_ERRORS",
    "Connection",
    "DatabaseThread",
    "check_integrity",
    "complete_statement",
    "driver",
    "is_index_held",
    "is_vulnerable",
    "open_copy",
    "open_foreign",
    "open_reader",
    "open_scanner",
    "open_without_wal",
    "open_writer",
    "require_safe_sqlite",
    "translated",
]

Connection = driver.Connection
complete_statement = driver.complete_statement
SQLITE_ERRORS = (driver.Error, standard.Error)

APPLICATION_ID = 0x65646773  # "edgs"
FLOCK = "@hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process
INDEX_HELD_BYTE = 128  # of the -shm file: locked by each connection (UNIX_SHM_DMS in os_unix.c)
PAGE_BYTES = 2048  # a COMMIT writes whole pages of a dozen B-trees: ADR 13

# Read back after they are set; a connection that cannot have them is not a writer.
WRITER_PRAGMAS: tuple[tuple[str, int | str, str], ...] = (
    ("journal_mode", "wal", "readers never wait for the writer, and Litestream reads the WAL"),
    ("synchronous", 2, "FULL: a commit survives a power cut; NORMAL lost a quarter of them"),
    ("wal_autocheckpoint", 0, "Litestream owns checkpoints: with 1000 its replicas were corrupt"),
    ("secure_delete", 1, "what is forgotten is overwritten, not only unlinked"),
    ("foreign_keys", 1, "outputs and requests go with their result"),
)

MAPPED_BYTES_MAX = 2**40
RESTORE_HINT = (
    "keep the file; `edge-store replica restore --to FILE` rebuilds it, with the box's --config, "
    "or anywhere with --from URL --device ID"
)
STRICT_SINCE = (3, 37, 0)
VULNERABLE_FROM, VULNERABLE_UNTIL = (3, 7, 0), (3, 51, 3)

P = ParamSpec("P")
T = TypeVar("T")


# The driver looks twice in vain for how to bind a NULL or a BLOB: 1 µs each, and a row has some
# thirty. An adapter that changes nothing ends the search; these are no Python.
NOTHING: dict[None, None] = {}  # gets None for None
driver.register_adapter(type(None), NOTHING.get)
driver.register_adapter(bytes, bytes.__bytes__)


def is_vulnerable(version: tuple[int, ...] = driver.sqlite_version_info) -> bool:
    """Whether this SQLite has the WAL-reset bug (sqlite.org/wal.html#the_wal_reset_bug)."""
    return VULNERABLE_FROM <= version < VULNERABLE_UNTIL


def require_safe_sqlite(*, allow_vulnerable: bool) -> None:
    """Raises ``VulnerableSQLite`` on a SQLite that may corrupt a replicated database."""
    if is_vulnerable() and not allow_vulnerable:
        raise VulnerableSQLite(
            f"SQLite {driver.sqlite_version} has the WAL-reset bug, which can corrupt the database "
            "while Litestream checkpoints it",
            hint="install pysqlite3 (x86-64) or a Python whose sqlite3 is 3.51.3 or newer; or, "
            "without replication, set store.allow_vulnerable_sqlite = true",
        )


@contextmanager
def translated(
    what: str, instead: Callable[[], str] = str, unopened: Callable[[], str] = str
) -> Iterator[None]:
    """Turn the driver's errors into ours; ``what`` begins the message. ``instead`` says what to do
    about what is no database, ``unopened`` about what cannot be opened.
    """
    try:
        yield
    except driver.Error as exc:
        code = getattr(exc, "sqlite_errorcode", None) or 0
        match code & 0xFF:
            case driver.SQLITE_FULL:
                raise DiskFull(f"{what}: {exc}", hint="free space on the database's disk") from exc
            case driver.SQLITE_CORRUPT:
                raise Corrupt(f"{what}: {exc}", hint=RESTORE_HINT) from exc
            case driver.SQLITE_READONLY:
                raise StoreError(
                    f"{what}: {exc}",
                    hint="the user of this process must own the database and its -wal and -shm "
                    "files, or be in their group with the right to write",
                ) from exc
            case driver.SQLITE_NOTADB:
                hint = instead() or "point to another file"
                raise NotAnEdgeStoreFile(f"{what}: {exc}", hint=hint) from exc
            case driver.SQLITE_CANTOPEN:
                raise StoreError(f"{what}: {exc}", hint=unopened()) from exc
            case _:
                raise StoreError(f"{what}: {exc}") from exc
    except UnicodeDecodeError as exc:  # of SQLite's message, which quotes the schema
        raise Corrupt(f"{what}: its schema is malformed", hint=RESTORE_HINT) from exc


def open_writer(path: Path, *, busy_timeout_ms: int = 5000, same_thread: bool = True) -> Connection:
    """Open for writing, create if absent, with ``WRITER_PRAGMAS``. Autocommit: we say BEGIN.

    ``same_thread=False`` leaves it to the caller that one thread at a time uses it.

    Raises:
        NotAnEdgeStoreFile: it is another application's database. It is left as it was.
        StoreError: it cannot be opened, or a pragma did not take.
    """
    with translated(f"{path} cannot be opened for writing"):
        if path.exists():
            _refuse_foreign(path)
        connection = driver.connect(
            str(path),
            isolation_level=None,
            timeout=busy_timeout_ms / 1000,
            cached_statements=256,
            check_same_thread=same_thread,
        )
        try:
            _claim(connection)
            for name, value, _reason in WRITER_PRAGMAS:
                connection.execute(f"PRAGMA {name} = {value}")
                (found,) = connection.execute(f"PRAGMA {name}").fetchone()
                if found != value:
                    raise StoreError(f"{path}: PRAGMA {name} is {found!r}, not {value!r}")
        except BaseException:
            connection.close()
            raise
        return connection


def _refuse_foreign(path: Path) -> None:
    """Look at the file without the right to write: to close another application's WAL database
    with that right would checkpoint it.
    """
    try:
        application_id, schema = _whose(path, "ro")
    except driver.OperationalError as exc:
        code = getattr(exc, "sqlite_errorcode", None) or 0
        is_cut = path.with_name(f"{path.name}-journal").exists()
        if code & 0xFF != driver.SQLITE_READONLY or not is_cut:
            raise
        # Its first transaction was cut before it was in WAL mode. Whoever opens it rolls that back.
        application_id, schema = _whose(path, "rw")
    if schema and application_id != APPLICATION_ID:
        raise NotAnEdgeStoreFile(
            f"{path} is a database with application_id {application_id}, not edge-store's",
            hint="point store.path at another file",
        )


def _whose(path: Path, mode: str) -> tuple[int, int]:
    """Its application_id and its schema_version."""
    connection = driver.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True)
    try:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA schema_version").fetchone()
    finally:
        connection.close()
    return application_id, schema


def _claim(connection: Connection) -> None:
    """Mark a new file as ours."""
    (schema,) = connection.execute("PRAGMA schema_version").fetchone()
    if not schema:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def open_scanner(path: Path) -> Connection:
    """Open read-only for who reads everything, in a process of its own that may be lost.

    It reads from a memory map, which saves a system call for each page; a disk that fails is a
    SIGBUS then. The driver is the standard library's where that knows our tables: an SQL function
    gets all values of a row there at once, and whole. Its errors are not translated. The process
    must not open the file by the other driver too: two SQLite in one drop each other's locks.
    """
    module = standard if standard.sqlite_version_info >= STRICT_SINCE else driver
    connection = _open_reader(module, path, 5000)
    connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES_MAX}")
    return connection


def open_reader(path: Path, *, busy_timeout_ms: int = 5000) -> Connection:
    """Open read-only (``mode=ro`` and ``query_only``); works beside a running daemon.

    Raises:
        NotAnEdgeStoreFile: there is no such file, or it is not a database of ours.
        StoreError: it cannot be read.
    """
    return _open_reader(driver, path, busy_timeout_ms)


def _open_reader(module: Any, path: Path, busy_timeout_ms: int) -> Connection:
    if path.is_dir():
        raise NotAnEdgeStoreFile(f"{path} is a folder, and no database", hint=FOLDER_HINT)
    if not path.is_file():
        raise NotAnEdgeStoreFile(f"{path}: there is no such file", hint=NO_DATABASE)
    hints = (lambda: packed_hint(path)), (lambda: unopened_hint(path))
    with translated(f"{path} cannot be read", *hints):
        connection: Connection = module.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro", uri=True,
            isolation_level=None, timeout=busy_timeout_ms / 1000, check_same_thread=False,
        )  # fmt: skip
        try:
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            if application_id == APPLICATION_ID:
                complete(connection)
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
    if application_id != APPLICATION_ID:
        connection.close()
        if path.stat().st_size == 0:
            raise NotAnEdgeStoreFile(f"{path} is empty, and no database", hint=RESTORE_HINT)
        raise NotAnEdgeStoreFile(
            f"{path} is a database with application_id {application_id}, not one of edge-store's"
        )
    return connection


def open_without_wal(path: Path) -> Connection:
    """Open read-only what the last checkpoint left, as if there were no WAL. If one was cut short,
    that is no consistent state: believe only what proves itself.
    """
    uri = f"file:{quote(str(path.absolute()))}?immutable=1"
    with translated(f"{path} cannot be read"):
        return driver.connect(uri, uri=True, isolation_level=None)


def open_foreign(path: Path) -> Connection:
    """Open another application's database read-only."""
    with translated(f"{path} cannot be read"):
        return driver.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)


def open_copy(path: Path, *, is_lasting: bool = True, mapped_bytes: int = 0) -> Connection:
    """Open a restored file that nobody else has open, and take it out of WAL mode, so that once it
    is closed it is one file that anyone who can read it can query. Unless it ``is_lasting``,
    nothing is flushed. ``mapped_bytes`` of it are read from a memory map: see ``open_scanner``.

    Raises:
        NotAnEdgeStoreFile: it is not a database of ours.
        StoreError: it cannot be opened, or somebody else has it open.
    """
    with translated(f"{path} cannot be opened"):
        connection = driver.connect(
            f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, isolation_level=None
        )
        try:
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            if application_id != APPLICATION_ID:
                raise NotAnEdgeStoreFile(f"{path} is a database, but not one of edge-store's")
            connection.execute(f"PRAGMA mmap_size = {mapped_bytes}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_lasting else 'OFF'}")
            connection.execute("PRAGMA foreign_keys = ON")
            (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            if mode != "delete":
                raise StoreError(f"{path} stays in journal mode {mode}: somebody has it open")
            complete(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def check_integrity(connection: Connection, *, full: bool = False) -> str:
    """``"ok"``, or the first thing that SQLite finds wrong with the file."""
    (answer,) = connection.execute(
        "PRAGMA integrity_check(1)" if full else "PRAGMA quick_check(1)"
    ).fetchone()
    return str(answer)


class DatabaseThread:
    """One connection on aiosqlite's thread.

    ``run`` hands a whole function to that thread, so a transaction is one plain function that
    nothing can interleave with, and costs one hop between threads instead of one per statement.
    Cancelling ``run`` does not stop the function. Only ``close`` closes: one that is open is never
    collected, as aiosqlite would close it then, and the last one to close deletes the WAL.
    """

    _all_open: ClassVar[set["DatabaseThread"]] = set()
    _place: Place | None = None

    def __init__(
        self, connection: "aiosqlite.Connection", connect: Callable[[], Connection]
    ) -> None:
        self._connection = connection
        self._connect = connect
        self._all_open.add(self)

    @classmethod
    async def open(
        cls, connect: Callable[[], Connection], path: Path | None = None
    ) -> "DatabaseThread":
        """Start the thread and call ``connect`` on it. Raises what ``connect`` raises. ``path``: of
        the file, for ``require_in_place``.
        """
        import aiosqlite  # noqa: PLC0415  (with asyncio, a fifth of the start of a command)

        opened = cls(await aiosqlite.Connection(connect, 64), connect)
        opened._place = None if path is None else Place(path)
        return opened

    def require_in_place(self) -> None:
        """Raises ``NotAnEdgeStoreFile`` when the path no longer leads to the file that is open."""
        if self._place is not None:
            self._place.require()

    async def run(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``function(connection, …)`` on the thread."""
        # aiosqlite has no public call for this; its own methods are all made of this one.
        result = await self._connection._execute(self._call, function, args, kwargs)  # type: ignore[no-untyped-call]  # noqa: SLF001
        return cast("T", result)

    def _call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        return function(self._connection._conn, *args, **kwargs)  # noqa: SLF001  (the newest)

    async def reopen(self) -> None:
        """Call ``connect`` again and use what it returns from now on. Raises what it raises; then
        the old connection stays. The old one is closed second, so that it is not the last.
        """

        def replace(old: Connection) -> None:
            self._connection._connection = self._connect()  # noqa: SLF001
            with suppress(driver.Error):
                old.close()

        await self.run(replace)

    async def close(self) -> None:
        """Close the connection and end its thread."""
        self._all_open.discard(self)
        await self._connection.close()


def is_index_held(path: Path) -> bool:
    """Whether a connection of another process keeps the WAL's index (``-shm``) in use.

    Call it while this process has no connection to the file. Only where the index is not held
    does the next connection rebuild it from the WAL. That matters after a crash: a process killed
    between writing a commit's frames and entering them in the index leaves a commit that an index
    in use hides, and that Litestream, which reads the WAL itself, may have replicated.
    """
    try:
        descriptor = os.open(path.with_name(f"{path.name}-shm"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, INDEX_HELD_BYTE, 1, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    finally:
        os.close(descriptor)
    return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)
