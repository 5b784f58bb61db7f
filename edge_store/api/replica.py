"""What `edge-store replica pause`, `resume` and `take-over` ask of the daemon, over the admin
socket.
"""

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
    """``POST /replica/pause``, ``/resume``, ``/owner`` and ``/take-over``. ``replica`` is None when
    there is none.
    """

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

    async def owner(_request: Request) -> Response:
        found, head_at = await existing().ownership.seen()
        ours = existing().ownership.boot_id
        return as_json({"owner": found, "head_at": head_at, "boot_id": ours})

    async def take_over(_request: Request) -> Response:
        return as_json({"begins_in_s": await existing().take_over()})

    return [
        Route("/replica/owner", owner, methods=["POST"]),
        Route("/replica/take-over", take_over, methods=["POST"]),
        Route("/replica/pause", pause, methods=["POST"]),
        Route("/replica/resume", resume, methods=["POST"]),
    ]
