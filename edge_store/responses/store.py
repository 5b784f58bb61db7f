"""Responses in the database: plain functions of a connection. Those that write are changes, one
transaction each.

A response has one row with what was asked, and becomes one result. A response that runs while its
caller waits gets its row once its result is committed, before the end of its answer leaves; one in
the background before it runs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edge_store.blobs import Split, joined, split_once
from edge_store.clock import now_ms
from edge_store.ids import ResultId
from edge_store.recorder.caller import Caller
from edge_store.recorder.deletions import Reason, delete_here
from edge_store.recorder.entry import Key
from edge_store.recorder.holds import require_free
from edge_store.responses.events import Event, items_of, outputs_of
from edge_store.result import Record, Recorded, Status
from edge_store.rows import insert_blobs, load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "Found",
    "Happened",
    "Kept",
    "Waiting",
    "accept",
    "find",
    "find_outline",
    "keep",
    "mend",
    "note",
    "output_of",
    "read_result",
    "remove",
    "start",
    "waiting",
]


class Kept(Record, frozen=True, kw_only=True, dict=True, gc=True):
    """The row of a response, and while it is new the key that it was asked for with."""

    id: ResultId
    created_at: int
    caller: Caller
    background: bool
    conversation_id: str | None
    previous_id: str | None
    request: bytes
    key: Key | None = None
    is_held: bool = False  # what was sent lies in `held/`, until it has been asked

    @property
    def split_body(self) -> Split:
        """The request without its images, and these."""
        return split_once(self, self.request)


class Waiting(NamedTuple):
    """As much of a response in the background as is in memory while it waits."""

    id: ResultId
    tenant: str | None
    conversation_id: str | None


class Happened(Record, frozen=True, kw_only=True):
    """What is noted of a response in the background: ``started``, ``cancelled`` or ``failed``."""

    event: str
    code: str | None = None
    message: str | None = None


class Found(Record, frozen=True, kw_only=True):
    """A response with what became of it."""

    kept: Kept
    recorded: Recorded | None
    happened: tuple[Happened, ...]


def accept(connection: Connection, kept: Kept) -> None:
    """Take a response that will run in the background."""
    _insert(connection, kept)
    connection.execute(sql("insert_open_response"), {"id": kept.id})
    _insert_key(connection, kept)


def keep(connection: Connection, kept: Kept) -> Recorded | None:
    """Keep a response that has run: its row, its place in its conversation. Returns its result."""
    if not kept.background:
        _insert(connection, kept)
    if kept.conversation_id is not None:
        connection.execute(
            sql("insert_entry"),
            {
                "conversation_id": kept.conversation_id,
                "at": now_ms(),
                "kind": "response",
                "id": kept.id,
                "item": None,
            },
        )
    recorded = read_result(connection, kept.id, with_content=False)
    if recorded is not None and kept.background:
        connection.execute(sql("delete_open_response"), {"id": kept.id})
    if recorded is not None and recorded.result.status is Status.COMPLETED:
        _insert_key(connection, kept)
    return recorded


def output_of(recorded: Recorded) -> tuple[list[Event], list[Event]]:
    """The events and the items of a recorded answer. Without its bytes there are only items."""
    result = recorded.result
    body, is_whole = result.content.response_body, result.status is Status.COMPLETED
    if body:
        return outputs_of(result.id, body, is_stream=result.stream, is_whole=is_whole)
    return [], [item for output in result.outputs[:1] for item in items_of(result.id, output)]


def _insert_key(connection: Connection, kept: Kept) -> None:
    if kept.key is not None:
        params = {"id": kept.id, "at": now_ms(), "tenant": kept.caller.tenant}
        params |= msgspec.structs.asdict(kept.key)
        connection.execute(sql("insert_response_key"), params)


def _insert(connection: Connection, kept: Kept) -> None:
    row = msgspec.structs.asdict(kept)
    del row["key"]
    row["caller"] = msgspec.json.encode(kept.caller).decode()
    row["is_held"] = int(kept.is_held)
    row["request"], blobs = kept.split_body
    connection.execute(sql("insert_response"), {**row, "tenant": kept.caller.tenant})
    insert_blobs(connection, "insert_response_blob", kept.id, blobs)


def read_result(connection: Connection, result_id: str, *, with_content: bool) -> Recorded | None:
    """The row of a response's result, if there is one."""
    cursor = connection.execute(sql("select_result_by_id"), {"id": result_id})
    found = list(load_recorded(connection, cursor, with_content=with_content))
    return found[0] if found else None


def find(
    connection: Connection, result_id: str, caller: Caller, *, with_content: bool = True
) -> Found | None:
    """A response that the caller may see."""
    params = {"id": result_id, "tenant": caller.tenant, "sees_all": caller.sees_all}
    with translated("a response cannot be read"):
        row = connection.execute(sql("select_response"), params).fetchone()
        if row is None:
            return None
        events = connection.execute(sql("select_response_events"), {"id": result_id}).fetchall()
        recorded = read_result(connection, result_id, with_content=with_content)
        blobs = connection.execute(sql("select_response_blobs"), {"id": result_id}).fetchall()
    kept = _kept(row)
    return Found(
        kept=msgspec.structs.replace(kept, request=joined(kept.request, blobs)),
        recorded=recorded,
        happened=tuple(
            Happened(event=event, code=code, message=message) for event, code, message in events
        ),
    )


def find_outline(connection: Connection, result_id: str, caller: Caller) -> Found | None:
    """As ``find``, without the answer's bytes."""
    return find(connection, result_id, caller, with_content=False)


def _kept(row: Sequence[Any]) -> Kept:
    (
        result_id, created_at, _tenant, caller, background, conversation_id, previous_id, request,
        is_held,
    ) = row  # fmt: skip
    return Kept(
        id=ResultId(result_id),
        created_at=created_at,
        caller=msgspec.json.decode(caller, type=Caller),
        background=bool(background),
        conversation_id=conversation_id,
        previous_id=previous_id,
        request=request,
        is_held=bool(is_held),
    )


def waiting(connection: Connection) -> list[Waiting]:
    """Responses in the background that have not ended, in order."""
    with translated("responses cannot be read"):
        rows = connection.execute(sql("select_waiting_responses")).fetchall()
    return [Waiting(ResultId(result_id), *others) for result_id, *others in rows]


def mend(connection: Connection) -> None:
    """Give those a place in their conversation that a crash cut between that and their result."""
    connection.execute(sql("insert_missing_entries"))
    connection.execute(sql("delete_ended_responses"))


def note(connection: Connection, result_id: str, happened: Happened) -> None:
    """Note what happened to a response in the background."""
    params = {"id": result_id, "at": now_ms(), **msgspec.structs.asdict(happened)}
    connection.execute(sql("insert_response_event"), params)
    if happened.event != "started":
        connection.execute(sql("delete_open_response"), {"id": result_id})


def start(connection: Connection, result_id: str, number: int) -> None:
    """Note the start with this number, from 1. To be repeated where nobody knows whether it is."""
    events = connection.execute(sql("select_response_events"), {"id": result_id}).fetchall()
    if sum(event == "started" for event, _, _ in events) < number:
        note(connection, result_id, Happened(event="started"))


def remove(connection: Connection, result_id: str) -> None:
    """Delete a response: what was asked, and its result, which leaves its line in ``deletions``.

    Raises:
        ResultHeld: it is pinned or held.
    """
    rows = connection.execute(sql("select_result_seq"), {"id": result_id}).fetchall()
    seqs = [seq for (seq,) in rows]
    require_free(connection, seqs)
    connection.execute(sql("delete_response"), {"id": result_id})
    delete_here(connection, seqs, Reason.FORGET)
