"""Deletes results for good: on this box, and by their tombstones wherever copies of it are made.

A choice of results is read first, then deleted in bounded transactions on the writer's thread; one
that is cut leaves the rest for the next time. Deleted bytes are overwritten (``secure_delete``).
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from edge_store.errors import InvalidRequest
from edge_store.query import run_query
from edge_store.recorder.deletions import Reason, delete_here
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["ForgetResults", "chosen_results", "forget_results", "pages_of"]

SEQS_MAX = 256  # of one transaction, so that results need not wait for it
CHOSEN_MAX = 10_000_000
SINGLE = ("--", "/*", ";")


class ForgetResults(Record, frozen=True, kw_only=True):
    """Results for one transaction, by place and id."""

    seqs: Annotated[tuple[int, ...], msgspec.Meta(max_length=SEQS_MAX)]
    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=SEQS_MAX)]


def forget_results(connection: Connection, params: ForgetResults) -> int:
    """Delete those that are still here, with all that hangs on them; how many there were."""
    chosen = {"seqs": msgspec.json.encode(params.seqs).decode()}
    here = dict(connection.execute(sql("select_ids_of"), chosen).fetchall())
    asked = zip(params.seqs, params.ids, strict=True)
    return delete_here(
        connection, [seq for seq, name in asked if here.get(seq) == name], Reason.FORGET
    )


def chosen_results(
    connection: Connection, user: str | None, where: str | None, timeout_s: float
) -> list[tuple[int, str]]:
    """Place and id of each result of ``user``, or for which the SQL expression ``where`` is true.

    The expression may name the columns of ``results`` and of ``requests``. It can only read.

    Raises:
        InvalidRequest: it is no expression.
        QueryRefused: it does not parse, would write, or took too long.
    """
    statement = sql("select_results_of_user")
    if where is not None:
        if any(mark in where for mark in SINGLE):
            raise InvalidRequest(f"{where!r} is no single expression: it may hold none of {SINGLE}")
        statement = sql("select_results_where").replace(":expression", f"({where})")
    params = {"user": user} if where is None else {}
    found = run_query(connection, statement, params, rows_max=CHOSEN_MAX, timeout_s=timeout_s)
    return [(int(seq), str(name)) for seq, name in found.rows]


def pages_of(chosen: list[tuple[int, str]]) -> Iterator[ForgetResults]:
    """The transactions."""
    for start in range(0, len(chosen), SEQS_MAX):
        page = chosen[start : start + SEQS_MAX]
        yield ForgetResults(seqs=tuple(s for s, _ in page), ids=tuple(i for _, i in page))
