"""Pins and holds: what nobody deletes by accident. Retention passes over it.

A pin is an annotation of one result. A hold is a row of ``holds``: a name and a selection, which
counts for results that come later, too. What is kept is found for so many results at a time as one
change deletes, on the connection that deletes them: so nothing that is pinned or held by then goes.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound, ResultHeld
from edge_store.result import Record
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = [
    "AddHold",
    "EndHold",
    "Hold",
    "add_hold",
    "count_held",
    "end_hold",
    "held",
    "pinned",
    "read_holds",
    "require_free",
]

HOLDS_MAX = 100  # each is asked about whatever is to go
PINNED = Selection(pinned=True)

Name = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class AddHold(Record, frozen=True, kw_only=True):
    """Parameters of ``retention.hold``."""

    name: Name
    selection: Selection
    note: Annotated[str, Meta(max_length=1000)] = ""


class EndHold(Record, frozen=True, kw_only=True):
    """Parameters of ``retention.unhold``."""

    name: Name


class Hold(Record, frozen=True, kw_only=True):
    """A row of ``holds``. Times are UTC ms."""

    hold_no: int
    at: int
    name: str
    selection: Selection
    note: str
    ended_at: int | None


def add_hold(connection: Connection, params: AddHold) -> int:
    """Begin a hold; returns its number.

    Raises:
        InvalidRequest: one of that name is in force, or too many are.
    """
    in_force = read_holds(connection)
    if any(hold.name == params.name for hold in in_force):
        raise InvalidRequest(
            f"there is a hold {params.name!r} already", hint="end it first, or take another name"
        )
    if len(in_force) >= HOLDS_MAX:
        raise InvalidRequest(f"{HOLDS_MAX} holds are in force", hint="end those that are over")
    selection = msgspec.json.encode(_as_given(params.selection)).decode()
    row = {"at": now_ms(), "name": params.name, "selection": selection, "note": params.note}
    (number,) = connection.execute(sql("insert_hold"), row).fetchone()
    return int(number)


def end_hold(connection: Connection, params: EndHold) -> int:
    """End the hold of that name; returns its number.

    Raises:
        NotFound: none of that name is in force.
    """
    found = connection.execute(sql("end_hold"), {"at": now_ms(), "name": params.name}).fetchone()
    if found is None:
        raise NotFound(f"there is no hold {params.name!r}", hint="`edge-store retention hold ls`")
    return int(found[0])


def read_holds(connection: Connection, *, ended: bool = False) -> list[Hold]:
    """Those in force, or all there ever were, the oldest first."""
    return [
        Hold(
            hold_no=number,
            at=at,
            name=name,
            selection=msgspec.json.decode(selection, type=Selection),
            note=note,
            ended_at=ended_at,
        )
        for number, at, name, selection, note, ended_at in connection.execute(
            sql("select_holds"), {"ended": ended}
        )
    ]


def count_held(connection: Connection, hold: Hold) -> int:
    """Over how many results that are here a hold is, or would be."""
    statement = sql("count_held").replace(":condition", hold.selection.condition)
    (count,) = connection.execute(statement, hold.selection.values).fetchone()
    return int(count)


def held(
    connection: Connection, seqs: Sequence[int], holds: Sequence[Hold] | None = None
) -> set[int]:
    """Those of ``seqs`` that a hold in force is over. ``holds``: those of another database."""
    found: set[int] = set()
    for hold in read_holds(connection) if holds is None else holds:
        found |= _chosen(connection, hold.selection, seqs)
    return found


def pinned(connection: Connection, seqs: Sequence[int]) -> set[int]:
    """Those of ``seqs`` that are pinned."""
    return _chosen(connection, PINNED, seqs)


def require_free(connection: Connection, seqs: Sequence[int]) -> None:
    """Raises ``ResultHeld`` where one of them is pinned or held."""
    if held(connection, seqs):
        raise ResultHeld(
            "a hold is over this result: it cannot be deleted",
            hint="who runs the box may end it: `edge-store retention hold ls`",
        )
    if pinned(connection, seqs):
        raise ResultHeld(
            "this result is pinned: it cannot be deleted", hint="take the pin away first"
        )


def _chosen(connection: Connection, selection: Selection, seqs: Sequence[int]) -> set[int]:
    statement = sql("select_chosen_of").replace(":condition", selection.condition)
    values = {**selection.values, "seqs": msgspec.json.encode(list(seqs)).decode()}
    return {seq for (seq,) in connection.execute(statement, values)}


def _as_given(selection: Selection) -> dict[str, object]:
    """Without what does not narrow."""
    return {name: getattr(selection, name) for name in selection.values}
