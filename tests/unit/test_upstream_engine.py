"""What passes through the upstream engine, against real servers on loopback."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from support.asgi import DEADLINE_S, Call, answered
from support.proxied import proxied
from support.rawserver import (
    CHAT_EVENTS,
    Behaviour,
    Peer,
    answers,
    answers_gzip,
    hangs_before_headers,
    hangs_midstream,
    refusing_port,
    streams,
)

from edge_store.config import UpstreamSection
from edge_store.engine.upstream import UpstreamEngine
from edge_store.errors import InvalidRequest
from edge_store.ids import ResultId


@pytest.fixture(autouse=True)
def _no_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_STORE_UPSTREAM_API_KEY", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


async def test_method_path_query_and_body_arrive_as_they_were() -> None:
    async with proxied(answers(b'{"ok":true}')) as (engine, server):
        call = await answered(
            engine, "/v1/a%2Fb?x=1&y=%20", method="PUT", body=b'{"q": "\xc3\xa9"}'
        )
    request = server.requests[0]
    assert (request.method, request.target) == ("PUT", "/v1/a%2Fb?x=1&y=%20")
    assert request.body == b'{"q": "\xc3\xa9"}'
    assert (call.status, call.body, call.is_complete) == (200, b'{"ok":true}', True)


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("{url}", "/v1/models"),
        ("{url}/", "/v1/models"),
        ("{url}/v1", "/v1/models"),
        ("{url}/v1/", "/v1/models"),
        ("{url}/llm/v1", "/llm/v1/models"),
    ],
)
async def test_base_url_may_end_with_a_slash_or_v1(base: str, target: str) -> None:
    async with proxied(answers(), base) as (engine, server):
        await answered(engine, "/v1/models", method="GET", body=b"")
    assert server.requests[0].target == target


async def test_request_headers_of_the_connection_stay_here() -> None:
    given = [
        (b"host", b"edge.example"),
        (b"connection", b"keep-alive, X-Hop"),
        (b"keep-alive", b"timeout=5"),
        (b"x-hop", b"1"),
        (b"te", b"trailers"),
        (b"trailer", b"x"),
        (b"upgrade", b"h2c"),
        (b"transfer-encoding", b"chunked"),
        (b"proxy-authorization", b"Basic x"),
        (b"proxy-connection", b"close"),
        (b"cookie", b"session=of-this-box"),
        (b"expect", b"100-continue"),
        (b"content-length", b"999"),
        (b"accept-encoding", b"gzip, br"),
        (b"content-type", b"application/json"),
        (b"traceparent", b"00-a-b-01"),
        (b"authorization", b"Bearer of-the-caller"),
    ]
    async with proxied(answers()) as (engine, server):
        await answered(engine, headers=given, body=b'{"a":1}')
        host = f"127.0.0.1:{server.port}"
    assert sorted(server.requests[0].headers) == [
        ("accept-encoding", "identity"),
        ("authorization", "Bearer of-the-caller"),
        ("content-length", "7"),
        ("content-type", "application/json"),
        ("host", host),
        ("traceparent", "00-a-b-01"),
    ]


async def test_response_headers_of_the_connection_stay_there() -> None:
    sent = (
        "Connection: keep-alive, X-Hop",
        "Keep-Alive: timeout=5",
        "X-Hop: 1",
        "Trailer: x",
        "Proxy-Authenticate: Basic",
        "Server: raw",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "X-Ratelimit: 7",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "X-Edge-Store-Id: theirs",
        "X-Edge-Store-Durability: committed",
    )
    async with proxied(answers(b"{}", 200, *sent)) as (engine, _):
        call = await answered(engine)
    assert sorted(call.messages[0]["headers"]) == [
        (b"content-type", b"application/json"),
        (b"x-ratelimit", b"7"),
    ]


async def test_cookie_of_one_answer_is_not_sent_with_the_next_request() -> None:
    async with proxied(answers(b"{}", 200, "Set-Cookie: session=one; Path=/")) as (engine, server):
        await answered(engine)
        await answered(engine)
    assert [request.header("cookie") for request in server.requests] == [None, None]
    assert server.connections == 1, "an idle connection is used again"


async def test_answer_compressed_unasked_goes_out_plain() -> None:
    async with proxied(answers_gzip(b'{"text":"aaaaaaaa"}')) as (engine, _):
        call = await answered(engine, headers=[(b"accept-encoding", b"gzip")])
    assert call.body == b'{"text":"aaaaaaaa"}'
    assert call.headers == {b"content-type": b"application/json"}


async def test_first_chunk_passes_before_the_second_is_sent() -> None:
    gate = asyncio.Event()
    async with (
        proxied(streams(*CHAT_EVENTS, gate=gate)) as (engine, _),
        Call(engine) as call,
    ):
        assert (await call.next())["status"] == 200
        first = await call.next()
        assert (first["body"], first["more_body"]) == (CHAT_EVENTS[0], True)
        gate.set()
        await call.ended()
    assert call.headers == {b"content-type": b"text/event-stream"}
    assert call.body == b"".join(CHAT_EVENTS)
    assert call.is_complete


async def test_error_of_the_upstream_passes_as_it_is() -> None:
    body = b'{"error":{"message":"slow down"}}'
    async with proxied(answers(body, 429, "Retry-After: 7")) as (engine, _):
        call = await answered(engine)
    assert (call.status, call.body) == (429, body)
    assert call.headers[b"retry-after"] == b"7"


async def test_body_of_8_mb_passes_both_ways() -> None:
    big = json.dumps({"prompt": "0123456789abcdef" * (8 << 16)}).encode()

    async def echo(peer: Peer) -> None:
        await answers(peer.request.body)(peer)

    assert len(big) > 8 << 20
    async with proxied(echo) as (engine, server):
        call = await answered(engine, body=big)
    assert server.requests[0].body == big
    assert call.body == big


@pytest.mark.parametrize("behaviour", [hangs_before_headers, hangs_midstream(*CHAT_EVENTS[:2])])
async def test_cancelled_call_closes_its_upstream_connection(behaviour: Behaviour) -> None:
    async with proxied(behaviour) as (engine, server), Call(engine) as call:
        await server.received()
        if behaviour is not hangs_before_headers:
            await call.next()
            await call.next()
        server.peer_left.clear()
        await call.cancel()
        assert call.task.cancelled()
        await server.left()


async def test_error_of_send_passes_unchanged_and_closes_the_upstream_connection() -> None:
    class Full(Exception):
        pass

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise Full

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/generate", "headers": []}
    async with proxied(hangs_midstream(CHAT_EVENTS[0])) as (engine, server):
        server.peer_left.clear()
        with pytest.raises(Full) as caught:
            await engine(scope, receive, send)
        await server.left()
        del caught  # till here its traceback kept the response alive: nothing but a close ended it


async def test_abort_tells_the_server_the_rid() -> None:
    async with proxied(answers()) as (engine, server):
        engine.abort(ResultId("one"))
        request = await server.received()
    assert (request.method, request.target) == ("POST", "/abort_request")
    assert json.loads(request.body) == {"rid": "one"}


async def test_leaving_lets_the_last_abort_go_out() -> None:
    async with proxied(answers()) as (engine, server):
        engine.abort(ResultId("last"))
    assert [json.loads(request.body) for request in server.requests] == [{"rid": "last"}]


async def test_abort_after_the_end_does_nothing() -> None:
    async with proxied(answers()) as (engine, server):
        pass
    engine.abort(ResultId("late"))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert server.requests == []


async def test_without_send_rid_no_abort_is_sent() -> None:
    async with proxied(answers(), send_rid=False) as (engine, server):
        assert not engine.takes_rid
        engine.abort(ResultId("one"))
        await answered(engine, "/v1/models", method="GET", body=b"")
    assert [request.target for request in server.requests] == ["/v1/models"]


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with proxied(answers(b'{"direct":true}')) as (engine, _):
            call = await answered(engine)
    assert call.body == b'{"direct":true}'


async def test_query_that_is_no_url_is_the_callers_fault() -> None:
    async with proxied(answers()) as (engine, server):
        with pytest.raises(InvalidRequest, match="not a URL"):
            await answered(engine, "/v1/models?q=é")
    assert server.requests == []


async def trivial_app(scope: Any, receive: Any, send: Any) -> None:
    """Streams back the body it was given, in two pieces."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": scope["raw_path"], "more_body": True})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def uvicorn_url() -> Iterator[str]:
    config = uvicorn.Config(trivial_app, lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # a connection waits in the queue until the server accepts it
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


async def test_answer_of_a_real_server_passes(uvicorn_url: str) -> None:
    async with UpstreamEngine(UpstreamSection(base_url=uvicorn_url)) as engine:
        call = await answered(engine, body=b'{"model":"m"}')
    assert call.status == 201
    assert call.body == b'/v1/chat/completions{"model":"m"}'
    assert call.headers == {b"content-type": b"text/event-stream"}
