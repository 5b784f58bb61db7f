"""A newer repairer over what an older one left: the outcome goes into ``repairs``, rows stay as
they are, and the views show the newest.

Asked about are the choices that were repaired or are invalid, and not by this repairer. What was
asked of them is read from the request again; where its body is gone, no schema is known.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, StoreError
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.structured import Structured, as_json
from edge_store.recorder.transcript import Asked, Dialect
from edge_store.result import JsonState, Operation, Output, Record, Recorded
from edge_store.rows import load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "ApplyRepairs",
    "Repair",
    "apply_repairs",
    "count_repairable",
    "reassessed",
    "repairable",
]

PAGE_ROWS = 64
REPAIRS_MAX = 1024
NO_BODY = "not validated: the request's body is gone, and with it the schema"


class Repair(Record, frozen=True, kw_only=True):
    """What a repairer makes of one choice; the fields are the columns."""

    id: str
    choice_index: int
    output_json: str | None
    json_state: str
    schema_valid: bool | None
    schema_error: str | None
    repair_log: str | None
    repairer: str


class ApplyRepairs(Record, frozen=True, kw_only=True):
    """Repairs for one transaction."""

    repairs: Annotated[tuple[Repair, ...], msgspec.Meta(max_length=REPAIRS_MAX)]


def apply_repairs(connection: Connection, params: ApplyRepairs) -> int:
    """Add them, but for those of results that are no longer here; how many were added."""
    at = now_ms()
    return sum(
        connection.execute(
            sql("insert_repair"), {"at": at, **msgspec.structs.asdict(repair)}
        ).rowcount
        for repair in params.repairs
    )


def count_repairable(connection: Connection, repairer: str, since: int) -> int:
    """How many choices ``repairable`` will give."""
    with translated("the choices to repair cannot be counted"):
        chosen = {"repairer": repairer, "since": since}
        (count,) = connection.execute(sql("count_repairable"), chosen).fetchone()
    return int(count)


def repairable(
    connection: Connection, repairer: str, since: int
) -> Iterator[list[tuple[Recorded, Output]]]:
    """Pages of the choices that another repairer has left, the oldest first, as it left them."""
    seq, choice = 0, -1
    while True:
        with translated("the choices to repair cannot be read"):
            found = connection.execute(
                sql("select_repairable"),
                {"repairer": repairer, "since": since, "seq": seq, "choice": choice}
                | {"limit": PAGE_ROWS},
            ).fetchall()
            page = []
            for seq, result_id, choice, state in found:  # noqa: B007  (the last is where the next begins)
                cursor = connection.execute(sql("select_result_by_id"), {"id": result_id})
                for recorded in load_recorded(connection, cursor):
                    mine = (o for o in recorded.result.outputs if o.choice_index == choice)
                    page += [
                        (recorded, msgspec.structs.replace(output, json_state=JsonState(state)))
                        for output in mine
                    ]
        if not found:
            return
        yield page


async def reassessed(
    means: tuple[Structured, Redacting],
    dialects: Mapping[str, Dialect],
    repairer: str,
    choice: tuple[Recorded, Output],
) -> Repair:
    """The repair of one choice."""
    recorded, output = choice
    asked, has_body = _asked(recorded, dialects)
    structured, redacting = means
    (found,) = await structured.assessed(asked, (output,))
    error = found.schema_error
    if not has_body and output.schema_valid is not None and error is None:
        error = NO_BODY
    repair = Repair(
        id=recorded.result.id,
        choice_index=output.choice_index,
        output_json=found.output_json,
        json_state=found.json_state.value,
        schema_valid=found.schema_valid,
        schema_error=error,
        repair_log=found.repair_log,
        repairer=found.repairer or repairer,
    )
    return await _redacted(repair, redacting) if redacting.is_on else repair


async def _redacted(repair: Repair, redacting: Redacting) -> Repair:
    """By the rules of today: what an older row has may be unseen by them."""
    said = (repair.schema_error, repair.repair_log)
    error, log = [None if text is None else await redacting.text(text) for text in said]
    found = repair.output_json
    if found is not None:
        try:
            found = bytes(await redacting.value(msgspec.Raw(found.encode()), msgspec.Raw)).decode()
        except StoreError:
            found = None
    return msgspec.structs.replace(repair, output_json=found, schema_error=error, repair_log=log)


def _asked(recorded: Recorded, dialects: Mapping[str, Dialect]) -> tuple[Asked, bool]:
    """What was asked, with JSON at least; and whether the request could be read."""
    result = recorded.result
    try:
        asked = dialects[result.endpoint].ask(msgspec.json.decode(result.content.request_body))
    except (msgspec.DecodeError, InvalidRequest, KeyError, AttributeError, TypeError):
        nothing = Asked(
            operation=Operation.CHAT, model=None, stream=False, choices=1, params="{}",
            input_text=None,
        )  # fmt: skip
        return as_json(nothing), False
    return as_json(asked), True
