"""What is done to the files of the archive, in a process of its own: write one and read it back, or
write one anew without what was forgotten.
"""

import hashlib
from contextlib import closing
from pathlib import Path

import msgspec

from edge_store.archive.ledger import Archived, expand, ranges, read_archives
from edge_store.archive.parquet import Packed, decode, encode, faults_of, pack
from edge_store.archive.store import ArchiveStore
from edge_store.errors import ArchiveFailed
from edge_store.recorder.deletions import What
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, translated

__all__ = [
    "Job", "Rewrite", "Write", "Written", "carry_out", "checked", "names_unknown", "read_current",
    "read_file",
]  # fmt: skip

LOST_HINT = "put it back from a copy of the archive: what it holds may be nowhere else on this box"
LIBRARY_ERRORS = (ValueError, KeyError, TypeError, OSError)  # pyarrow's own are of these


class Write(Record, frozen=True, kw_only=True):
    """Put these results of a database into a file."""

    database: str
    url: str
    file: str
    what: What
    seqs: tuple[int, ...]


class Rewrite(Record, frozen=True, kw_only=True):
    """Put into ``file`` what ``archive`` holds, without ``seqs``."""

    url: str
    archive: Archived
    file: str
    seqs: tuple[int, ...]


class Job(Record, frozen=True, kw_only=True):
    """One of the two."""

    write: Write | None = None
    rewrite: Rewrite | None = None


class Written(Record, frozen=True, kw_only=True):
    """A file that was read back and is what it should be. ``odd``: results that are not as they
    were committed, and so are not in it. ``said``: the newest annotation and the newest repair by
    then; what came later is not in it.
    """

    seqs: tuple[tuple[int, int], ...] = ()
    bytes: int = 0
    sha256: str = ""
    odd: tuple[int, ...] = ()
    said: tuple[int, int] | None = None


def carry_out(job: Job) -> Written:
    """Do it. Raises what they raise."""
    if job.write is not None:
        return write(job.write)
    assert job.rewrite is not None
    return rewrite(job.rewrite)


def write(job: Write) -> Written:
    """The file is there, whole. Where nothing is to be in it, there is none.

    Raises:
        ArchiveFailed: it is not, or cannot be trusted.
        StoreError: the database cannot be read.
    """
    store = ArchiveStore(job.url)
    with (
        closing(open_reader(Path(job.database))) as connection,
        translated("what is to be archived cannot be read"),
    ):
        connection.execute(sql("begin_reading"))
        rows, odd = pack(connection, job.seqs)
        annotation, repair = connection.execute(sql("select_newest_said")).fetchone()
    if job.what is What.CONTENT:
        rows = [row for row in rows if row["request_body"] is not None]
    seqs = [row["seq"] for row in rows]
    if not seqs:
        return Written(odd=tuple(odd))
    content = encode(job.what, rows)
    del rows
    written = _put(store, job.file, job.what, content, seqs, odd)
    return msgspec.structs.replace(written, said=(annotation, repair))


def rewrite(job: Rewrite) -> Written:
    """The new file is there, whole; none where nothing is left.

    Raises:
        ArchiveFailed: it is not, or the old one is not what it was.
    """
    store = ArchiveStore(job.url)
    gone = set(job.seqs)
    rows = [row for row in read_file(store, job.archive) if row["seq"] not in gone]
    if not rows:
        return Written()
    seqs = [row["seq"] for row in rows]
    return _put(store, job.file, job.archive.what, encode(job.archive.what, rows), seqs, [])


def _put(
    store: ArchiveStore, file: str, what: What, content: bytes, seqs: list[int], odd: list[int]
) -> Written:
    store.put(file, content)
    sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    del content
    checked(store, file, what, sha256, seqs)
    return Written(seqs=ranges(seqs), bytes=size, sha256=sha256, odd=tuple(odd))


def read_file(store: ArchiveStore, archive: Archived) -> list[Packed]:
    """Its rows, checked.

    Raises:
        ArchiveFailed: it is not there, or not as it was written.
    """
    assert archive.sha256 is not None
    try:
        return checked(store, archive.file, archive.what, archive.sha256, expand(archive.seqs))
    except ArchiveFailed as exc:
        exc.hint = exc.hint or LOST_HINT
        raise


def read_current(store: ArchiveStore, connection: Connection, archive: Archived) -> list[Packed]:
    """Its rows, checked; where ``forget`` has written it anew meanwhile, the new one's, and none
    where it has emptied it. ``connection`` is in no transaction.

    Raises:
        ArchiveFailed: it is not there, or not as it was written.
    """
    try:
        return read_file(store, archive) if archive.rows else []
    except ArchiveFailed:
        now = {each.archive_no: each for each in read_archives(connection) if each.rows}
        new = now.get(archive.archive_no)
        if new is None:
            return []
        if new.file == archive.file:
            raise
        return read_current(store, connection, new)


def names_unknown(store: ArchiveStore, connection: Connection, device: str) -> list[str]:
    """Files that no row names: neither one that is whole nor one that is being written."""
    before = read_archives(connection)
    found = set(store.names(device))
    for each in (*before, *read_archives(connection)):
        found -= {each.file, each.stale}
    return sorted(found)


def checked(
    store: ArchiveStore, file: str, what: What, sha256: str, seqs: list[int]
) -> list[Packed]:
    """The rows of a file that is there as it was written, with these results, each as it was
    committed.

    Raises:
        ArchiveFailed: it is not.
    """
    content = store.get(file)
    if content is None:
        raise ArchiveFailed(f"{file} is not in the archive {store}")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ArchiveFailed(f"{file} in the archive {store} is not as it was written")
    try:
        rows = list(decode(content))
    except LIBRARY_ERRORS as exc:
        raise ArchiveFailed(f"{file} in the archive {store} cannot be read: {exc}") from exc
    if [row["seq"] for row in rows] != seqs:
        raise ArchiveFailed(f"{file} in the archive {store} does not hold what it should")
    for row in rows:
        fault = faults_of(what, row)
        if fault is not None:
            raise ArchiveFailed(f"{file} in the archive {store}: {fault}")
    return rows
