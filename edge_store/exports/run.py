"""An export from its beginning, or from its mark, to the newest result of now."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import msgspec

from edge_store.errors import ExportFailed, InvalidRequest
from edge_store.exports.files import STDOUT
from edge_store.exports.kinds import Export, Job, opened
from edge_store.exports.mark import Mark, keeping, mark_beside, read_mark, write_mark
from edge_store.exports.pages import Place, Source
from edge_store.selection import Selection
from edge_store.sqlitefiles import PARTS, require_no_database

__all__ = ["begun", "export"]

Progress = Callable[[int, int], None]

NO_FILTERS = (Selection(), False)
PACKERS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}


def begun(job: Job, source: Source, state: Path | None, *, resume: bool, after: int) -> Mark:
    """Where to begin: the mark at ``state`` with ``resume``, else behind ``after``.

    Raises:
        InvalidRequest: there is an export already, or not this one.
    """
    _require_not_the_box(job, source, state)
    found = read_mark(state) if state is not None else None
    if found is not None and resume:
        if not _is_to_the_same(job, found):
            raise InvalidRequest(
                f"{state} is the state of an export of {found.whose}",
                hint="name another --state, or another target; --force begins anew over it",
            )
        if _filters(job) not in (NO_FILTERS, _filters(found)):
            raise InvalidRequest(
                f"an export goes on with the filters that it began with: it is of {found.whose}",
                hint="leave them out, or begin anew with --force",
            )
        source.require_continues(found)
        return found
    if not job.restart:
        if found is not None:
            _require_same(job, source, state, found)
        _require_new(job, state)
    return Mark(
        format=job.kind,
        target=_name(job),
        device_id=source.device_id,
        seq=after,
        selection=job.selection,
        bodies=job.bodies,
    )


def _name(job: Job) -> str:
    return job.target if "://" in job.target else Path(job.target).name


def _require_not_the_box(job: Job, source: Source, state: Path | None) -> None:
    """Raises ``InvalidRequest``: not even --force writes over the database that is read, however it
    is called there, nor over another one.
    """
    paths = [] if "://" in job.target or job.target == STDOUT else [Path(job.target)]
    database = source.path.resolve()
    of_the_box = [database, *(Path(f"{database}{end}") for end in PARTS)]
    for path in paths:
        if path.is_fifo():
            raise InvalidRequest(
                f"{path} is a pipe, and no file",
                hint=f"export to - and lead that there: - > {path}",
            )
    for path in [*paths, *([state] if state is not None else [])]:
        if any(_is_same(path, each) for each in of_the_box):
            raise InvalidRequest(
                f"{path} is the database that is to be exported", hint="name another file"
            )
        require_no_database(path)


def _is_same(path: Path, other: Path) -> bool:
    """Whether they are one file, or would be: neither needs to be there."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other


def _filters(of: Job | Mark) -> tuple[Selection, bool]:
    return of.selection, of.bodies


def _is_to_the_same(job: Job, mark: Mark) -> bool:
    return (mark.format, mark.target) == (job.kind, _name(job))


def _require_same(job: Job, source: Source, state: Path | None, found: Mark) -> None:
    """Raises ``InvalidRequest``: ``found`` is another's, which could not go on without it."""
    is_its = _is_to_the_same(job, found) and found.device_id == source.device_id
    if not is_its or _filters(job) != _filters(found):
        raise InvalidRequest(
            f"{state} is the state of another export: of {found.whose}",
            hint="give this one a --state of its own; --force writes over that one",
        )


def _require_new(job: Job, state: Path | None) -> None:
    """Raises ``InvalidRequest`` where something would be lost, or not be what it is called."""
    if (packer := PACKERS.get(Path(job.target).suffix)) and "://" not in job.target:
        raise InvalidRequest(
            f"{job.target} would not be packed: an export is written as it is",
            hint=f"edge-store export --to {job.kind} - | {packer} > {job.target}",
        )
    there = state if state is not None and state.exists() and not _is_empty(state) else None
    if "://" not in job.target and job.target != STDOUT:
        path = Path(job.target)
        beside = mark_beside(path)
        is_there = path.exists() and not _is_empty(path)
        is_begun = beside.exists() and not _is_empty(beside)
        there = path if is_there else beside if is_begun else there
    if there is not None:
        raise InvalidRequest(
            f"{there} is there already",
            hint="--resume goes on with an export, --force begins it anew over what is there",
        )


def _is_empty(path: Path) -> bool:
    """A folder or a file with nothing in it, as a kill leaves one before its first mark."""
    return not any(path.iterdir()) if path.is_dir() else path.is_file() and not path.stat().st_size


def _require_newest(job: Job, mark: Mark, state: Path) -> None:
    """Raises ``InvalidRequest``: another export has written there since ``mark`` was made."""
    found = read_mark(state)
    if job.restart or found == mark or (found is None and not mark.digest):
        return
    raise InvalidRequest(
        f"another export has changed {state} meanwhile",
        hint="--resume goes on from there, --force begins anew",
    )


def export(
    job: Job, source: Source, mark: Mark, state: Path | None, progress: Progress | None = None
) -> Mark:
    """Write what is wanted after the mark; the mark that it came to.

    Raises:
        EdgeStoreError: it cannot be written or read. ``state`` tells how far it came.
        OSError: standard output takes no more.
    """
    job = job._replace(selection=mark.selection, bodies=mark.bodies)
    try:
        alone = nullcontext() if state is None else keeping(state)
        with alone, closing(opened(job, mark)) as target:
            if state is not None:  # now that no other writes there, and before anything is cut
                _require_newest(job, mark, state)
                write_mark(state, mark)
            target.begin()
            return _written(target, source, mark, state, progress or (lambda _seq, _rows: None))
    except PermissionError:
        raise  # it has a hint of its own
    except OSError as exc:
        if job.target == STDOUT:
            raise
        raise ExportFailed(
            f"{exc.filename or job.target} cannot be written: {exc.strerror or exc}",
            hint="" if state is None else "make room, or mend it; --resume then goes on with it",
        ) from exc


def _written(
    target: Export, source: Source, mark: Mark, state: Path | None, progress: Progress
) -> Mark:
    skipped = Counter(mark.skipped)
    rows, place = mark.rows, Place(mark.seq, mark.timeline, mark.digest)

    def marked() -> Mark:
        offset = target.sync()
        made = msgspec.structs.replace(
            mark,
            **{**place._asdict(), "offset": offset, "rows": rows, "skipped": dict(skipped)},
        )
        if state is not None:
            write_mark(state, made)
        return made

    for page in source.pages(mark.seq, target.fetch):
        rows += target.write(page, skipped)
        place = page.upto
        progress(place.seq, rows)
        if target.is_due():
            marked()
    return marked()
