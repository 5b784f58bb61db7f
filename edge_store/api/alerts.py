"""What `edge-store alerts` asks of the daemon, over the admin socket."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.alerts import Alarms
from edge_store.alerts.room import Alerting
from edge_store.api.answers import as_json

__all__ = ["alert_routes"]


def alert_routes(alarms: Alarms, told: Alerting | None) -> list[BaseRoute]:
    """``GET /alerts`` and ``POST /alerts/test``. ``told`` is None when nobody is."""

    async def show(_request: Request) -> Response:
        return as_json({"alarms": alarms.active, "targets": told.state if told else ()})

    async def test(_request: Request) -> Response:
        return as_json(await told.try_all() if told else [])

    return [Route("/alerts", show), Route("/alerts/test", test, methods=["POST"])]
