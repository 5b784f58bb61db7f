"""What comes next for a sink, read on a connection of the sinks' own. Plain functions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edge_store.config import SinkSection
from edge_store.result import Content, Operation, Recorded, Status
from edge_store.rows import load_recorded
from edge_store.selection import Selection
from edge_store.sinks.orders import Letter, Standing, letters_of, standing_of
from edge_store.sinks.sink import Event, event_of
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["Looked", "Next", "look", "next_events", "read_again", "resent"]

WINDOW = 20_000  # seqs looked through at once; some 20 ms without a hit
BATCH_BYTES_MAX = 4 * 1024 * 1024  # of JSON; one result alone may have more
LETTERS_AT_ONCE = 100


class Next(NamedTuple):
    """What is wanted, in the order of ``seq``. Nothing up to ``upto`` is left out but ``gone``
    results, which were deleted since.
    """

    events: list[Event]
    upto: int
    gone: int
    timeline: str
    has_more: bool


class Looked(NamedTuple):
    """What an operator may have changed meanwhile."""

    standing: Standing | None
    letters: tuple[Letter, ...]


def next_events(connection: Connection, config: SinkSection, after: int) -> Next:
    """At most ``config.batch_rows`` results after that seq."""
    wanted = _selection(config)
    with translated("results for a sink cannot be read"):
        (last,) = connection.execute(sql("select_last_seq")).fetchone()
        (timeline, _reason) = connection.execute(sql("select_timeline")).fetchone()
        upto = min(after + WINDOW, last)
        asked = {
            **wanted.values, "after": after, "upto": upto, "limit": config.batch_rows,
            "with_prefix_cache": wanted.operation is Operation.PREFIX_CACHE,
        }  # fmt: skip
        statement = sql("select_sink_results").replace("1 = 1", wanted.condition)
        cursor = connection.execute(statement, asked)
        events: list[Event] = []
        size = 0
        try:
            for recorded in load_recorded(connection, cursor, with_content=False):
                event = _event(connection, recorded, has_bodies=config.bodies)
                size += len(event.json)
                if events and size > BATCH_BYTES_MAX:
                    upto = events[-1].recorded.seq
                    break
                events.append(event)
        finally:
            cursor.close()  # one left open would hold back checkpoints
        if len(events) == config.batch_rows:
            upto = events[-1].recorded.seq
        span = {"after": after, "upto": upto}
        (gone,) = connection.execute(sql("count_sink_deletions"), span).fetchone()
    return Next(events, max(upto, after), gone, timeline, upto < last)


def look(connection: Connection, name: str) -> Looked:
    """How it stands by the database."""
    return Looked(
        standing_of(connection, name),
        letters_of(connection, name, LETTERS_AT_ONCE, again=True),
    )


def resent(connection: Connection, letter: Letter, *, has_bodies: bool) -> Event | None:
    """The result of a dead letter; None when it was deleted since."""
    with translated("the result of a dead letter cannot be read"):
        return _found(connection, letter.seq, letter.id, has_bodies=has_bodies)


def read_again(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """As they are now: without what was deleted since."""
    with translated("results for a sink cannot be read"):
        found = (
            _found(connection, each.recorded.seq, each.result.id, has_bodies=each.has_bodies)
            for each in events
        )
        return [event for event in found if event is not None]


def _found(connection: Connection, seq: int, name: str, *, has_bodies: bool) -> Event | None:
    cursor = connection.execute(sql("select_sink_result"), {"seq": seq, "id": name})
    found = list(load_recorded(connection, cursor, with_content=False))
    return _event(connection, found[0], has_bodies=has_bodies) if found else None


def _selection(config: SinkSection) -> Selection:
    return Selection(
        model=config.model or None,
        tenant=config.tenant or None,
        status=Status(config.status) if config.status else None,
        operation=Operation(config.operation) if config.operation else None,
    )


def _event(connection: Connection, recorded: Recorded, *, has_bodies: bool) -> Event:
    row = connection.execute(sql("select_metadata"), {"id": recorded.result.id}).fetchone()
    changes: dict[str, Any] = {"metadata": row[0]} if row else {}
    if has_bodies:
        row = connection.execute(sql("select_input_text"), {"seq": recorded.seq}).fetchone()
        text = row[0] if row else None
        changes["content"] = Content(input_text=text, request_body=b"", response_body=b"")
    result = msgspec.structs.replace(recorded.result, **changes)
    return event_of(msgspec.structs.replace(recorded, result=result), has_bodies=has_bodies)
