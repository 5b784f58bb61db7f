"""The index beside a copy, which nobody follows: what the box has forgotten stays in it until it is
brought up to date. So it goes when the copy tells of something forgotten.
"""

from contextlib import closing
from pathlib import Path

from edge_store.recorder.deletions import is_forgotten_since
from edge_store.search.cleaning import has_words_of_deleted
from edge_store.search.file import (
    IndexBroken,
    drop_index,
    index_of_copy,
    open_index,
    position_of,
)
from edge_store.sqlite import Connection, open_reader

__all__ = ["drop_forgotten"]


def drop_forgotten(copy: Path) -> None:
    """Delete the index beside a copy, unless nothing of what was deleted is in it.

    Raises:
        StoreError: the copy cannot be read, or the index not be opened or deleted.
    """
    index = index_of_copy(copy)
    with closing(open_reader(copy)) as reader, closing(open_index(index, reader)) as connection:
        is_due = _is_due(connection, reader)
    if is_due:
        drop_index(index)


def _is_due(connection: Connection, reader: Connection) -> bool:
    try:
        position = position_of(connection)
        return (
            not position.seq
            or is_forgotten_since(reader, position.deletion_id)
            or has_words_of_deleted(connection)
        )
    except IndexBroken:
        return True
