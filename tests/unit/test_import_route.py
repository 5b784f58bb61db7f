"""A large import is taken in piece by piece: others have their turn meanwhile."""

import asyncio
import json
from typing import Any, cast

import msgspec
import pytest
from starlette.applications import Starlette
from support.asgi import answered
from support.records import make_result

from edge_store.api.admin import admin_routes
from edge_store.api.imports import import_routes
from edge_store.recorder.intake import Take, Taken
from edge_store.result import Content

PIECES, PIECE_BYTES = 16, 512 * 1024


class Kept:
    """Takes what it is given."""

    def __init__(self) -> None:
        self.asked: list[Take] = []

    async def take(self, asked: Take) -> Taken:
        self.asked.append(asked)
        return Taken(taken=len(asked.results))


def admin(kept: Kept) -> Starlette:
    return admin_routes(cast("Any", None), None, import_routes(cast("Any", kept)))


async def test_others_have_their_turn_while_a_large_import_is_decoded() -> None:
    content = Content(input_text="x", request_body=b"y" * PIECE_BYTES, response_body=b"")
    given = Take(results=tuple(make_result(n, content=content) for n in range(PIECES)))
    kept, turns = Kept(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    call = await answered(admin(kept), "/imports", body=msgspec.json.encode(given))
    beside.cancel()
    assert json.loads(call.body)["taken"] == PIECES
    assert kept.asked == [given]
    assert turns >= PIECES, "one for each"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "an import is not JSON"),
        (b'{"results": [{"id": 7}]}', "`id` must be a string"),
        (b'{"results": [], "said": [{}]}', "`id` is required"),
        (b'{"results": [' + b"[" * 100_000, "nested too deeply"),
    ],
)
async def test_what_is_no_import_is_refused(body: bytes, named: str) -> None:
    call = await answered(admin(Kept()), "/imports", body=body)
    assert call.status == 400
    assert named in json.loads(call.body)["error"]["message"]
