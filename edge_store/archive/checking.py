"""Reads the whole archive, and takes the digest of every result in it again."""

from collections.abc import Callable
from typing import NamedTuple

from edge_store.archive.ledger import read_archives
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import names_unknown, read_current
from edge_store.errors import ArchiveFailed
from edge_store.sqlite import Connection

__all__ = ["Checked", "check_archive"]


class Checked(NamedTuple):
    """``files``: those with results, without those that ``forget`` has emptied. ``bad`` of them are
    not there, or not as they were written. ``unknown``: names of those that are there, and in no
    row.
    """

    files: int
    rows: int
    bad: int
    unknown: list[str]


def check_archive(
    store: ArchiveStore, connection: Connection, device: str, tell: Callable[[str], object]
) -> Checked:
    """``tell`` is called with what is wrong with each.

    Raises:
        ArchiveFailed: the store does not answer, or has none of the files: it is no matter of one.
    """
    files = [each for each in read_archives(connection) if each.verified_at and each.rows]
    if store.is_missing and not files:
        return Checked(0, 0, 0, [])
    there = set(store.names(device))
    named = {each.file for each in (*files, *read_archives(connection)) if each.rows}
    if files and named and not named & there:
        raise ArchiveFailed(
            f"none of its {len(files)} files is in the archive {store}",
            hint="is its disk mounted, and is it the right address?",
        )
    rows = bad = 0
    for each in files:
        try:
            rows += len(read_current(store, connection, each))
        except ArchiveFailed as exc:
            store.require_answer()
            bad += 1
            found = str(exc) if each.file in str(exc) else f"{each.file}: {exc}"
            tell(f"{found}\n  {exc.hint}" if exc.hint else found)
    return Checked(len(files), rows, bad, names_unknown(store, connection, device))
