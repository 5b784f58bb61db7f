"""A backup: one file of the whole database as it is at one moment, and a manifest beside it.

The copy is made by SQLite's backup API within one read transaction, as fast as the disk takes it,
and nothing else is done meanwhile: as long as that transaction lasts, no checkpoint can begin the
WAL anew. (In steps without it, each COMMIT of the daemon would begin the copy again; VACUUM INTO
reads as long and computes besides.) Checking, hashing and compressing are done on the copy. The
backup and its manifest appear complete, by a rename each, the manifest last.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from edge_store import __version__
from edge_store.chain import ChainCheck
from edge_store.clock import now_ms, rfc3339, utc_text
from edge_store.errors import BackupFailed, DiskFull, EdgeStoreError, SchemaTooNew, VerifyFailed
from edge_store.identity import create_identity, read_device_id
from edge_store.place import ZSTD_MAGIC
from edge_store.replica.rebuild import Progress, Stage
from edge_store.replica.restore import publish
from edge_store.result import Record
from edge_store.schema import SCHEMA_VERSION
from edge_store.sql import sql
from edge_store.sqlite import (
    Connection,
    check_integrity,
    driver,
    open_copy,
    open_reader,
    translated,
)
from edge_store.sqlitefiles import PARTS
from edge_store.verify import verify_file

__all__ = [
    "Manifest",
    "backup",
    "check_backup",
    "is_backup",
    "manifest_path",
    "read_manifest",
    "restore_backup",
]

PAGES_AT_ONCE = 4096  # 8 MiB between two looks at the clock
CHUNK_BYTES = 4 * 1024 * 1024
LEVEL = 3
MANIFEST_BYTES_MAX = 64 * 1024
FAULTS_SHOWN = 3

OnProgress = Callable[[Progress], None]


class Manifest(Record, frozen=True, kw_only=True):
    """What a backup is. ``sha256`` is of the file itself; the chain ends in ``newest_digest``."""

    object: str = "edge_store.backup"
    file: str
    sha256: str
    bytes: int
    compression: str | None
    database_bytes: int
    database_sha256: str
    device_id: str
    timeline: str
    seq: int
    results: int
    commits: int
    newest_digest: str
    newest_at: str | None
    schema_version: int
    version: str  # of edge-store
    copied_in_s: float  # how long no checkpoint could begin the WAL anew
    created_at: str


class State(Record, frozen=True, kw_only=True):
    """Of a database."""

    device_id: str
    timeline: str
    seq: int
    schema_version: int


def backup(database: Path, to: Path, *, compress: bool, on_progress: OnProgress) -> Manifest:
    """Write a checked backup of ``database`` to ``to``; in a folder, under a name that says which.

    Raises:
        BackupFailed: ``to`` is there already, or what was copied does not hold.
        DiskFull: there is too little room for the copy.
        NotAnEdgeStoreFile, StoreError: there is no database, or it cannot be read.
    """
    with closing(open_reader(database)) as source, translated(f"{database} cannot be copied"):
        _state(source)
        size = _size(source)
        folder = to if to.is_dir() else to.parent
        if folder != to:
            _refuse_what_is_there(to, manifest_path(to))
        _require_room(folder, size + (size // 2 if compress else 0))
        scratch = tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=folder)
        with scratch as name:
            copy = Path(name) / "copy.db"
            began = time.monotonic()
            _copy(source, copy, on_progress)
            source.close()
            seconds = time.monotonic() - began
            return _published(copy, to, seconds, compress=compress, on_progress=on_progress)


def _copy(source: Connection, copy: Path, on_progress: OnProgress) -> None:
    page = source.execute("PRAGMA page_size").fetchone()[0]

    def show(_status: int, remaining: int, total: int) -> None:
        done = (total - remaining) * page
        on_progress(Progress(stage=Stage.COPYING, done=done, expected=total * page))

    with closing(driver.connect(str(copy), isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode = OFF")  # `publish` flushes it, or it is thrown away
        target.execute("PRAGMA synchronous = OFF")
        source.execute(sql("begin_reading"))
        source.execute(sql("select_extent")).fetchone()  # now it has begun
        source.backup(target, pages=PAGES_AT_ONCE, progress=show, sleep=0)
        source.execute(sql("rollback"))


def _published(
    copy: Path, to: Path, seconds: float, *, compress: bool, on_progress: OnProgress
) -> Manifest:
    on_progress(Progress(stage=Stage.CHECKING))
    check, state = _checked(copy)
    size = copy.stat().st_size
    with copy.open("rb") as file:
        database_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    done = copy
    if compress:
        done = copy.with_name("copy.db.zst")
        _compress(copy, done, size, on_progress)
        copy.unlink()
    with done.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest(
        file=_name(state, compress=compress) if to.is_dir() else to.name,
        sha256=sha256,
        bytes=done.stat().st_size,
        compression="zstd" if compress else None,
        database_bytes=size,
        database_sha256=database_sha256,
        device_id=state.device_id,
        timeline=state.timeline,
        seq=state.seq,
        results=check.results,
        commits=check.commits,
        newest_digest=check.newest_digest.hex(),
        newest_at=None if check.newest_at is None else rfc3339(check.newest_at),
        schema_version=state.schema_version,
        version=__version__,
        copied_in_s=round(seconds, 3),
        created_at=rfc3339(now_ms()),
    )
    if to.is_dir():
        to = to / manifest.file
    beside = copy.with_name("manifest")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    _refuse_what_is_there(to, manifest_path(to))
    publish(done, to)
    publish(beside, manifest_path(to))
    return manifest


def _compress(copy: Path, to: Path, size: int, on_progress: OnProgress) -> None:
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    with (
        copy.open("rb") as source,
        to.open("wb") as target,
        compressor.stream_writer(target, size=size, closefd=False) as writer,
    ):
        _pump(source, writer.write, Stage.COMPRESSING, size, on_progress)


def _pump(
    source: IO[bytes],
    write: Callable[[bytes], object],
    stage: Stage,
    expected: int,
    on_progress: OnProgress,
) -> None:
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        write(chunk)
        done += len(chunk)
        on_progress(Progress(stage=stage, done=done, expected=expected))


def _checked(copy: Path) -> tuple[ChainCheck, State]:
    """Every page and every digest; closes it as one file, outside WAL mode.

    Raises:
        BackupFailed: it does not hold. The live file may be damaged, too.
    """
    hint = "the live file may be damaged: `edge-store doctor --full`, `edge-store verify`"
    with closing(open_copy(copy)) as connection, translated("the copy cannot be checked"):
        found = check_integrity(connection, full=True)
        state = _state(connection)
    if found != "ok":
        raise BackupFailed(f"the copy is damaged: {found}", hint=hint)
    check = verify_file(copy)
    if check.faults:
        shown = "; ".join(check.faults[:FAULTS_SHOWN])
        raise BackupFailed(f"the digest chain of the copy does not hold: {shown}", hint=hint)
    return check, state


def _state(connection: Connection) -> State:
    device_id = read_device_id(connection)
    if device_id is None:
        raise BackupFailed(
            "the database is no box's yet", hint="it has nothing to back up: `edge-store init`"
        )
    (timeline, _reason) = connection.execute(sql("select_timeline")).fetchone()
    (seq,) = connection.execute(sql("select_last_seq")).fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return State(device_id=device_id, timeline=timeline, seq=seq, schema_version=version)


def _size(connection: Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * page)


def _name(state: State, *, compress: bool) -> str:
    made = utc_text(now_ms(), "%Y%m%dT%H%M%SZ")
    return f"{state.device_id}-{made}-seq{state.seq}.db{'.zst' * compress}"


def _refuse_what_is_there(*paths: Path) -> None:
    for path in paths:
        if path.exists() or path.is_symlink():
            raise BackupFailed(
                f"{path} is there already: nothing was written",
                hint="use another name, or remove it",
            )


def _require_room(folder: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        raise BackupFailed(f"{folder}: {exc.strerror}", hint="make that folder") from exc
    if free < needed:
        raise DiskFull(
            f"{folder} has {free} bytes free, and up to {needed} are needed",
            hint="free space there, or use another disk",
        )


def manifest_path(file: Path) -> Path:
    """Where the manifest of a backup lies."""
    return file.with_name(f"{file.name}.json")


def read_manifest(file: Path) -> Manifest | None:
    """None where there is none.

    Raises:
        BackupFailed: what lies there is none.
    """
    path = manifest_path(file)
    try:
        with path.open("rb") as opened:
            return msgspec.json.decode(opened.read(MANIFEST_BYTES_MAX), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as exc:
        raise BackupFailed(f"{path} is no manifest of a backup: {exc}") from exc


def is_backup(file: Path) -> bool:
    """Whether it is compressed, or has a manifest. A live database is not opened for that."""
    if manifest_path(file).is_file():
        return True
    if not file.is_file() or file.with_name(f"{file.name}-wal").exists():
        return False
    with file.open("rb") as opened:
        return opened.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC


def check_backup(file: Path, *, head: bytes | None, on_progress: OnProgress) -> ChainCheck:
    """Check its sha256, its pages and its chain, and that it is what the manifest says.

    Raises:
        VerifyFailed: it is not the file that was written, or no whole one.
    """
    with unpacked(file, Path(tempfile.gettempdir()), on_progress) as (copy, manifest):
        with closing(open_copy(copy, is_lasting=False)) as connection, translated(f"{file}"):
            found = check_integrity(connection, full=True)
        if found != "ok":
            raise VerifyFailed(f"{file} is damaged: {found}")
        known = bytes.fromhex(manifest.newest_digest) if manifest and manifest.commits else None
        check = verify_file(copy, head=head)
        if known is not None and known != check.newest_digest:
            raise VerifyFailed(f"{file} does not end in the digest that its manifest names")
        return check


@contextmanager
def unpacked(
    file: Path, folder: Path, on_progress: OnProgress
) -> Iterator[tuple[Path, Manifest | None]]:
    """The database of a backup, as a file of its own in ``folder``, removed at the end.

    Raises:
        VerifyFailed: it is not the file that its manifest is of, or cut.
        DiskFull: there is too little room.
    """
    manifest = read_manifest(file)
    with tempfile.TemporaryDirectory(prefix=".edge-store-backup.", dir=folder) as name:
        copy = Path(name) / "copy.db"
        hashing = hashlib.sha256()
        with file.open("rb") as source:
            is_packed = source.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
            source.seek(0)
            size = os.fstat(source.fileno()).st_size
            expected = _database_bytes(source, manifest, is_packed=is_packed)
            _require_room(folder, expected)

            with copy.open("wb") as target:
                unpacking = zstandard.ZstdDecompressor().stream_writer(target, closefd=False)
                write = unpacking.write if is_packed else target.write

                def take(chunk: bytes) -> None:
                    hashing.update(chunk)
                    write(chunk)

                try:
                    _pump(source, take, Stage.UNPACKING, size, on_progress)
                except zstandard.ZstdError as exc:
                    raise VerifyFailed(f"{file} is damaged: {exc}") from exc
        if manifest is not None and hashing.hexdigest() != manifest.sha256:
            raise VerifyFailed(
                f"{file} is not the file that was written: its sha256 is {hashing.hexdigest()}, "
                f"its manifest says {manifest.sha256}",
                hint="copy it again from where it was made",
            )
        if expected and copy.stat().st_size != expected:
            raise VerifyFailed(f"{file} was cut: of {expected} bytes it has {copy.stat().st_size}")
        yield copy, manifest


def _database_bytes(source: IO[bytes], manifest: Manifest | None, *, is_packed: bool) -> int:
    if manifest is not None:
        return manifest.database_bytes
    if not is_packed:
        return os.fstat(source.fileno()).st_size
    found = zstandard.frame_content_size(source.read(18))
    source.seek(0)
    return max(found, 0)


def restore_backup(file: Path, to: Path, *, on_progress: OnProgress) -> ChainCheck:
    """Make a database that can be served of a backup, under a new timeline: it hands out ``seq``
    numbers again that the box has used since. Checked; it appears whole.

    Raises:
        BackupFailed: ``to``, or a WAL of it, is there already.
        VerifyFailed, SchemaTooNew: the backup does not hold, or is of a newer edge-store.
        DiskFull: there is too little room.
    """
    # A WAL that lies beside would be played into the new file.
    _refuse_what_is_there(to, *(to.with_name(f"{to.name}{end}") for end in PARTS))
    with unpacked(file, to.parent, on_progress) as (copy, _manifest):
        on_progress(Progress(stage=Stage.CHECKING))
        try:
            check, state = _checked(copy)
        except BackupFailed as exc:
            raise VerifyFailed(f"{file}: {exc}", hint="take an older backup") from exc
        except EdgeStoreError as exc:
            raise VerifyFailed(f"{file} is no backup: {exc}") from exc
        if state.schema_version > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"{file} has schema {state.schema_version}; this edge-store knows {SCHEMA_VERSION}",
                hint="install the edge-store that wrote it, or a newer one",
            )
        with closing(open_copy(copy)) as connection, translated(f"{to} cannot be written"):
            create_identity(connection, state.device_id, reason="restored")
        _refuse_what_is_there(to)
        publish(copy, to)
    return check
