"""What `edge-store replica pause` and `resume` ask of the daemon, over the admin socket."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json
from edge_store.errors import InvalidRequest
from edge_store.faults import UNFIT, refusal_of
from edge_store.replica.pause import PAUSE_S_MAX
from edge_store.result import Record

__all__ = ["replica_routes"]


class Pausing(Record, frozen=True, kw_only=True):
    """For how long."""

    for_s: Annotated[float, Meta(gt=0, le=PAUSE_S_MAX)]


def replica_routes(replica: Any) -> list[BaseRoute]:
    """``POST /replica/pause`` and ``/replica/resume``. ``replica`` is None when there is none."""

    def existing() -> Any:
        if replica is None:
            raise InvalidRequest("replication is off: replica.enabled = false")
        return replica

    async def pause(request: Request) -> Response:
        body = await request.body()
        try:
            asked = msgspec.json.decode(body, type=Pausing)
        except UNFIT as exc:
            raise refusal_of(exc, Pausing, body=body, what="a pause") from exc
        return as_json({"paused_until": await existing().pause(asked.for_s)})

    async def resume(_request: Request) -> Response:
        await existing().resume()
        return as_json({"paused_until": None})

    return [
        Route("/replica/pause", pause, methods=["POST"]),
        Route("/replica/resume", resume, methods=["POST"]),
    ]
