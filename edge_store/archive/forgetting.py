"""Forgets what is in the archive: by tombstones first, so that nothing brings it back; a pass then
writes the files anew without it.
"""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.forget.choice import Away, Turn, Who, asked_for, pages
from edge_store.recorder.deletions import Reason, What
from edge_store.recorder.holds import held, read_holds
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader

__all__ = ["ForgetArchived", "find_archived", "forget_archived"]

PAGE = 256


class ForgetArchived(Record, frozen=True, kw_only=True):
    """Results that retention has deleted, by seq."""

    seqs: Annotated[tuple[int, ...], Meta(max_length=PAGE)]


def forget_archived(connection: Connection, params: ForgetArchived) -> int:
    """Leave a tombstone of each that ``forget`` has not met yet; how many there were."""
    count = 0
    for what in (What.CONTENT, What.RESULT):
        chosen = {
            "seqs": "[" + ",".join(map(str, params.seqs)) + "]",
            "what": what.value,
            "reason": Reason.FORGET.value,
            "at": now_ms(),
        }
        noted = connection.execute(sql("note_forgotten_again"), chosen).rowcount
        count += noted if what is What.RESULT else 0
    return count


def find_archived(database: Path, url: str, who: Who) -> Away:
    """What of the archive ``who`` names; file by file, each loaded into a database of its own.

    Raises:
        ArchiveFailed: a file cannot be read: what is in it nobody knows.
        InvalidRequest, QueryRefused: as ``choose``.
    """
    from edge_store.archive.loading import chosen_files, load_file  # noqa: PLC0415  (no daemon)
    from edge_store.archive.store import ArchiveStore  # noqa: PLC0415

    away = Away({}, [], set())
    with closing(open_reader(database)) as live:
        files = chosen_files(live, (None, None))
        if not files:
            return away
        store, holds = ArchiveStore(url), read_holds(live)
        for archive in files:
            if archive.what is not What.RESULT:
                continue
            with tempfile.TemporaryDirectory(prefix="edge-store-archive-") as folder:
                path = Path(folder, "archive.db")
                load_file(path, live, store, archive)
                with closing(open_reader(path)) as connection:
                    asked = dict(asked_for(connection, who))
                    turns = [Turn(*row) for row in connection.execute(sql("select_turns"))]
                    away.asked.update(asked)
                    away.turns.extend(turns)
                    for page in pages({*asked, *(turn.place for turn in turns)}):
                        away.held.update(held(connection, page, holds))
    return away
