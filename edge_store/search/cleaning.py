"""Takes the words of deleted results out of search.db: FTS5 only hides them until the pieces of a
table that have them are merged into one. Step by step, each a transaction, while results come.

A merge leaves out what was deleted before it began, and may have written what was deleted later.
So what is to go is gone when a merge of all pieces has ended that began after its deletion.
"""

from typing import Final, NamedTuple

from edge_store.search.file import extent, transaction, usable
from edge_store.search.pieces import Pieces, pieces_in
from edge_store.search.shards import CLEANING, EXPIRED, FORGOTTEN, GOING, shard_block, shard_of
from edge_store.sql import sql_of
from edge_store.sqlite import Connection
from edge_store.wal import checkpoint_soon

__all__ = ["clean", "empty", "has_words_of_deleted", "mark_left"]

MERGED_PAGES = 64  # of a step of cleaning: some milliseconds


class _Table(NamedTuple):
    """The blocks about one of a shard's tables."""

    structure: str
    merge: str
    thin: str
    drop: str


TABLES: Final = (
    _Table("structure_of_words", "merge_words", "thin_words", "drop_words"),
    _Table("structure_of_trigrams", "merge_trigrams", "thin_trigrams", "drop_trigrams"),
)


def clean(
    connection: Connection,
    reader: Connection,
    pages: int = MERGED_PAGES,
    *,
    forgotten: bool = True,
    expired: bool = True,
) -> bool:
    """Take some more of the words of deleted results out of the file: go on with what is begun, and
    begin with what was ``forgotten`` and what retention has deleted (``expired``) where these are
    given, or where a shard has nothing left. False: there are none; then the WAL is to be emptied,
    which still has them.

    Raises:
        IndexBroken: it is to be made anew.
    """
    wanted = CLEANING | GOING | (FORGOTTEN if forgotten else 0) | (EXPIRED if expired else 0)
    _, _newest, oldest, _ = extent(reader)
    with usable():
        found = connection.execute(
            sql_of("search", "select_unclean"),
            {"wanted": wanted, "begun": CLEANING | GOING, "gone": shard_of(oldest)},
        ).fetchone()
        if found is None:
            return False
        shard, state = found
        with transaction(connection):
            if state & GOING or shard < shard_of(oldest):  # nothing of it is left
                state = _taken_down(connection, shard, pages)
            else:
                state = _merged(connection, shard, state, pages)
            connection.execute(
                sql_of("search", "mark_shard"), {"shard": shard, "is_unclean": state}
            )
    return True


def mark_left(connection: Connection) -> None:
    """Mark the shards that are taken for clean and have words of deleted results all the same, as
    an earlier release may have left them.

    Raises:
        IndexBroken: it is to be made anew.
    """
    with usable(), transaction(connection):
        for (shard,) in connection.execute(sql_of("search", "select_shards")).fetchall():
            if any(_pieces(connection, each, shard).tombstones for each in TABLES):
                connection.execute(
                    sql_of("search", "soil_clean_shard"), {"shard": shard, "why": FORGOTTEN}
                )


def has_words_of_deleted(connection: Connection) -> bool:
    """Whether some are in the file or its WAL, as where bringing it up to date was cut.

    Raises:
        IndexBroken: it is to be made anew.
    """
    mark_left(connection)
    any_ = {"wanted": FORGOTTEN | CLEANING | EXPIRED | GOING, "begun": 0, "gone": 0}
    with usable():
        found = connection.execute(sql_of("search", "select_unclean"), any_).fetchone()
    return found is not None or not empty(connection)


def empty(connection: Connection) -> bool:
    """Empty the WAL of what was merged away; false when a reader was in the way.

    Raises:
        IndexBroken: it is to be made anew.
    """
    with usable():
        return checkpoint_soon(connection)


def _taken_down(connection: Connection, shard: int, pages: int) -> int:
    """The state after so many pages of it are gone: all at once would be in the WAL once more, as
    each is overwritten. Nobody asks it any more.
    """
    gone = [
        connection.execute(shard_block(table.thin, shard), {"pages": pages}).rowcount
        for table in TABLES
    ]
    if not any(gone):
        for table in TABLES:
            connection.execute(shard_block(table.drop, shard))
        connection.execute(sql_of("search", "delete_shard"), {"shard": shard})
    return GOING


def _merged(connection: Connection, shard: int, state: int, pages: int) -> int:
    """The state after some more merging."""
    if state & CLEANING:
        for table in TABLES:
            _go_on(connection, table, shard, pages)
    else:
        # Only these would go on where they are, with what they have written before the deletion.
        early = [each for each in TABLES if _pieces(connection, each, shard).is_one_merge]
        for table in early:
            _go_on(connection, table, shard, pages)
        if early:
            return state
        for table in TABLES:
            _merge(connection, table, shard, -pages)
        state = CLEANING
    is_merging = any(_pieces(connection, each, shard).is_merging for each in TABLES)
    return state if is_merging else state & ~CLEANING


def _go_on(connection: Connection, table: _Table, shard: int, pages: int) -> None:
    """With what is being merged. FTS5 passes it over while no fewer pieces have come than it is of
    and these are not enough for a merge of their own. Then all begin anew, these with it: so it is
    of more, and from four on nothing is in its way.
    """
    before = _pieces(connection, table, shard)
    if not before.is_merging:
        return
    _merge(connection, table, shard, pages)
    if _pieces(connection, table, shard) == before:
        _merge(connection, table, shard, -pages)


def _merge(connection: Connection, table: _Table, shard: int, pages: int) -> None:
    """At least so many pages; where they are less than none, of all pieces together, unless just
    that is under way (sqlite.org/fts5.html, "The 'merge' command").
    """
    connection.execute(shard_block(table.merge, shard), {"pages": pages})


def _pieces(connection: Connection, table: _Table, shard: int) -> Pieces:
    return pieces_in(connection, table.structure, shard)
