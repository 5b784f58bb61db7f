"""What the upstream engine asks of its server, and what it takes from its settings and keys."""

import asyncio
from pathlib import Path

import pytest
from support.asgi import DEADLINE_S, answered
from support.proxied import proxied
from support.rawserver import (
    Behaviour,
    Peer,
    RawServer,
    answers,
    hangs_before_headers,
    refusing_port,
)

from edge_store.config import UpstreamSection
from edge_store.engine.upstream import UpstreamEngine
from edge_store.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_STORE_UPSTREAM_API_KEY", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def by_path(routes: dict[str, Behaviour]) -> Behaviour:
    async def behave(peer: Peer) -> None:
        await routes.get(peer.request.target, answers(b"", 404))(peer)

    return behave


@pytest.mark.parametrize(
    ("routes", "is_ready"),
    [
        ({"/v1/models": answers()}, True),
        ({"/v1/models": answers(b"", 401), "/health": answers()}, True),
        ({"/health": answers()}, True),
        ({"/v1/models": answers(b"", 503), "/health": answers()}, False),
        ({"/v1/models": answers(b"", 307, "Location: /x")}, False),
        ({"/health": answers(b"", 503)}, False),
        ({}, False),
    ],
)
async def test_ready_when_models_or_health_answers_200(
    routes: dict[str, Behaviour], *, is_ready: bool
) -> None:
    async with proxied(by_path(routes)) as (engine, _):
        assert await engine.is_ready() is is_ready


async def test_not_ready_while_the_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_store.engine.upstream.READY_TIMEOUT_S", 0.1)
    async with proxied(hangs_before_headers) as (engine, _):
        assert await engine.is_ready() is False


async def test_not_ready_when_nothing_listens() -> None:
    with refusing_port() as port:
        async with UpstreamEngine(UpstreamSection(base_url=f"http://127.0.0.1:{port}")) as engine:
            assert await engine.is_ready() is False
            assert engine.version == "unknown"


@pytest.mark.parametrize(
    ("routes", "version"),
    [
        ({"/server_info": answers(b'{"version":"0.5.23"}')}, "0.5.23"),
        ({"/get_server_info": answers(b'{"version":"0.4.1"}')}, "0.4.1"),
        ({"/version": answers(b'{"version":"0.11.0"}')}, "0.11.0"),
        ({"/server_info": answers(b"<html>"), "/version": answers(b'{"version":2}')}, "unknown"),
        ({"/version": answers(b"[" * 100_000)}, "unknown"),
        ({}, "unknown"),
    ],
)
async def test_version_is_what_the_server_says(routes: dict[str, Behaviour], version: str) -> None:
    async with (
        RawServer(by_path(routes)) as server,
        UpstreamEngine(UpstreamSection(base_url=server.url)) as engine,
    ):
        assert engine.version == version


async def test_start_does_not_wait_long_for_a_silent_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_store.engine.upstream.PROBE_TIMEOUT_S", 0.1)
    async with (
        RawServer(hangs_before_headers) as server,
        asyncio.timeout(DEADLINE_S),
        UpstreamEngine(UpstreamSection(base_url=server.url)) as engine,
    ):
        assert engine.version == "unknown"


async def test_key_of_the_environment_replaces_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_STORE_UPSTREAM_API_KEY", "ours-1")
    async with proxied(answers()) as (engine, server):
        await answered(engine, headers=[(b"Authorization", b"Bearer theirs")])
    sent = [value for name, value in server.requests[0].headers if name == "authorization"]
    assert sent == ["Bearer ours-1"]


async def test_key_is_read_from_the_systemd_credential(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "upstream-api-key").write_text("ours-2\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    async with proxied(answers()) as (engine, server):
        await answered(engine)
    assert server.requests[0].header("authorization") == "Bearer ours-2"


async def test_empty_credentials_directory_leaves_the_callers_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    async with proxied(answers()) as (engine, server):
        await answered(engine, headers=[(b"authorization", b"Bearer theirs")])
    assert server.requests[0].header("authorization") == "Bearer theirs"


@pytest.mark.parametrize("key", ["top\nsecret", "töp-secret"])
def test_unusable_key_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("EDGE_STORE_UPSTREAM_API_KEY", key)
    with pytest.raises(ConfigError, match="EDGE_STORE_UPSTREAM_API_KEY") as caught:
        UpstreamEngine(UpstreamSection(base_url="http://127.0.0.1:1"))
    assert "secret" not in str(caught.value)


def test_unreadable_credential_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "upstream-api-key").write_bytes(b"\xff secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match="upstream-api-key") as caught:
        UpstreamEngine(UpstreamSection(base_url="http://127.0.0.1:1"))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://host:port",
        "ftp://host",
        "http://user:secret@host",
        "http://host/?a=secret",
    ],
)
def test_address_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.upstream\.base_url") as caught:
        UpstreamEngine(UpstreamSection(base_url=url))
    assert "secret" not in f"{caught.value} {caught.value.hint}"
