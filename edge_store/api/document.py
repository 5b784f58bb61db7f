"""``/openapi.json``: made from the tables of routes, once, when the daemon starts."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from starlette.routing import BaseRoute, Route

from edge_store import __version__
from edge_store.api.described import Described, Form, Parameter, description_of
from edge_store.api.protocols import ERROR, PROTOCOLS, Waiting
from edge_store.api.routes import GENERATING, OPERATING, PASSING, rights_for

__all__ = ["DOCUMENT_PATH", "document", "undescribed"]

DOCUMENT_PATH = "/openapi.json"
VERSION = "3.1.0"
SCHEMA = "#/components/schemas/{name}"
PLACE = re.compile(r"\{(\w+)(?::\w+)?\}")
ANY_BODY = dict[str, Any]
OF_ENGINE = Described("The engine's own", gives=(ANY_BODY, Form("text/plain")))
IDS = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
LINKS = {
    "result": {
        "operationId": "get_v1_results_result_id",
        "parameters": {"result_id": "$response.header.x-request-id"},
    }
}


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    about: Described
    error: Any


def document(routes: Iterable[BaseRoute]) -> bytes:
    """The document of ``routes``, which are ours, and of those that the gate knows."""
    operations = [*_ours(routes), *_of_engine()]
    types = list(dict.fromkeys(kind for each in operations for kind in _types(each)))
    found, components = msgspec.json.schema_components(types, ref_template=SCHEMA)
    schemas = dict(zip(types, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in sorted(operations, key=lambda each: (each.path, each.method)):
        path = PLACE.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _shown(operation, schemas)
    return msgspec.json.encode(
        {
            "openapi": VERSION,
            "info": {"title": "edge-store", "version": __version__, "summary": SUMMARY},
            "paths": paths,
            "components": {
                "schemas": components,
                "headers": {"x-request-id": REQUEST_ID},
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "security": [{}, {"bearer": []}, {"x-api-key": []}],
        }
    )


SUMMARY = "Answers of a language model, each committed before it is delivered."
REQUEST_ID = {
    "description": "The id of the result, or a name for an answer that is none.",
    "required": True,
    "schema": {"type": "string"},
}


def undescribed(routes: Iterable[BaseRoute]) -> list[str]:
    """The routes of which the document knows no more than that they are there."""
    return sorted(
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, Route)
        for method in _methods(route)
        if description_of(route.endpoint, method) is None
    )


def _ours(routes: Iterable[BaseRoute]) -> Iterator[Operation]:
    for route in routes:
        assert isinstance(route, Route)
        for method in _methods(route):
            about = description_of(route.endpoint, method) or _unsaid(method, route)
            yield Operation(method, route.path, about, ERROR)


def _unsaid(method: str, route: Route) -> Described:
    says = (route.endpoint.__doc__ or f"{method} {route.path}").partition("\n")[0]
    return Described(says, gives=(Form("*/*", {}),), statuses=(200, 202, 204))


def _methods(route: Route) -> list[str]:
    return sorted((route.methods or set()) - {"HEAD"})


def _of_engine() -> Iterator[Operation]:
    for path in GENERATING:
        protocol = PROTOCOLS[path]
        about = Described(
            protocol.says,
            headers=protocol.headers,
            takes=protocol.takes,
            gives=(*protocol.gives, Waiting),
            statuses=(200, 202),
        )
        yield Operation("POST", path, about, protocol.error)
    for path in PASSING:
        yield Operation("GET", path, OF_ENGINE, ERROR)
    for path, methods in OPERATING.items():
        yield Operation(methods[0], path, OF_ENGINE, ERROR)


def _types(operation: Operation) -> Iterator[Any]:
    about = operation.about
    for kind in (operation.error, about.takes, *about.gives):
        if kind is not None and not isinstance(kind, Form):
            yield kind


def _shown(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    method, path, about, error = operation
    needed = [", ".join(sorted(some)) for some in rights_for(method, path)]
    answer = {"description": about.says, "headers": IDS, "content": _bodies(about.gives, schemas)}
    if path in GENERATING and method == "POST":
        answer["links"] = LINKS
    refused = {
        "description": "What failed. An error of the engine's own is passed on as it came.",
        "headers": IDS,
        "content": _bodies((error,), schemas),
    }
    parameters = [
        *({"name": n, "in": "path", "required": True, "schema": TEXT} for n in PLACE.findall(path)),
        *(_parameter(parameter, "query") for parameter in about.query),
        *(_parameter(parameter, "header") for parameter in about.headers),
    ]
    shown: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": about.says,
        "description": f"A key needs one of these rights: {'; and one of: '.join(needed)}.",
        "parameters": parameters,
        "responses": {**{str(status): answer for status in about.statuses}, "default": refused},
    }
    if about.takes is not None:
        body = _bodies((about.takes,), schemas)
        shown["requestBody"] = {"required": True, "content": body}
    return shown


TEXT = {"type": "string", "minLength": 1}


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": parameter.name, "in": place, "schema": parameter.schema}
    if parameter.schema.get("type") == "object":
        shown |= {"style": "deepObject", "explode": True}
    return {**shown, "description": parameter.says} if parameter.says else shown


def _bodies(kinds: Iterable[Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    """By media type; any one of the types that are JSON."""
    forms = {kind.media: kind.schema for kind in kinds if isinstance(kind, Form)}
    types = [schemas[kind] for kind in kinds if not isinstance(kind, Form)]
    if types:
        forms["application/json"] = types[0] if len(types) == 1 else {"anyOf": types}
    return {media: {"schema": schema} for media, schema in forms.items()}
