"""Pins: what nothing deletes but who says so. The newest that is said of a result counts."""

from typing import Annotated

from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.errors import NotFound
from edge_store.logs.find import is_pinned
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["PINS_MAX", "Pin", "pin"]

PINS_MAX = 1000


class Pin(Record, frozen=True, kw_only=True):
    """Results by id, pinned or not from now on."""

    ids: Annotated[tuple[str, ...], Meta(max_length=PINS_MAX)]
    is_pinned: bool = True


def pin(connection: Connection, params: Pin) -> int:
    """Say it of those of which it was not said; of how many that is.

    Raises:
        NotFound: one is not here; then nothing is said of any.
    """
    count = 0
    for result_id in params.ids:
        if connection.execute(sql("select_result_by_id"), {"id": result_id}).fetchone() is None:
            raise NotFound(f"there is no result {result_id!r} here")
        if is_pinned(connection, result_id) is not params.is_pinned:
            value = "true" if params.is_pinned else "false"
            row = {"at": now_ms(), "id": result_id, "value": value}
            connection.execute(sql("insert_pin"), row)
            count += 1
    return count
