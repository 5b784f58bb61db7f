"""Which rights open which route: every route that the daemon has, with every set of rights."""

import json
from itertools import chain, combinations
from pathlib import Path

import pytest

from edge_store.api.access import Access
from edge_store.errors import Forbidden
from edge_store.keys import Key, digest_of
from edge_store.recorder.caller import RecordLevel, Right

# the document of the live routes, which an e2e test compares with a running daemon
DOCUMENT = Path(__file__).parents[1] / "golden" / "openapi.json"
GIVEN = b"es-of-the-test"

ANY = "generate | read_own | read_all | admin"
READ = "read_own | read_all"
TABLE = {  # one right of each side of an &
    "DELETE /v1/chat/completions/{completion_id}": "generate",
    "DELETE /v1/conversations/{conversation_id}": "generate",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": f"generate & {READ}",
    "DELETE /v1/files/{file_id}": "generate",
    "DELETE /v1/responses/{response_id}": "generate",
    "GET /get_model_info": ANY,
    "GET /get_server_info": "admin",
    "GET /livez": ANY,
    "GET /metrics": "read_all | admin",
    "GET /model_info": ANY,
    "GET /openapi.json": ANY,
    "GET /readyz": ANY,
    "GET /server_info": "admin",
    "GET /v1/batches": READ,
    "GET /v1/batches/{batch_id}": READ,
    "GET /v1/changes": READ,
    "GET /v1/chat/completions": READ,
    "GET /v1/chat/completions/{completion_id}": READ,
    "GET /v1/chat/completions/{completion_id}/messages": READ,
    "GET /v1/conversations/{conversation_id}": READ,
    "GET /v1/conversations/{conversation_id}/items": READ,
    "GET /v1/conversations/{conversation_id}/items/{item_id}": READ,
    "GET /v1/files": READ,
    "GET /v1/files/{file_id}": READ,
    "GET /v1/files/{file_id}/content": READ,
    "GET /v1/models": ANY,
    "GET /v1/models/{model}": ANY,
    "GET /v1/responses/{response_id}": READ,
    "GET /v1/responses/{response_id}/input_items": READ,
    "GET /v1/results": READ,
    "GET /v1/results/{result_id}": READ,
    "GET /v1/results/{result_id}/raw": READ,
    "GET /v1/results/{result_id}/receipt": READ,
    "POST /api/chat": "generate",
    "POST /api/generate": "generate",
    "POST /flush_cache": "admin",
    "POST /generate": "generate",
    "POST /v1/batches": "generate",
    "POST /v1/batches/{batch_id}/cancel": "generate",
    "POST /v1/chat/completions": "generate",
    "POST /v1/chat/completions/{completion_id}": f"generate & {READ}",
    "POST /v1/completions": "generate",
    "POST /v1/conversations": "generate",
    "POST /v1/conversations/{conversation_id}": "generate",
    "POST /v1/conversations/{conversation_id}/items": "generate",
    "POST /v1/embeddings": "generate",
    "POST /v1/files": "generate",
    "POST /v1/messages": "generate",
    "POST /v1/query": "admin",
    "POST /v1/responses": "generate",
    "POST /v1/responses/{response_id}/cancel": f"generate & {READ}",
}
SETS = [
    frozenset(some) for some in chain.from_iterable(combinations(Right, n) for n in range(1, 5))
]


def live_routes() -> set[str]:
    paths = json.loads(DOCUMENT.read_bytes())["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def is_enough(rights: frozenset[Right], needed: str) -> bool:
    groups = [{Right(name.strip()) for name in group.split("|")} for group in needed.split("&")]
    return all(rights & group for group in groups)


def may(access: Access, route: str) -> bool:
    method, path = route.split()
    path = path.replace("{", "").replace("}", "")  # an id of some sort
    headers = [(b"authorization", b"Bearer " + GIVEN)]
    client, server = ("192.168.1.7", 4711), ("192.168.1.2", 8642)
    scope = {"path": path, "method": method, "headers": headers, "client": client, "server": server}
    try:
        access.visit(scope)
    except Forbidden:
        return False
    return True


def test_table_has_every_route_that_the_daemon_has() -> None:
    assert live_routes() == set(TABLE)


@pytest.mark.parametrize("rights", SETS, ids=lambda some: "+".join(sorted(some)))
def test_a_key_opens_what_its_rights_say_and_nothing_else(rights: frozenset[Right]) -> None:
    key = Key(
        key_id="key_1", name="test", tenant="t1", scopes=tuple(rights), requests_per_minute=None,
        concurrent=None, record_max=RecordLevel.FULL, sha256=digest_of(GIVEN), created_at=0,
        expires_at=None, revoked_at=None,
    )  # fmt: skip
    access = Access([key])
    always = {"GET /livez"}  # without a key, too
    opened = {route for route in TABLE if may(access, route)}
    assert opened == {r for r, needed in TABLE.items() if is_enough(rights, needed)} | always
