"""``POST /v1/query``: read-only SQL on a connection of its own; the gate asks for the right."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import json_body
from edge_store.api.described import described
from edge_store.api.services import Services
from edge_store.errors import Overloaded
from edge_store.query import run_query
from edge_store.sqlite import Connection

__all__ = ["query_routes"]

QUERIES_MAX = 4  # one runs, the others wait
ROWS_MAX = 10_000

Value = str | int | float | None


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body. ``params`` are the values of its ``:name``s."""

    sql: str
    params: dict[str, Value] = msgspec.field(default_factory=dict)
    rows_max: Annotated[int, Meta(ge=1, le=ROWS_MAX)] = 1000
    timeout_s: Annotated[float, Meta(gt=0, le=30)] = 5.0


class Answer(msgspec.Struct, frozen=True):
    """Of a query; BLOBs are base64."""

    object: Literal["query_result"]
    columns: list[str]
    rows: list[list[Value]]
    is_cut: bool


def query_routes(services: Services) -> list[BaseRoute]:
    """/v1/query."""
    asked = 0

    @described("Read-only SQL", takes=Query, gives=(Answer,))
    async def query(request: Request) -> Response:
        nonlocal asked
        body = await json_body(request, Query)
        if asked >= QUERIES_MAX:
            raise Overloaded(f"{asked} queries run or wait", hint="ask again later")
        asked += 1
        try:
            answer = await services.queries.run(_answer, body)
        finally:
            asked -= 1
        return Response(answer, media_type="application/json")

    return [Route("/v1/query", query, methods=["POST"])]


def _answer(connection: Connection, query: Query) -> bytes:
    """As JSON, made on the query's thread: it may be large. BLOBs are base64."""
    found = run_query(
        connection,
        query.sql,
        query.params,
        rows_max=query.rows_max,
        timeout_s=query.timeout_s,
    )
    shown = msgspec.structs.asdict(found)
    del shown["unused"]
    return msgspec.json.encode({"object": "query_result", **shown})
