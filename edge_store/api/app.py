"""Our own routes, put together: health, metrics, and the rooms' own."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import HANDLERS, as_json
from edge_store.api.batches import batch_routes
from edge_store.api.completions import completion_routes
from edge_store.api.conversations import conversation_routes
from edge_store.api.described import Form, checked, described
from edge_store.api.document import DOCUMENT_PATH, document
from edge_store.api.feed import feed_routes
from edge_store.api.files import file_routes
from edge_store.api.models import model_routes
from edge_store.api.query import query_routes
from edge_store.api.responses import response_routes
from edge_store.api.results import result_routes
from edge_store.api.routes import WATCHING
from edge_store.api.services import Services

__all__ = ["own_routes"]


def own_routes(services: Services) -> Starlette:
    """Everything that the gate does not give to the engine."""
    routes = [
        *_watching(services),
        *result_routes(services),
        *feed_routes(services),
        *query_routes(services),
        *model_routes(services),
        *completion_routes(services),
        *file_routes(services),
        *batch_routes(services),
    ]
    if services.background is not None:
        routes += response_routes(services.background)
        routes += conversation_routes(services.background.means)
    strict = [each if each.path in WATCHING else checked(each) for each in documented(routes)]
    app = Starlette(routes=strict, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False  # it would say where by the Host that was sent
    return app


def documented(routes: list[BaseRoute]) -> list[Route]:
    """``routes``, and the document that tells of them."""

    @described("This document")
    async def described_here(_request: Request) -> Response:
        return Response(told, media_type="application/json")

    every = [each for each in routes if isinstance(each, Route)]
    every.append(Route(DOCUMENT_PATH, described_here))
    told = document(every)
    return every


def _watching(services: Services) -> list[BaseRoute]:
    @described("200 while the process answers", gives=(Form("text/plain"),))
    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    @described("Whether a request would be taken now", statuses=(200, 503))
    async def readyz(_request: Request) -> Response:
        state = await services.health()
        return as_json(state, 200 if state["is_ready"] else 503)

    @described("What Prometheus scrapes", gives=(Form("text/plain"),))
    async def scrape(_request: Request) -> Response:
        return Response(services.exposition(), media_type="text/plain; version=0.0.4")

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", scrape)]
