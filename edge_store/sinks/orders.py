"""What is kept of each sink in the database: how far it is, and its dead letters. And what an
operator may say of that. Plain functions; those that write run in the writer's turn.

The daemon writes how far a sink is while ``orders`` is what it has read: an operator's change
counts that up, and the daemon begins again from what is there then.
"""

from typing import Any

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "LETTERS_MAX",
    "Letter",
    "Refusal",
    "RetrySink",
    "SkipSink",
    "Standing",
    "begin_sink",
    "letters_of",
    "names_of",
    "retry_sink",
    "save_sink",
    "settle_letter",
    "skip_sink",
    "standing_of",
]

LETTERS_MAX = 1000  # of a sink; one that would refuse more is not offered more


class Standing(Record, frozen=True, kw_only=True):
    """A row of ``sinks``, with the number of its dead letters."""

    name: str
    at: int
    timeline: str
    seq: int
    delivered: int
    skipped: int
    orders: int
    failure: str | None
    failing_since: int | None
    letters: int


class Letter(Record, frozen=True, kw_only=True):
    """A row of ``sink_letters``."""

    letter_no: int
    at: int
    seq: int
    id: str
    again: bool
    error: str


class Refusal(Record, frozen=True, kw_only=True):
    """A dead letter in the making."""

    seq: int
    id: str
    error: str


class RetrySink(Record, frozen=True, kw_only=True):
    """Send its dead letters again, or one; and whatever it waits with, now."""

    name: str
    id: str | None = None


class SkipSink(Record, frozen=True, kw_only=True):
    """Pass over what waits up to ``to_seq``, or all of it; or drop dead letters: of one id, or all
    (``letters``).
    """

    name: str
    to_seq: int | None = None
    letters: bool = False
    id: str | None = None


def standing_of(connection: Connection, name: str) -> Standing | None:
    """None for one that was never begun."""
    with translated(f"how far the sink {name!r} is cannot be read"):
        cursor = connection.execute(sql("select_sink"), {"name": name})
        row = cursor.fetchone()
    return None if row is None else Standing(**_named(cursor, row))


def names_of(connection: Connection) -> tuple[str, ...]:
    """Every sink that was ever begun."""
    with translated("the sinks cannot be read"):
        return tuple(name for (name,) in connection.execute(sql("select_sinks")))


def letters_of(
    connection: Connection, name: str, limit: int, *, again: bool = False
) -> tuple[Letter, ...]:
    """Dead letters, the oldest first. ``again``: those that are to be sent again."""
    asked = {"name": name, "limit": limit, "again": again}
    with translated(f"the dead letters of {name!r} cannot be read"):
        cursor = connection.execute(sql("select_sink_letters"), asked)
        rows = cursor.fetchall()
    return tuple(
        msgspec.convert(_named(cursor, row), Letter, strict=False) for row in rows
    )  # SQLite gives 0 and 1 for booleans


def _named(cursor: Any, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def begin_sink(connection: Connection, name: str, from_beginning: bool) -> Standing:  # noqa: FBT001  (``change`` passes by place)
    """Where it is; of one that is new, where it begins."""
    found = standing_of(connection, name)
    if found is None:
        place = {"name": name, "at": now_ms(), "timeline": _timeline(connection)}
        seq = 0 if from_beginning else _last_seq(connection)
        connection.execute(sql("insert_sink"), {**place, "seq": seq})
        found = standing_of(connection, name)
    assert found is not None, "it was made"
    return found


def save_sink(connection: Connection, now: Standing, refusals: tuple[Refusal, ...] = ()) -> bool:
    """Keep how far it is, with its new dead letters; false where an operator has changed it."""
    row = {**msgspec.structs.asdict(now), "at": now_ms()}
    if connection.execute(sql("update_sink"), row).rowcount == 0:
        return False
    for each in refusals:
        letter = {"name": now.name, "at": row["at"], **msgspec.structs.asdict(each)}
        connection.execute(sql("insert_sink_letter"), letter)
    return True


def settle_letter(connection: Connection, letter_no: int, error: str | None) -> None:
    """It was taken, or is gone; or was refused again."""
    if error is None:
        connection.execute(sql("delete_sink_letter"), {"letter_no": letter_no})
    else:
        row = {"letter_no": letter_no, "at": now_ms(), "error": error}
        connection.execute(sql("refuse_sink_letter"), row)


def retry_sink(connection: Connection, params: RetrySink) -> int:
    """How many dead letters are sent again.

    Raises:
        NotFound: there is no such sink, or no such letter.
    """
    _require(connection, params.name)
    asked = {"name": params.name, "id": params.id}
    number: int = connection.execute(sql("retry_sink_letters"), asked).rowcount
    if params.id is not None and number == 0:
        raise NotFound(f"{params.name!r} has no dead letter of {params.id!r}")
    connection.execute(sql("order_sink"), {"name": params.name})
    return number


def skip_sink(connection: Connection, params: SkipSink) -> int:
    """How many results are passed over, or how many letters dropped.

    Raises:
        NotFound: there is no such sink, or no such letter.
        InvalidRequest: it is beyond ``to_seq``, or nothing has that ``seq`` yet.
    """
    found = _require(connection, params.name)
    if params.letters or params.id is not None:
        asked = {"name": params.name, "id": params.id}
        number: int = connection.execute(sql("delete_sink_letters"), asked).rowcount
        if params.id is not None and number == 0:
            raise NotFound(f"{params.name!r} has no dead letter of {params.id!r}")
        connection.execute(sql("order_sink"), {"name": params.name})
        return number
    last = _last_seq(connection)
    seq = last if params.to_seq is None else params.to_seq
    if not found.seq <= seq <= last:
        raise InvalidRequest(
            f"{params.name!r} is at seq {found.seq}, and the newest result is {last}: "
            f"{seq} is not between them"
        )
    span = {"after": found.seq, "upto": seq}
    (passed,) = connection.execute(sql("count_sink_results"), span).fetchone()
    place = {"name": params.name, "seq": seq, "timeline": _timeline(connection)}
    connection.execute(sql("skip_sink"), {**place, "skipped": passed})
    return int(passed)


def _require(connection: Connection, name: str) -> Standing:
    found = standing_of(connection, name)
    if found is None:
        raise NotFound(
            f"no sink {name!r} was ever begun", hint="the daemon begins those of [[sinks]]"
        )
    return found


def _timeline(connection: Connection) -> str:
    timeline: str = connection.execute(sql("select_timeline")).fetchone()[0]
    return timeline


def _last_seq(connection: Connection) -> int:
    return int(connection.execute(sql("select_last_seq")).fetchone()[0])
