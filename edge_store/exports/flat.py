"""The rows of the view ``generations``: a result and its first choice, flat."""

import base64
import math
from functools import cache
from typing import Any

from edge_store.exports.kinds import Fetched, Job
from edge_store.exports.pages import wanted
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver

__all__ = ["columns", "flat_rows", "plain"]


@cache
def columns() -> tuple[str, ...]:
    """The names of the view's columns."""
    connection = driver.connect(":memory:", isolation_level=None)
    try:
        migrate(connection)
        asked = {"after": 0, "upto": 0}
        cursor = connection.execute(sql("select_export_flat"), asked)
        return tuple(column[0] for column in cursor.description)
    finally:
        connection.close()


def flat_rows(job: Job, connection: Connection, span: dict[str, Any]) -> Fetched:
    """Those of a span, as ``columns`` says; what an older file's view lacks is None."""
    statement = wanted("select_export_flat", job.selection)
    cursor = connection.execute(statement, {**span, **job.selection.values})
    there = [column[0] for column in cursor.description]
    order = None if tuple(there) == columns() else [_place(there, name) for name in columns()]
    seq = there.index("seq")
    for row in cursor:
        size = 512 + sum(len(value) for value in row if isinstance(value, str))
        yield row[seq], size, row if order is None else [_at(row, place) for place in order]


def _place(there: list[str], name: str) -> int | None:
    return there.index(name) if name in there else None


def _at(row: Any, place: int | None) -> Any:
    return None if place is None else row[place]


def plain(value: Any) -> Any:
    """As a cell of CSV: BLOBs are base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
