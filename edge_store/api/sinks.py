"""What `edge-store sinks test` asks of the daemon, over the admin socket: it has the secrets."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json
from edge_store.config import Config
from edge_store.errors import NotFound
from edge_store.sinks.kinds import make_sink
from edge_store.sinks.sink import place_of, reach

__all__ = ["sink_routes"]


def sink_routes(config: Config, device_id: str) -> list[BaseRoute]:
    """``POST /sinks/{name}/test``: on a connection of its own."""

    async def test(request: Request) -> Response:
        name = request.path_params["name"]
        for sink in config.sinks:
            if sink.name == name:
                made = make_sink(sink, place_of(sink), device_id)
                return as_json({"said": await reach(made, sink.timeout_s)})
        raise NotFound(f"the daemon has no sink {name!r}", hint="was it started since?")

    return [Route("/sinks/{name}/test", test, methods=["POST"])]
