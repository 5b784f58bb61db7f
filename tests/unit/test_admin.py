"""The admin socket's routes: what is no change is refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from support.asgi import answered

from edge_store.api.admin import admin_routes
from edge_store.api.search import search_routes


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def never(_function: Callable[..., Any], *_args: Any) -> Any:
    raise AssertionError


@pytest.mark.parametrize("body", [b"[" * 100_000, b"", b"{", b"\xff", b'{"name": 7}'])
async def test_parameters_that_are_none_are_refused(body: bytes) -> None:
    call = await answered(admin_routes(cast("Any", never)), "/changes/keys.create", body=body)
    assert (call.status, json.loads(call.body)["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(("is_followed", "left"), [(True, ["search.db-wal"]), (False, [])])
async def test_the_search_index_is_dropped_without_the_writer(
    tmp_path: Path, *, is_followed: bool, left: list[str]
) -> None:
    for name in ("search.db", "search.db-wal"):
        (tmp_path / name).write_bytes(bytes(10))
    rooms = search_routes(tmp_path / "results.db", is_followed=is_followed)
    call = await answered(admin_routes(cast("Any", never), more=rooms), "/search/drop")
    assert (call.status, json.loads(call.body)) == (200, 20)
    assert names_in(tmp_path) == left, "who has it open drops the rest"
