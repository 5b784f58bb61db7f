"""What the gate refuses by itself, before the recorder hears of a request."""

from typing import Any, cast

import pytest
from support.asgi import answered

from edge_store.api import gate as room
from edge_store.api.gate import Gate
from edge_store.config import ServerSection
from edge_store.engine import Receive, Scope, Send
from edge_store.observability.metrics import Metrics


@pytest.fixture
def gate() -> Gate:
    absent = cast("Any", None)  # nothing here gets as far as these
    return Gate(
        recorder=absent, engine=absent, ours=absent, config=ServerSection(), metrics=Metrics()
    )


async def test_bodies_beyond_the_budget_of_all_are_told_to_come_again(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "UNADMITTED_BYTES_MAX", 10)
    for _ in range(2):
        call = await answered(gate, "/generate", body=b"x" * 11)
        assert call.status == 503
        assert b"recorder_full" in call.body
        assert int(call.headers[b"retry-after"]) > 0


async def answering(scope: Scope, _receive: Receive, send: Send) -> None:
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@pytest.mark.parametrize(
    ("admin_key", "given", "status"),
    [("", b"", 404), ("", b"Bearer ", 404), ("k1", b"", 404), ("k1", b"Bearer k2", 404),
     ("k1", b"Bearer k1", 200)],
)  # fmt: skip
async def test_operators_routes_are_there_for_the_admin_key_alone(
    admin_key: str, given: bytes, status: int
) -> None:
    gate = Gate(
        recorder=cast("Any", None),
        engine=cast("Any", answering),
        ours=cast("Any", None),
        config=ServerSection(),
        metrics=Metrics(),
        admin_key=admin_key,
    )
    headers = [(b"authorization", given)]
    for path, method in (("/flush_cache", "POST"), ("/server_info", "GET")):
        assert (await answered(gate, path, method=method, headers=headers)).status == status
    for path in ("/update_weights_from_disk", "/load_lora_adapter", "/start_profile"):
        assert (await answered(gate, path, headers=headers)).status == 404


@pytest.mark.parametrize("path", ["/v1/models", "/get_model_info", "/model_info"])
async def test_what_describes_the_model_is_the_engines(path: str) -> None:
    gate = Gate(
        recorder=cast("Any", None),
        engine=cast("Any", answering),
        ours=cast("Any", None),
        config=ServerSection(),
        metrics=Metrics(),
    )
    call = await answered(gate, path, method="GET")
    assert (call.status, call.body) == (200, path.encode())
    assert (await answered(gate, path, method="POST")).status == 405
