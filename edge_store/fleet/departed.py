"""What a new copy of a box lacks of the older one though it goes on from it: what the box's own
retention has deleted in between. That goes from the box only: the older copy is kept as long as it
is the only one that has it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

from edge_store.errors import StoreError
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, translated

__all__ = ["NOTHING", "Taken", "departs", "newest_deletion", "retired_since"]

AT_A_TIME = 500


class Retired(NamedTuple):
    """Something that the box has deleted. ``digest``, of a whole result, in hexadecimal."""

    what: str
    seq: int
    id: str
    digest: str | None
    has_content: int


class Taken(NamedTuple):
    """Up to which seq all results of a copy are in the lake, and all content that belongs there."""

    result: int
    content: int


NOTHING = Taken(0, 0)


def departs(old: Path, new: Path, others: Sequence[Path], taken: Callable[[Path], Taken]) -> bool:
    """Whether ``old`` has something that is not in ``new``, nor in ``others``, nor in the lake.

    Raises:
        StoreError: ``old`` or ``new`` cannot be read.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(closing(open_reader(old)))
        with translated(f"{old} or {new} cannot be read"):
            known: Taken | None = None
            later = stack.enter_context(closing(open_reader(new)))
            for rows in retired_since(later, newest_deletion(reader)):
                here = _held(reader, rows)
                if here and known is None:
                    known = taken(old)
                left = [
                    rows[place]._replace(has_content=has_content)
                    for place, has_content in here.items()
                    if known and rows[place].seq > getattr(known, rows[place].what)
                ]
                if _unseen(left, others):
                    return True
    return False


def newest_deletion(copy: Connection) -> tuple[int, int, str] | None:
    """Its number, its time and the id that it is of."""
    found: tuple[int, int, str] | None = copy.execute(sql("select_newest_deletion")).fetchone()
    return found


def retired_since(new: Connection, newest: tuple[int, int, str] | None) -> Iterator[list[Retired]]:
    """What the box has deleted by its retention since an older copy with that ``newest`` deletion;
    all that it ever has, where that is none of its: it was restored in between.
    """
    after = 0
    if newest is not None:
        asked = dict(zip(("number", "at", "id"), newest, strict=True))
        if new.execute(sql("select_same_deletion"), asked).fetchone():
            after = newest[0]
    cursor = new.execute(sql("select_retired"), {"after": after})
    while rows := cursor.fetchmany(AT_A_TIME):
        yield [Retired(*row) for row in rows]


def _held(copy: Connection, rows: Sequence[Retired]) -> dict[int, int]:
    """Which of them are there, by their place; and whether with content."""
    asked = {"wanted": json.dumps(rows)}
    return dict(copy.execute(sql("select_retired_here"), asked).fetchall())


def _unseen(rows: list[Retired], others: Iterable[Path]) -> list[Retired]:
    """Those of them that are in no other copy that can be read."""
    for path in others:
        if not rows:
            break
        with (
            suppress(StoreError),
            closing(open_reader(path)) as connection,
            translated(f"{path} cannot be read"),
        ):
            here = _held(connection, rows)
            rows = [row for place, row in enumerate(rows) if place not in here]
    return rows
