"""An export from its beginning, or from its mark, to the newest result of now."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import msgspec

from edge_store.errors import ExportFailed, InvalidRequest
from edge_store.exports.files import STDOUT
from edge_store.exports.kinds import Export, Job, opened
from edge_store.exports.mark import Mark, keeping, mark_beside, read_mark, write_mark
from edge_store.exports.pages import Place, Source

__all__ = ["begun", "export"]

Progress = Callable[[int, int], None]

PACKERS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}


def begun(job: Job, source: Source, state: Path | None, *, resume: bool, after: int) -> Mark:
    """Where to begin: the mark at ``state`` with ``resume``, else behind ``after``.

    Raises:
        InvalidRequest: there is an export already, or not this one.
    """
    found = read_mark(state) if resume and state is not None else None
    if found is not None:
        if (found.format, found.target) != (job.kind, _name(job)):
            raise InvalidRequest(
                f"{state} is of an export to {found.format}, {found.target}",
                hint="name another target, or begin anew with --force",
            )
        given = (job.selection, job.bodies)
        if given != (type(job.selection)(), False) and given != (found.selection, found.bodies):
            raise InvalidRequest(
                "an export goes on with the filters that it began with",
                hint="leave them, or begin anew with --force",
            )
        source.require_continues(found)
        return found
    if not job.restart:
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


def _require_new(job: Job, state: Path | None) -> None:
    """Raises ``InvalidRequest`` where something would be lost, or not be what it is called."""
    if (packer := PACKERS.get(Path(job.target).suffix)) and "://" not in job.target:
        raise InvalidRequest(
            f"{job.target} would not be packed: an export is written as it is",
            hint=f"edge-store export --to {job.kind} - | {packer} > {job.target}",
        )
    if "://" in job.target or job.target == STDOUT:
        there = state if state is not None and state.exists() else None
    else:
        path = Path(job.target)
        beside = mark_beside(path)
        is_there = path.exists() and not _is_empty(path)
        there = path if is_there else beside if beside.exists() else None
    if there is not None:
        raise InvalidRequest(
            f"{there} is there already",
            hint="--resume goes on with an export, --force begins it anew over what is there",
        )


def _is_empty(path: Path) -> bool:
    """A folder or a file with nothing in it, as a kill leaves one before its first mark."""
    return not any(path.iterdir()) if path.is_dir() else path.is_file() and not path.stat().st_size


def _require_newest(mark: Mark, state: Path) -> None:
    """Raises ``InvalidRequest``: another export has written to the place since ``mark`` was read.
    One that begins at the beginning writes everything itself.
    """
    if mark.digest and read_mark(state) != mark:
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
        with _alone(job, state), closing(opened(job, mark)) as target:
            if state is not None:  # now that no other writes there, and before anything is cut
                _require_newest(mark, state)
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


def _alone(job: Job, state: Path | None) -> AbstractContextManager[None]:
    """Beside a file or a folder, whose own lock is enough, none more."""
    is_beside = "://" not in job.target and state == mark_beside(Path(job.target))
    return nullcontext() if state is None or is_beside else keeping(state)


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
