"""The pieces that FTS5 keeps a table in, as its structure record tells of them: row 10 of the
table ``…_data``, of which sqlite.org/fts5.html, "The %_data table", says where it is, and
fts5_index.c what is in it. Its answers to 'merge' tell less: that of one that waits for others is
the same as that of one that has ended.
"""

from collections.abc import Iterator
from typing import NamedTuple

from edge_store.search.file import IndexBroken
from edge_store.search.shards import shard_block
from edge_store.sqlite import Connection

__all__ = ["Pieces", "pieces_in", "pieces_of"]

WITH_TOMBSTONES = b"\xff\x00\x00\x01"  # what follows the cookie in a table that keeps them
LEVELS_MAX = 2000  # as FTS5 has them


class Pieces(NamedTuple):
    """``is_merging``: of some of them another one is being made, which is half done.
    ``is_one_merge``: of all of them, but for that one. ``tombstones``: so many are of deleted
    results' words.
    """

    record: bytes
    is_merging: bool
    is_one_merge: bool
    tombstones: int


def pieces_in(connection: Connection, block: str, shard: int) -> Pieces:
    """Those of the table whose structure that ``block`` selects, as they were last written: in a
    transaction by its last merge.

    Raises:
        IndexBroken: there is no record, or FTS5 has another form of it.
    """
    row = connection.execute(shard_block(block, shard)).fetchone()
    if row is None:
        raise IndexBroken(f"there is no {block} of shard {shard}")
    return pieces_of(row[0])


def pieces_of(record: bytes) -> Pieces:
    """What a record says.

    Raises:
        IndexBroken: it is of a form that is not known here.
    """
    if record[4:8] != WITH_TOMBSTONES:
        raise IndexBroken(f"FTS5's structure record begins with {record[:8]!r}: it is not known")
    numbers = _varints(record, 8)
    try:
        levels, count, _written = next(numbers), next(numbers), next(numbers)
        if levels > LEVELS_MAX:
            raise IndexBroken(f"FTS5's structure record has {levels} levels")
        inputs, is_one_merge, tombstones = 0, False, 0
        for _ in range(levels):
            merged, pieces = next(numbers), next(numbers)
            inputs += merged
            is_one_merge |= 0 < merged == pieces == count - 1
            for _ in range(pieces):  # id, first and last page, first and last origin,
                *_where, pages, _deleted, _entries = [next(numbers) for _ in range(8)]
                tombstones += pages > 0
    except StopIteration:
        raise IndexBroken("FTS5's structure record is cut") from None
    return Pieces(record, inputs > 0, is_one_merge, tombstones)


def _varints(record: bytes, place: int) -> Iterator[int]:
    """SQLite's: seven bits a byte, the largest first; the ninth has eight."""
    while place < len(record):
        number = 0
        for n in range(9):
            if place == len(record):
                return
            byte = record[place]
            place += 1
            if n == 8:
                number = number << 8 | byte
                break
            number = number << 7 | byte & 0x7F
            if byte < 0x80:
                break
        yield number
