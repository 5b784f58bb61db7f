"""``POST /imports`` of the admin socket: results that were made elsewhere, some at a time."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json
from edge_store.faults import UNFIT, refusal_of
from edge_store.recorder.intake import Intake, Take

__all__ = ["import_routes"]


def import_routes(intake: Intake) -> list[BaseRoute]:
    """The answer says what became of them, once they are committed."""

    async def take(request: Request) -> Response:
        body = await request.body()
        try:
            asked = msgspec.json.decode(body, type=Take)
        except UNFIT as exc:
            raise refusal_of(exc, Take, body=body, what="an import") from exc
        return as_json(await intake.take(asked))

    return [Route("/imports", take, methods=["POST"])]
