"""Lines of batches and queued requests in the database, and whether the queue is paused: plain
functions of a connection. Those that write are changes, one transaction each.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import EngineError, InvalidRequest, QueueFull, TenantOverShare
from edge_store.ids import ResultId
from edge_store.queue.lines import Attempt, LineState, Mark, Standing, standing_of
from edge_store.queue.records import BatchState, QueuedRequest, seconds_of
from edge_store.queue.store import add_event, find_batch, needed_sha256s
from edge_store.recorder.caller import Caller
from edge_store.recorder.entry import Key
from edge_store.recorder.sharing import has_share
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "Retry",
    "Switch",
    "accept_request",
    "drop_finished_requests",
    "drop_refused_requests",
    "end_request",
    "find_request",
    "held_ids",
    "is_paused",
    "line_standing",
    "queue_length",
    "queued_requests",
    "refuse_line",
    "request_standing",
    "retry_lines",
    "set_switch",
    "standings",
]

REFUSED_KEPT_MS = 24 * 3600 * 1000  # how long it is told why a queued request was refused
FOREVER_MS = 2**63 - 1


class Retry(Record, frozen=True, kw_only=True):
    """Parameters of ``queue.retry``: all failed lines of a batch, or one of them."""

    batch_id: str
    custom_id: str | None = None
    attempts_max: int


class Switch(Record, frozen=True, kw_only=True):
    """Parameters of ``queue.switch``."""

    is_paused: bool


def standings(connection: Connection, batch_id: str, attempts_max: int) -> dict[str, Standing]:
    """What has become of each line that has a result or a mark; the others wait."""
    params = {"batch_id": batch_id}
    with translated("the results of a batch cannot be read"):
        attempts: dict[str, list[Attempt]] = defaultdict(list)
        for custom_id, *attempt in connection.execute(sql("select_attempts"), params):
            attempts[custom_id].append(Attempt(*attempt))
        marks = {
            custom_id: Mark(mark, after_seq)
            for custom_id, mark, after_seq in connection.execute(sql("select_line_marks"), params)
        }
        completed = {row[0] for row in connection.execute(sql("select_completed_lines"), params)}
    return {
        custom_id: standing_of(
            is_completed=custom_id in completed,
            attempts=attempts.get(custom_id, ()),
            mark=marks.get(custom_id),
            attempts_max=attempts_max,
        )
        for custom_id in attempts.keys() | marks.keys() | completed
    }


def line_standing(
    connection: Connection, batch_id: str, custom_id: str, attempts_max: int
) -> Standing:
    """What has become of one line."""
    params = {"batch_id": batch_id, "custom_id": custom_id}
    with translated("the results of a batch cannot be read"):
        found = connection.execute(sql("select_attempts_of_line"), params).fetchall()
        mark = connection.execute(sql("select_newest_line_mark"), params).fetchone()
    return standing_of(
        is_completed=any(is_completed for *_, is_completed in found),
        attempts=[Attempt(*attempt) for *attempt, is_completed in found if not is_completed],
        mark=Mark(*mark) if mark else None,
        attempts_max=attempts_max,
    )


def queue_length(connection: Connection) -> int:
    """How many queued requests wait or run."""
    with translated("the queue cannot be read"):
        (number,) = connection.execute(sql("count_waiting_requests")).fetchone()
    return int(number)


def refuse_line(
    connection: Connection, batch_id: str, custom_id: str | None, error: tuple[int, str, str]
) -> None:
    """Mark a line that was not admitted, and never will be: ``error`` is its status, code and
    message.
    """
    _mark(connection, (batch_id, custom_id, "refused"), 0, error)


def retry_lines(connection: Connection, params: Retry) -> int:
    """Have failed lines of a batch tried again; a batch that has ended goes on. How many.

    Raises:
        NotFound, InvalidRequest: there is no such batch or line, or no line of it failed.
    """
    batch = find_batch(connection, params.batch_id)
    if batch.state is BatchState.FAILED or batch.detail.lines is None:
        raise InvalidRequest(f"the batch {batch.batch_id} has no lines: its input is wrong")
    known = standings(connection, batch.batch_id, params.attempts_max)
    failed = [
        custom_id
        for custom_id, standing in known.items()
        if standing.state in (LineState.DEAD, LineState.REFUSED)
        and params.custom_id in (None, custom_id)
    ]
    if not failed:
        raise InvalidRequest(f"no such line of {batch.batch_id} has failed")
    (seq,) = connection.execute(sql("select_last_seq")).fetchone()
    for custom_id in failed:
        _mark(connection, (batch.batch_id, custom_id, "retry"), seq, (None, None, None))
    if batch.state.is_end:
        if not needed_sha256s(connection, [batch.input_sha256]):
            raise InvalidRequest(f"the input file of {batch.batch_id} is deleted")
        expires_at = now_ms() + seconds_of(batch.completion_window) * 1000
        add_event(connection, batch.batch_id, BatchState.IN_PROGRESS, expires_at=expires_at)
    return len(failed)


def _mark(
    connection: Connection,
    line: tuple[str, str | None, str],
    after_seq: int,
    error: tuple[int | None, str | None, str | None],
) -> None:
    batch_id, custom_id, mark = line
    http_status, code, message = error
    connection.execute(
        sql("insert_line_mark"),
        {
            "batch_id": batch_id,
            "custom_id": custom_id,
            "at": now_ms(),
            "mark": mark,
            "after_seq": after_seq,
            "http_status": http_status,
            "code": code,
            "message": message,
        },
    )


# queued requests


def accept_request(connection: Connection, request: QueuedRequest, requests_max: int) -> None:
    """Take a request into the queue, in the place of those that were refused if it is full.

    Raises:
        QueueFull, TenantOverShare: as many wait as may, or of this tenant.
    """
    params = {"tenant": request.caller.tenant}
    number, own = connection.execute(sql("count_queued_requests"), params).fetchone()
    if not has_share(own, number, requests_max):
        drop_refused_requests(connection, FOREVER_MS)
        number, own = connection.execute(sql("count_queued_requests"), params).fetchone()
    if not has_share(own, number, requests_max):
        refusal = TenantOverShare if own < number < requests_max else QueueFull
        raise refusal(
            f"{number} requests with `Prefer: respond-async` wait, {own} of them of this tenant; "
            f"queue.requests_max = {requests_max}",
            hint="try again later, or ask without that header",
        )
    row = msgspec.structs.asdict(request)
    row["caller"] = msgspec.json.encode(request.caller).decode()
    row["is_held"] = int(request.is_held)
    key = row.pop("key")
    row["key_hash"] = None if key is None else key.key_hash
    row["fingerprint"] = None if key is None else key.fingerprint
    connection.execute(sql("insert_queued_request"), {**row, "tenant": request.caller.tenant})


def queued_requests(
    connection: Connection, taken: Collection[int], limit: int
) -> list[tuple[int, QueuedRequest]]:
    """The next of those that wait, but for these numbers, each with its own: one tenant after the
    other, within a tenant in order.
    """
    params = {"taken": msgspec.json.encode(list(taken)).decode(), "limit": limit}
    with translated("the queue cannot be read"):
        rows = connection.execute(sql("select_queued_requests"), params).fetchall()
    return [(row[-1], _queued(row)) for row in rows]


def _queued(row: tuple[Any, ...]) -> QueuedRequest:
    request_id, created_at, caller, endpoint, body, is_held, key_hash, fingerprint, _number = row
    key = None if key_hash is None else Key(key_hash=key_hash, fingerprint=fingerprint)
    return QueuedRequest(
        id=ResultId(request_id),
        created_at=created_at,
        caller=msgspec.json.decode(caller, type=Caller),
        endpoint=endpoint,
        body=body,
        is_held=bool(is_held),
        key=key,
    )


def request_standing(connection: Connection, request_id: str, attempts_max: int) -> Standing:
    """What has become of a queued request. A result under its id, whatever it says, is its
    end, even where it was deleted since.
    """
    with translated("the queue cannot be read"):
        (is_there,) = connection.execute(sql("had_result"), {"id": request_id}).fetchone()
        params = {"batch_id": request_id}
        attempts = [
            Attempt(*attempt) for _, *attempt in connection.execute(sql("select_attempts"), params)
        ]
    return standing_of(
        is_completed=bool(is_there), attempts=attempts, mark=None, attempts_max=attempts_max
    )


def find_request(
    connection: Connection, request_id: str, caller: Caller
) -> tuple[int, tuple[int, str, str] | None] | None:
    """When a queued request of the caller's was accepted, and the status, code and message of what
    it was refused with later; None where there is none.
    """
    params = {"id": request_id, "tenant": caller.only_tenant}
    with translated("the queue cannot be read"):
        row = connection.execute(sql("select_queued_request"), params).fetchone()
        if row is None:
            return None
        mark = {"batch_id": request_id, "custom_id": None}
        return row[0], connection.execute(sql("select_line_mark"), mark).fetchone()


def held_ids(connection: Connection) -> set[str]:
    """Of all requests and responses whose texts are held, as they have still to be asked."""
    with translated("the queue cannot be read"):
        return {row[0] for row in connection.execute(sql("select_held_ids"))}


def drop_finished_requests(connection: Connection, request_id: str | None = None) -> None:
    """Take requests that have their results out of the queue: one of them, or all."""
    if request_id is None:
        connection.execute(sql("delete_finished_requests"))
    else:
        connection.execute(sql("delete_finished_request"), {"id": request_id})


def end_request(connection: Connection, request_id: str, state: LineState) -> None:
    """Take a request that is settled out of the queue. One that is dead without a result under its
    id, as it was allowed more attempts when they were made, says so instead.
    """
    drop_finished_requests(connection, request_id)
    if (
        state is LineState.DEAD
        and connection.execute(
            sql("select_queued_request"), {"id": request_id, "tenant": None}
        ).fetchone()
    ):
        told = f"every attempt failed; they are the results whose `batch_id` is {request_id}"
        refuse_line(connection, request_id, None, (EngineError.http_status, EngineError.code, told))


def drop_refused_requests(connection: Connection, until_ms: int | None = None) -> int:
    """Forget the requests that were refused up to then: a day ago. How many that were."""
    if until_ms is None:
        until_ms = now_ms() - REFUSED_KEPT_MS
    dropped = connection.execute(sql("delete_refused_requests"), {"until": until_ms}).fetchall()
    for (request_id,) in dropped:
        connection.execute(sql("delete_request_marks"), {"id": request_id})
    return len(dropped)


# the switch


def set_switch(connection: Connection, params: Switch) -> bool:
    """Pause the queue, or resume it; whether that changes anything."""
    if is_paused(connection) == params.is_paused:
        return False
    connection.execute(sql("insert_queue_switch"), {"at": now_ms(), "is_paused": params.is_paused})
    return True


def is_paused(connection: Connection) -> bool:
    """Whether an operator has paused the queue."""
    with translated("the queue cannot be read"):
        row = connection.execute(sql("select_queue_switch")).fetchone()
    return bool(row and row[0])
