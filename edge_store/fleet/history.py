"""What a new copy of a box does to the older one: continue it, fall short of it, or contradict it.

Judged by the digest chain: a copy continues another when the other's newest commit is one of its
own. A box that was set up anew, or restored from an earlier point, contradicts what was pulled
before; then both are kept. So they are where the box's retention has deleted what only the older
copy has (see departed.py), and where only the older one says what was forgotten.
"""

import filecmp
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from edge_store.clock import utc_text
from edge_store.errors import Corrupt, ReplicaBehind, StoreError
from edge_store.fleet.departed import NOTHING, Taken, departs, newest_deletion
from edge_store.fleet.relations import open_compatible
from edge_store.replica.scratch import fsync
from edge_store.result import Record
from edge_store.search.file import drop_index, index_of_copy
from edge_store.sql import sql
from edge_store.sqlite import SQLITE_ERRORS, Connection, open_reader, translated

__all__ = [
    "End", "Kept", "drop_twin", "end_of", "holds", "look_up_end", "settle", "settle_continued",
    "timeline_of",
]  # fmt: skip

NAMES_MAX = 1000
DAMAGED = ".damaged"


class Newest(Record, frozen=True, kw_only=True):
    """The newest commit of a copy: UTC ms and digest."""

    at: int
    digest: bytes


class End(Record, frozen=True, kw_only=True):
    """Where a copy ends: the newest of its timelines, seqs, commits and deletions."""

    timeline: str | None
    seq: int
    commit: Newest | None
    deletion: tuple[int, int, str] | None


class Kept(NamedTuple):
    """Where an older copy lies that is kept. ``is_continued``: by the new one, which only lacks
    what the box's retention has deleted.
    """

    path: Path
    is_continued: bool = False


def settle(
    old: Path,
    new: Path,
    others: Sequence[Path] = (),
    taken: Callable[[Path], Taken] = lambda _copy: NOTHING,
) -> Kept | None:
    """Have ``new`` fit to take the place of ``old``. Returns where the older copy lies, too, if it
    is to be kept: it stays at ``old`` until ``new`` is renamed over it. See ``drop_twin``.
    ``others``: what is kept already; ``taken``: what the lake has of a copy.

    An older copy that cannot be read is kept too: it may be all there is of its commits. Its name
    ends in ``.damaged``, so that no command takes it for a copy.

    Raises:
        ReplicaBehind: ``new`` only lacks commits.
    """
    if not old.exists():
        return None
    try:
        before = _newest(old)
    except StoreError:
        return Kept(_kept_aside(old, round(old.stat().st_mtime * 1000), DAMAGED))
    if before is None:
        return None
    if _holds(new, before):
        if _forgotten(old) - _forgotten(new):  # the box was set back to before it forgot those
            return Kept(_kept_aside(old, before.at))
        return settle_continued(old, new, others, taken)
    after = _newest(new)
    if after is None or _holds(old, after):
        raise ReplicaBehind(
            f"its replica ends at {utc_text(after.at) if after else 'no commit'}, "
            f"before the copy that is here, which is kept: it goes on to {utc_text(before.at)}",
            hint="the store was set back: see docs/operations.md",
        )
    return Kept(_kept_aside(old, before.at))


def settle_continued(
    old: Path, new: Path, others: Sequence[Path], taken: Callable[[Path], Taken]
) -> Kept | None:
    """``settle``, where it is known that ``new`` goes on from ``old``."""
    if not departs(old, new, others, taken):
        return None
    newest = _newest(old)
    if newest is None:  # the box may have written anything
        raise Corrupt(f"{old} tells of deletions, and has no commit")
    return Kept(_kept_aside(old, newest.at), is_continued=True)


def drop_twin(kept: Path, current: Path) -> bool:
    """Remove what ``settle`` has kept, where nothing took the place of ``current`` after it."""
    if not (kept.exists() and current.exists() and _is_twin(kept, current)):
        return False
    drop_index(index_of_copy(kept))
    kept.unlink()
    return True


def timeline_of(path: Path) -> str | None:
    """The timeline that a copy ends in. Raises ``StoreError``: it cannot be read."""
    with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
        timeline: str | None = connection.execute(sql("select_copy_extent")).fetchone()[0]
    return timeline


def end_of(connection: Connection) -> End:
    """Of an open copy."""
    timeline, seq = connection.execute(sql("select_copy_extent")).fetchone()
    return End(
        timeline=timeline,
        seq=seq,
        commit=_newest_of(connection),
        deletion=newest_deletion(connection),
    )


def look_up_end(copy: Path) -> tuple[int, End | None]:
    """A copy's schema version, and where it ends; None where a newer schema does not tell."""
    with closing(open_reader(copy)) as connection, translated(f"{copy} cannot be read"):
        (version,) = connection.execute(sql("select_schema_version")).fetchone()
        with suppress(*SQLITE_ERRORS):
            return version, end_of(connection)
    return version, None


def _newest_of(connection: Connection) -> Newest | None:
    """None for a copy without commits."""
    row = connection.execute(sql("select_newest_commit")).fetchone()
    return Newest(at=row[0], digest=row[1]) if row else None


def holds(connection: Connection, before: Newest | None) -> bool:
    """Whether that is one of its commits."""
    if before is None:
        return True
    found = connection.execute(sql("select_commit_by_digest"), {"digest": before.digest})
    return found.fetchone() is not None


def _newest(path: Path) -> Newest | None:
    with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
        return _newest_of(connection)


def _holds(path: Path, newest: Newest) -> bool:
    with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
        return holds(connection, newest)


def _forgotten(path: Path) -> set[str]:
    """The ids that are to be forgotten everywhere."""
    with open_compatible(path) as connection, translated(f"{path} cannot be read"):
        return {name for (name,) in connection.execute(sql("select_forgotten_ids"))}


def _kept_aside(old: Path, at: int, end: str = "") -> Path:
    """As ``<device id>.<time of its newest commit>.db``, too. Replaces nothing."""
    stem = f"{old.stem}.{utc_text(at).replace(':', '')}"
    for number in range(1, NAMES_MAX):
        kept = old.with_name(f"{stem}{f'-{number}' if number > 1 else ''}{old.suffix}{end}")
        if kept.exists():
            if _is_twin(kept, old):  # of a pull that was killed before it went on
                return kept
            continue
        try:
            os.link(old, kept)
        except OSError:  # the file system has no links
            _copy(old, kept)
        fsync(old.parent)
        return kept
    raise StoreError(f"{old.parent} holds {NAMES_MAX} older copies of {stem}")


def _is_twin(kept: Path, current: Path) -> bool:
    return kept.samefile(current) or filecmp.cmp(kept, current, shallow=False)


def _copy(old: Path, kept: Path) -> None:
    part = kept.with_name(f".{kept.name}.part")
    try:
        shutil.copy2(old, part)
        fsync(part)
        part.rename(kept)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
