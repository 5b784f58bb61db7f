"""The admin socket's routes: what is no change is refused in words."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from support.asgi import answered

from edge_store.api.admin import admin_routes


async def never(_function: Callable[..., Any], *_args: Any) -> Any:
    raise AssertionError


@pytest.mark.parametrize("body", [b"[" * 100_000, b"", b"{", b"\xff", b'{"name": 7}'])
async def test_parameters_that_are_none_are_refused(body: bytes) -> None:
    call = await answered(admin_routes(cast("Any", never)), "/changes/keys.create", body=body)
    assert (call.status, json.loads(call.body)["error"]["code"]) == (400, "invalid_request")
