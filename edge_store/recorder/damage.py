"""Damage: what is looked at before the database is opened for writing, and what is said of it.

Everything is read through connections that cannot write, so a file that is refused stays as it was,
its WAL too. The time is bounded, whatever the size of the file: the header and the schema, the
newest commits with the digests of their rows, whether the WAL is the one that was left and belongs
to this file; after a crash also SQLite's ``quick_check``, for a few seconds. Damage elsewhere shows
when it is met: by a COMMIT, by `edge-store doctor --full`, by a restore.
"""

import shlex
import struct
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from edge_store.chain import is_as_written
from edge_store.errors import Corrupt, EdgeStoreError, NotAnEdgeStoreFile, SchemaTooNew, StoreError
from edge_store.identity import read_device_id
from edge_store.ids import DeviceId
from edge_store.lock import DatabaseLock
from edge_store.loggers import get_logger
from edge_store.schema import SCHEMA_VERSION, require_schema
from edge_store.sql import sql
from edge_store.sqlite import (
    APPLICATION_ID,
    Connection,
    check_integrity,
    open_reader,
    open_without_wal,
    translated,
)

__all__ = ["examine", "recovery"]

log = get_logger(__name__)

LINKS_MAX = 64  # newest commits whose digests are computed again: up to 512 rows each
LINKS_TIMEOUT_S = 1.0
QUICK_CHECK_TIMEOUT_S = 3.0  # of a file in the page cache, about 1 GB
STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps
LEFT_BY_A_DATABASE = ("-wal", "-shm")
WHICH = "the restore lists them: give it --device ID"
FILES = ("", *LEFT_BY_A_DATABASE, "-journal")

# The head of the WAL's index, twice, and how much of the WAL has been moved into the database
# (sqlite.org/walformat.html#the_wal_index_file_format); native byte order.
INDEX_HEAD = struct.Struct("=IIIBBHII8s8s8s")
INDEX_VERSION = 3007000
MOVED = struct.Struct("=I")
INDEX_BYTES = 2 * INDEX_HEAD.size + MOVED.size


class WalIndex(NamedTuple):
    """What the index says of the WAL: ``frames`` are committed, ``moved`` are in the database."""

    salt: bytes  # another one each time the WAL begins anew
    frames: int
    moved: int


class Base(NamedTuple):
    """What the file holds without its WAL; None for what it does not show for certain."""

    is_ours: bool
    device_id: str | None
    link: tuple[int, bytes] | None  # number and digest of a commit


def examine(path: Path, lock: DatabaseLock, *, index_was_held: bool) -> None:
    """Refuse a database that may not be written. The file and its WAL are left as they are.

    Call it under the lock, while this process has no connection to the file.

    Raises:
        Corrupt: it is damaged, or has lost what was committed.
        NotAnEdgeStoreFile: it is missing, or something else lies in its place.
        SchemaTooNew: a newer edge-store wrote it.
        StoreError: it cannot be read.
    """
    if not _is_there(path, lock):
        return
    if path.with_name(f"{path.name}-journal").exists() and not lock.was_open:
        return  # its very first transaction was cut: whoever opens it to write rolls that back
    found = lock.damage_of(path)
    if found is not None and path.with_name(f"{path.name}-shm").exists():  # removed: given up
        raise Corrupt(f"{found} (found earlier; nothing has changed since)")
    base = _base(path)
    # Without another process in it, the next connection makes the index anew, from the WAL.
    is_telling = lock.was_open_in_this_boot and not index_was_held
    before, kept = _read_index(path) if is_telling else (None, b"")
    try:
        _look(path, base, was_open=lock.was_open)
        _compare(path, before, _read_index(path)[0])
    except NotAnEdgeStoreFile as exc:
        _put_index_back(path, kept)
        if not base.is_ours and not lock.was_open:
            raise
        raise Corrupt(f"{path} was edge-store's, and is damaged now: {exc}") from exc
    except BaseException as exc:
        _put_index_back(path, kept)
        if isinstance(exc, Corrupt):  # what shows it may be the index, which any reader makes anew
            lock.note_damage(path, str(exc))
        raise


def recovery(
    error: EdgeStoreError,
    database: Path,
    config: Path | None,
    url: str | None,
    device_id: DeviceId | None,
) -> str:
    """What to do about ``error``, with the commands for this box. ``url``: of its replica."""
    if isinstance(error, SchemaTooNew):
        return error.hint
    is_foreign = isinstance(error, NotAnEdgeStoreFile)
    is_missing = is_foreign and not database.exists()
    kept = "" if is_missing else "it was left as it is: "
    kept += error.hint if is_foreign else "keep it, whatever you do"
    if url is None:
        mine = "put the newest copy that you have in its place"
        return f"{kept}\n  there is no replica (replica.enabled = false): {mine}"
    commands = " &&\n    ".join(_commands(database.absolute(), config, device_id))
    if device_id is None:
        kept += f"\n  nothing here tells the box's id: if other boxes replicate there too, {WHICH}"
    return f"{kept}\n  if it is lost, this puts the replica of {url} in its place:\n    {commands}"


def _commands(database: Path, config: Path | None, device_id: DeviceId | None) -> list[str]:
    """Each for the case that the one before it succeeded. The folder for what is there bears the
    time: it is the evidence, and a second damage must not overwrite that of the first.
    """
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    restored, aside = database.with_name("restored.db"), database.with_name(f"damaged-{at}")
    names = [*(f"{database.name}{end}" for end in FILES), "litestream"]
    there = [path for name in names if (path := database.with_name(name)).exists()]
    commands: list[list[str | Path]] = [
        ["edge-store", "replica", "restore"],
        ["mkdir", aside],
        ["mv", *there, aside],
        ["mv", restored, database],
    ]
    commands[0] += ["--config", config.absolute()] if config else []
    commands[0] += ["--device", device_id] if device_id else []
    commands[0] += ["--to", restored]
    if not there:
        del commands[1:3]
    return [shlex.join(map(str, command)) for command in commands]


def _is_there(path: Path, lock: DatabaseLock) -> bool:
    """Whether there is a file with something in it; false where one may be made."""
    if path.is_file() and path.stat().st_size > 0:
        return True
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise NotAnEdgeStoreFile(f"{path} is {what}", hint="point store.path at a file")
    left = [f"{path.name}{end}" for end in LEFT_BY_A_DATABASE if _size(path, end) > 0]
    if not left and not lock.was_open:
        return False
    traces = ", ".join([*left, *([lock.path.name] if lock.was_open else [])])
    if path.is_file():
        raise Corrupt(f"{path} is empty, but a database was here: {traces} tell of it")
    raise NotAnEdgeStoreFile(
        f"{path} is missing, but a database was here: {traces} tell of it",
        hint=f"put it back; to begin anew without it, remove {traces} too",
    )


def _size(path: Path, end: str) -> int:
    beside = path.with_name(f"{path.name}{end}")
    return beside.stat().st_size if beside.is_file() else 0


def _base(path: Path) -> Base:
    """Read the file without its WAL. A checkpoint that was cut short may have left pages of two
    states: only a commit that the one after it confirms is believed.
    """
    is_ours, device_id, link = False, None, None
    with suppress(StoreError), closing(open_without_wal(path)) as connection, translated("base"):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        is_ours = application_id == APPLICATION_ID
        if is_ours:
            device_id = read_device_id(connection)
            links = connection.execute(sql("select_newest_links"), {"limit": 2}).fetchall()
            if len(links) == 2 and links[0][-1] == links[1][-2]:
                link = (links[1][0], links[1][-2])
    return Base(is_ours, device_id, link)


def _look(path: Path, base: Base, *, was_open: bool) -> None:
    with closing(open_reader(path)) as connection, translated(f"{path} is damaged"):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"{path} has schema {version}; this edge-store knows up to {SCHEMA_VERSION}",
                hint="install the edge-store that wrote it, or a newer one; or restore a state "
                "from before that (`edge-store replica restore --at TIME`)",
            )
        if version == 0 and was_open:
            raise Corrupt(f"{path} has no schema any more: another file lies in its place")
        if version < SCHEMA_VERSION:  # an older one, or a new one that is still empty
            return
        require_schema(connection, f"{path} is damaged")
        _continues(path, connection, base)
        _check_newest(path, connection)
        (ended,) = connection.execute(sql("select_last_boot_ended")).fetchone()
        if not ended:
            _check_pages(path, connection)


def _continues(path: Path, connection: Connection, base: Base) -> None:
    """What the file holds without its WAL must be there with it."""
    device_id = read_device_id(connection)
    is_same = base.device_id in (None, device_id)
    if is_same and base.link is not None:
        commit_id, digest = base.link
        is_same = connection.execute(sql("select_link"), {"commit_id": commit_id}).fetchone() == (
            digest,
        )
    if not is_same:
        raise Corrupt(f"{path}-wal belongs to another database, or to another state of this one")


def _check_newest(path: Path, connection: Connection) -> None:
    """Compute the newest digests of the chain again, from what is stored."""
    until = time.monotonic() + LINKS_TIMEOUT_S
    expected: bytes | None = None
    links = connection.execute(sql("select_newest_links"), {"limit": LINKS_MAX}).fetchall()
    for commit_id, *columns, digest, previous in links:
        if expected not in (None, digest):
            raise Corrupt(f"{path}: commit {commit_id} is not what the one after it followed")
        if not is_as_written(connection, (*columns, digest, previous)):
            raise Corrupt(f"{path}: commit {commit_id} is not as it was written, or its rows")
        expected = previous
        if time.monotonic() > until:
            return


def _check_pages(path: Path, connection: Connection) -> None:
    """SQLite's own check of all pages, for a while: the last start did not end by itself."""
    until = time.monotonic() + QUICK_CHECK_TIMEOUT_S
    connection.set_progress_handler(lambda: time.monotonic() > until, STEPS_BETWEEN_CHECKS)
    try:
        found = check_integrity(connection)
    except Exception:
        if time.monotonic() <= until:
            raise
        found = "interrupted"
    finally:
        connection.set_progress_handler(None, 0)
    if time.monotonic() > until:
        log.info("pages_not_all_checked", bound_s=QUICK_CHECK_TIMEOUT_S)
    elif found != "ok":
        raise Corrupt(f"{path}: {found}")


def _read_index(path: Path) -> tuple[WalIndex | None, bytes]:
    """What the WAL's index says, if it is one, and its bytes."""
    try:
        with path.with_name(f"{path.name}-shm").open("rb") as file:
            found = file.read(INDEX_BYTES)
    except OSError:
        return None, b""
    if len(found) < INDEX_BYTES or found[: INDEX_HEAD.size] != found[INDEX_HEAD.size :][:48]:
        return None, b""
    version, _, _, is_made, _, _, frames, _, _, salt, checksum = INDEX_HEAD.unpack_from(found)
    if version != INDEX_VERSION or not is_made or _checksum(found[:40]) != checksum:
        return None, b""
    (moved,) = MOVED.unpack_from(found, 2 * INDEX_HEAD.size)
    return WalIndex(salt, frames, moved), found


def _checksum(head: bytes) -> bytes:
    """SQLite's, of a WAL (sqlite.org/fileformat2.html#checksum_algorithm)."""
    one = two = 0
    for a, b in struct.iter_unpack("=II", head):
        one = (one + a + two) & 0xFFFFFFFF
        two = (two + b + one) & 0xFFFFFFFF
    return struct.pack("=II", one, two)


def _compare(path: Path, before: WalIndex | None, after: WalIndex | None) -> None:
    """What the index knew as committed must have been found in the WAL."""
    if before is None or before.frames <= before.moved:
        return
    found = after.frames if after is not None and after.salt == before.salt else 0
    if found < before.frames:
        raise Corrupt(
            f"{path}-wal holds {found} whole frames, and had {before.frames}: newer commits are "
            "lost, and the machine was not off in between"
        )


def _put_index_back(path: Path, kept: bytes) -> None:
    """So that the next start finds the same. Nobody reads it but the comparison above."""
    if kept:
        with suppress(OSError), path.with_name(f"{path.name}-shm").open("r+b") as file:
            file.write(kept)
