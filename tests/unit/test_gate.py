"""What the gate refuses by itself, before the recorder hears of a request."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.asgi import answered

from edge_store.api.access import Access
from edge_store.api.gate import Gate
from edge_store.config import RecorderSection, ServerSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import DiskFull
from edge_store.observability.metrics import Metrics
from edge_store.readers import Asker, asker
from edge_store.recorder.slots import Slots


def bounded() -> Any:
    """As much of a recorder as counts bodies."""
    return SimpleNamespace(slots=Slots(RecorderSection(bytes_max=2048)))


@pytest.fixture
def gate() -> Gate:
    absent = cast("Any", None)  # nothing here gets as far as these
    return Gate(
        recorder=bounded(), engine=absent, ours=absent, config=ServerSection(), metrics=Metrics()
    )


async def test_a_route_of_ours_finds_a_whole_body_or_is_not_asked() -> None:
    bodies = []

    async def ours(_scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append(await receive())
        await answering({"path": "/"}, receive, send)

    config = ServerSection(body_bytes_max=1024)
    gate = Gate(
        recorder=bounded(), engine=cast("Any", None), ours=ours, config=config, metrics=Metrics()
    )
    assert (await answered(gate, "/v1/responses", body=b"x" * 1024)).status == 200
    assert bodies == [{"type": "http.request", "body": b"x" * 1024, "more_body": False}]
    call = await answered(gate, "/v1/responses", body=b"x" * 1025)
    assert call.status == 413
    assert b"payload_too_large" in call.body
    assert len(bodies) == 1


@pytest.mark.parametrize("is_measured", [False, True])
async def test_a_disk_without_room_takes_nothing_new_and_lets_go_of_what_is_there(
    *, is_measured: bool
) -> None:
    full = DiskFull("the disk is full")
    recorder = bounded()
    if not is_measured:  # the writer has met it
        recorder.slots.close(full)

    async def keeps(*_args: Any) -> bool:
        return True

    recorder.will_keep = keeps
    gate = Gate(
        recorder=recorder,
        engine=cast("Any", None),
        ours=answering,
        config=ServerSection(),
        metrics=Metrics(),
        accept=cast("Any", None.__eq__),
        shortage=lambda: full if is_measured else None,
    )
    prefer = [(b"prefer", b"respond-async")]
    for path, headers in (
        ("/v1/files", []),
        ("/v1/batches", []),
        ("/v1/conversations/conv_1/items", []),
        ("/v1/chat/completions/chatcmpl-1", []),
        ("/v1/responses", []),
        ("/v1/chat/completions", prefer),
    ):
        call = await answered(gate, path, body=b"{}", headers=headers)
        assert (call.status, path) == (507, path)
        assert b"disk_full" in call.body
    for method, path in (
        ("GET", "/v1/files"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/batches/batch_1/cancel"),
        ("POST", "/v1/responses/resp_1/cancel"),
    ):
        call = await answered(gate, path, method=method, body=b"{}")
        assert (call.status, path) == (200, path)


async def test_bodies_beyond_the_budget_of_all_are_told_to_come_again(gate: Gate) -> None:
    for _ in range(2):
        call = await answered(gate, "/generate", body=b"x" * 2048)
        assert call.status == 503
        assert b"recorder_full" in call.body
        assert int(call.headers[b"retry-after"]) > 0
        assert call.headers[b"connection"] == b"close"


async def test_on_a_connection_too_many_only_health_is_answered_and_it_is_closed() -> None:
    gate = Gate(
        recorder=bounded(),
        engine=cast("Any", None),
        ours=cast("Any", answering),
        config=ServerSection(),
        metrics=Metrics(),
    )
    for path in ("/livez", "/readyz", "/metrics"):
        call = await answered(gate.overflow, path, method="GET")
        assert (call.status, call.headers[b"connection"]) == (200, b"close")
    for path in ("/v1/results", "/v1/chat/completions", "/v1/models"):
        call = await answered(gate.overflow, path)
        assert (call.status, call.headers[b"connection"]) == (503, b"close")
        assert b"too many connections" in call.body
        assert int(call.headers[b"retry-after"]) > 0


async def answering(scope: Scope, _receive: Receive, send: Send) -> None:
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def absent(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize(
    ("admin_key", "given", "status"),
    [("", b"", 404), ("", b"Bearer ", 404), ("k1", b"", 404), ("k1", b"Bearer k2", 404),
     ("k1", b"Bearer k1", 200)],
)  # fmt: skip
async def test_operators_routes_are_there_for_the_admin_key_alone(
    admin_key: str, given: bytes, status: int
) -> None:
    gate = Gate(
        recorder=bounded(),
        engine=cast("Any", answering),
        ours=cast("Any", absent),
        config=ServerSection(),
        metrics=Metrics(),
        access=Access(admin_key=admin_key),
    )
    headers = [(b"authorization", given)]
    for path, method in (("/flush_cache", "POST"), ("/server_info", "GET")):
        assert (await answered(gate, path, method=method, headers=headers)).status == status
    for path in ("/update_weights_from_disk", "/load_lora_adapter", "/start_profile"):
        assert (await answered(gate, path, headers=headers)).status == 404


@pytest.mark.parametrize("path", ["/v1/models", "/get_model_info", "/model_info"])
async def test_what_describes_the_model_is_the_engines(path: str) -> None:
    gate = Gate(
        recorder=bounded(),
        engine=cast("Any", answering),
        ours=cast("Any", None),
        config=ServerSection(),
        metrics=Metrics(),
    )
    call = await answered(gate, path, method="GET")
    assert (call.status, call.body) == (200, path.encode())
    assert (await answered(gate, path, method="POST")).status == 405


async def test_what_only_reads_is_known_by_its_tenant_and_large_answers_are_counted() -> None:
    seen: list[Asker | None] = []

    async def ours(_scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(asker.get())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(512 * 1024)})

    def gate_of(bytes_max: int) -> Gate:
        recorder: Any = SimpleNamespace(slots=Slots(RecorderSection(bytes_max=bytes_max)))
        return Gate(
            recorder=recorder,
            engine=cast("Any", None),
            ours=ours,
            config=ServerSection(),
            metrics=Metrics(),
        )

    call = await answered(gate_of(1024 * 1024), "/v1/results", method="GET")
    assert (call.status, len(call.body)) == (200, 512 * 1024)
    assert seen == [Asker(None)]
    assert asker.get() is None, "what comes next has to say itself who it is"
    call = await answered(gate_of(256 * 1024), "/v1/results", method="GET")
    assert call.status == 503
    assert b"recorder_full" in call.body
    assert int(call.headers[b"retry-after"]) > 0
    await answered(gate_of(1024 * 1024), "/v1/responses", body=b"{}")
    assert seen[-1] is None, "it is bounded by its hold"
