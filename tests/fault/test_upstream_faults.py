"""Each way an upstream server can fail us becomes one clear error: whose address, and why."""

import asyncio
import gzip
from typing import Any

import pytest
from support.asgi import Call, answered
from support.proxied import proxied, settings
from support.rawserver import (
    CHAT_EVENTS,
    Behaviour,
    RawServer,
    answers,
    dies_before_headers,
    dies_midbody,
    dies_midstream,
    hangs_before_headers,
    hangs_midstream,
    redirects,
    refusing_port,
    sends_garbage,
    streams,
    unaccepting_port,
)

from edge_store.engine.upstream import UpstreamEngine
from edge_store.errors import ClientDisconnected, GenerationTimeout, UpstreamError
from edge_store.ids import ResultId

LIMIT_S = 0.2  # of the wait that a test wants to run out
PATIENT_S = 3.0  # of one that something must come before, on a busy machine too


@pytest.fixture(autouse=True)
def _short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_STORE_UPSTREAM_API_KEY", raising=False)
    monkeypatch.setattr("edge_store.engine.upstream.PROBE_TIMEOUT_S", 0.2)


async def failure_of(behaviour: Behaviour) -> tuple[UpstreamError, Call]:
    """The error of one call, which names the server's address, and what was sent before it."""
    async with proxied(behaviour) as (engine, server), Call(engine) as call:
        with pytest.raises(UpstreamError) as caught:
            await call.ended()
        assert server.url in str(caught.value)
    assert caught.value.http_status == 502
    assert not call.is_complete
    return caught.value, call


async def test_refused_connection_is_named() -> None:
    with refusing_port() as port:
        async with UpstreamEngine(settings(f"http://127.0.0.1:{port}")) as engine:
            with pytest.raises(UpstreamError) as caught:
                await answered(engine)
    assert f"cannot connect to http://127.0.0.1:{port}" in str(caught.value)
    assert "[Errno 111]" in str(caught.value)
    assert "engine.upstream.base_url" in caught.value.hint


async def test_unknown_host_is_named() -> None:
    async with UpstreamEngine(settings("http://no-such-host.invalid")) as engine:
        with pytest.raises(UpstreamError) as caught:
            await answered(engine)
    assert "cannot connect to http://no-such-host.invalid: [Errno -" in str(caught.value)


async def test_tls_to_a_server_without_tls_is_named() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with UpstreamEngine(settings(url)) as engine:
            with pytest.raises(UpstreamError) as caught:
                await answered(engine)
    assert f"cannot connect to {url}: [SSL" in str(caught.value)


async def test_server_that_accepts_no_connection_times_out() -> None:
    with unaccepting_port() as port:
        config = settings(f"http://127.0.0.1:{port}", connect_timeout_s=LIMIT_S)
        async with UpstreamEngine(config) as engine:
            with pytest.raises(UpstreamError, match="did not accept a connection within") as caught:
                await answered(engine)
    assert f"connect_timeout_s = {LIMIT_S} s" in str(caught.value)
    assert caught.value.http_status == 502


async def test_silence_before_the_headers_times_out() -> None:
    async with proxied(hangs_before_headers, read_timeout_s=LIMIT_S) as (engine, server):
        with pytest.raises(GenerationTimeout) as caught:
            await answered(engine)
        assert str(caught.value) == (
            f"{server.url} sent nothing for engine.upstream.read_timeout_s = {LIMIT_S} s"
        )
        await server.left()
    assert caught.value.http_status == 504


async def test_silence_midstream_times_out_after_what_had_come() -> None:
    behaviour = hangs_midstream(*CHAT_EVENTS[:2])
    async with proxied(behaviour, read_timeout_s=PATIENT_S) as (engine, server):
        async with Call(engine) as call:
            with pytest.raises(GenerationTimeout, match="sent nothing for"):
                await call.ended()
        await server.left()
    assert call.body == b"".join(CHAT_EVENTS[:2])
    assert not call.is_complete


async def test_server_that_does_not_read_the_request_times_out() -> None:
    release = asyncio.Event()

    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.transport.abort()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0, limit=1024)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with UpstreamEngine(settings(url, read_timeout_s=LIMIT_S)) as engine:
            with pytest.raises(GenerationTimeout, match="took nothing for"):
                await answered(engine, body=b"x" * (32 << 20))  # more than all socket buffers
        release.set()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_stream_that_breaks_off_fails_after_what_had_come(*, reset: bool) -> None:
    gate = asyncio.Event()

    behaviour = dies_midstream(CHAT_EVENTS[0], reset=reset, gate=gate)
    async with proxied(behaviour) as (engine, server), Call(engine) as call:
        await call.next()
        assert (await call.next())["body"] == CHAT_EVENTS[0]
        gate.set()  # a reset may overtake bytes that were not read: so only after they were
        with pytest.raises(UpstreamError) as caught:
            await call.ended()
    assert server.url in str(caught.value)
    assert call.body == CHAT_EVENTS[0]
    assert not call.is_complete


async def test_plain_body_shorter_than_promised_fails() -> None:
    error, call = await failure_of(dies_midbody(b'{"id":', 100))
    assert "received 6 bytes, expected 100" in str(error)
    assert call.body == b'{"id":'


async def test_close_without_an_answer_fails() -> None:
    error, call = await failure_of(dies_before_headers)
    assert "disconnected without sending a response" in str(error)
    assert not call.has_started


async def test_garbage_instead_of_http_fails_with_a_short_message() -> None:
    error, call = await failure_of(sends_garbage(b"SSH-2.0-" + b"x" * 5000 + b"\r\n\r\n"))
    assert "broke the HTTP protocol" in str(error)
    assert len(str(error)) < 500
    assert not call.has_started


async def test_garbage_instead_of_a_chunk_fails() -> None:
    garbled = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    error, call = await failure_of(sends_garbage(garbled))
    assert "broke the HTTP protocol" in str(error)
    assert call.status == 200


async def test_body_that_is_not_the_gzip_it_says_fails() -> None:
    error, _ = await failure_of(answers(b"not gzip", 200, "Content-Encoding: gzip"))
    assert "incorrect header check" in str(error)


async def test_coding_that_cannot_be_decoded_fails() -> None:
    body = gzip.compress(b"{}")
    error, call = await failure_of(answers(body, 200, "Content-Encoding: gzip, br"))
    assert "content-encoding 'gzip, br'" in str(error)
    assert not call.has_started


async def test_redirect_is_not_followed() -> None:
    async with RawServer(answers()) as elsewhere:
        error, call = await failure_of(redirects(elsewhere.url))
        assert f"answered 307 (to {elsewhere.url})" in str(error)
        assert elsewhere.requests == []
    assert not call.has_started


async def test_switch_to_another_protocol_fails() -> None:
    error, call = await failure_of(
        sends_garbage(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
    )
    assert "broke the HTTP protocol" in str(error)
    assert not call.has_started


async def test_full_pool_says_so_and_serves_again_once_free() -> None:
    gate = asyncio.Event()
    async with proxied(
        streams(*CHAT_EVENTS, gate=gate), connections_max=1, connect_timeout_s=PATIENT_S
    ) as (engine, server):
        async with Call(engine) as first:
            await first.next()
            with pytest.raises(UpstreamError, match=r"connections_max = 1 ") as caught:
                await answered(engine)
            assert server.url in str(caught.value)
            gate.set()
            await first.ended()
        assert (await answered(engine)).is_complete
        assert len(server.requests) == 2


async def test_cancelled_calls_give_their_connections_back() -> None:
    async with proxied(hangs_midstream(CHAT_EVENTS[0]), connections_max=2) as (engine, server):
        for _ in range(3):
            async with Call(engine) as one, Call(engine) as other:
                await one.next()
                await other.next()
        server.behaviour = answers(b'{"ok":1}')
        assert (await answered(engine)).body == b'{"ok":1}'


async def test_server_that_comes_back_is_used_without_a_restart() -> None:
    async with proxied(dies_midstream(CHAT_EVENTS[0])) as (engine, server):
        with pytest.raises(UpstreamError):
            await answered(engine)
        server.behaviour = answers(b'{"ok":1}')
        assert (await answered(engine)).body == b'{"ok":1}'


async def test_abort_at_a_dead_server_is_silent_and_bounded() -> None:
    async with proxied(hangs_before_headers) as (engine, server):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge_store.engine.upstream.ABORT_TIMEOUT_S", PATIENT_S)
            engine.abort(ResultId("one"))
            await server.received()
            await server.left()


async def test_caller_that_leaves_before_its_request_is_whole_reaches_nobody() -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    async with proxied(answers()) as (engine, server):
        with pytest.raises(ClientDisconnected):
            await engine({"type": "http", "method": "POST", "headers": []}, receive, send)
        assert server.requests == []
