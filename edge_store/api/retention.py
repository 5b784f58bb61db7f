"""``POST /retention/pass`` of the admin socket: have the daemon make a pass at once."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json

__all__ = ["retention_routes"]


def retention_routes(asked: asyncio.Event) -> list[BaseRoute]:
    """``asked`` is ``Around.retention_asked``. It is answered before the pass begins."""

    async def begin(_request: Request) -> Response:
        asked.set()
        return as_json({"begins": True})

    return [Route("/retention/pass", begin, methods=["POST"])]
