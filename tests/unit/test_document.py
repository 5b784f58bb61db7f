"""The document of the API: each route is in it, from the tables that the gate and the app use."""

import json
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from support.records import make_result

from edge_store.api.app import own_routes
from edge_store.api.described import described, whole
from edge_store.api.document import document, undescribed
from edge_store.api.pages import public
from edge_store.api.protocols import PROTOCOLS
from edge_store.api.routes import GENERATING, OPERATING, PASSING
from edge_store.api.services import Services
from edge_store.api.shapes import ShownResult, WholeResult
from edge_store.result import Recorded

# Of these the document says that they are there, and no more. Describe yours, and keep this short.
UNDESCRIBED: list[str] = []


class Fields(msgspec.Struct):
    name: str


async def plain(_request: Request) -> Response:
    return Response()


@described("Makes one", query=(whole("limit", 1, 9, "how many"),), takes=Fields, gives=(Fields,))
async def told(_request: Request) -> Response:
    return Response()


def document_of(*routes: Route) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document(routes))
    return found


class Anything:
    """What no handler is asked for here."""

    def __getattr__(self, _name: str) -> "Anything":
        return self


def services() -> Services:
    unused: Any = Anything()
    return Services(**dict.fromkeys(Services._fields, unused))


def test_a_route_that_says_nothing_is_there_with_its_methods_and_places() -> None:
    paths = document_of(Route("/v1/x/{x_id}", plain, methods=["GET", "DELETE"]))["paths"]
    assert set(paths["/v1/x/{x_id}"]) == {"get", "delete"}
    (parameter,) = paths["/v1/x/{x_id}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("x_id", "path", True)


def test_what_a_handler_says_is_in_the_document() -> None:
    found = document_of(Route("/v1/x", told, methods=["POST"]))
    post = found["paths"]["/v1/x"]["post"]
    assert post["summary"] == "Makes one"
    schema = {"type": "integer", "minimum": 1, "maximum": 9}
    assert {"name": "limit", "in": "query", "schema": schema, "description": "how many"} in (
        post["parameters"]
    )
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Fields"}}}
    assert post["requestBody"]["content"] == body
    assert post["responses"]["200"]["content"] == body
    assert found["components"]["schemas"]["Fields"]["required"] == ["name"]


def test_every_route_is_in_the_document_and_described() -> None:
    routes = own_routes(services()).routes
    assert undescribed(routes) == UNDESCRIBED
    paths = json.loads(document(routes))["paths"]
    ours = {route.path_format for route in routes if isinstance(route, Route)}
    assert set(paths) == ours | set(GENERATING) | set(PASSING) | set(OPERATING)
    assert set(PROTOCOLS) == set(GENERATING)


@pytest.mark.parametrize("with_content", [False, True])
def test_a_result_is_shown_in_the_shape_of_the_document(*, with_content: bool) -> None:
    recorded = Recorded(seq=1, timeline="t", digest=b"d", result=make_result())
    shown = msgspec.json.encode(public(recorded, with_content=with_content))
    shape = WholeResult if with_content else ShownResult
    fields = {field.name for field in msgspec.structs.fields(shape)}
    assert set(json.loads(shown)) == fields
    msgspec.json.decode(shown, type=shape)
