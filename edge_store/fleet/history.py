"""What a new copy of a box does to the older one: continue it, fall short of it, or contradict it.

Judged by the digest chain: a copy continues another when the other's newest commit is one of its
own. A box that was set up anew, or restored from an earlier point, contradicts what was pulled
before; then both are kept.
"""

from contextlib import closing
from pathlib import Path

from edge_store.clock import utc_text
from edge_store.errors import ReplicaBehind, StoreError
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, translated

__all__ = ["holds", "newest_of", "settle", "timeline_of"]

NAMES_MAX = 1000


class Newest(Record, frozen=True, kw_only=True):
    """The newest commit of a copy: UTC ms and digest."""

    at: int
    digest: bytes


def settle(old: Path, new: Path) -> Path | None:
    """Make room at ``old`` for ``new``. Returns where the older copy lies now, if it was kept.

    An older copy that cannot be read is kept too: it may be all there is of its commits.

    Raises:
        ReplicaBehind: ``new`` only lacks commits; ``old`` stays where it is.
    """
    if not old.exists():
        return None
    try:
        before = _newest(old)
    except StoreError:
        return _moved_aside(old, round(old.stat().st_mtime * 1000))
    if before is None or _holds(new, before):
        return None
    after = _newest(new)
    if after is None or _holds(old, after):
        raise ReplicaBehind(
            f"its replica ends at {utc_text(after.at) if after else 'no commit'}, "
            f"before the copy that is here, which is kept: it goes on to {utc_text(before.at)}",
            hint="the store was set back: see docs/operations.md",
        )
    return _moved_aside(old, before.at)


def timeline_of(path: Path) -> str | None:
    """The timeline that a copy ends in. Raises ``StoreError``: it cannot be read."""
    with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
        timeline: str | None = connection.execute(sql("select_copy_extent")).fetchone()[0]
    return timeline


def newest_of(connection: Connection) -> Newest | None:
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
        return newest_of(connection)


def _holds(path: Path, newest: Newest) -> bool:
    with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
        return holds(connection, newest)


def _moved_aside(old: Path, at: int) -> Path:
    """Rename to ``<device id>.<time of its newest commit>.db``. Replaces nothing."""
    stem = f"{old.stem}.{utc_text(at).replace(':', '')}"
    for number in range(1, NAMES_MAX):
        kept = old.with_name(f"{stem}{f'-{number}' if number > 1 else ''}{old.suffix}")
        if not kept.exists():
            return old.rename(kept)
    raise StoreError(f"{old.parent} holds {NAMES_MAX} older copies of {stem}")
