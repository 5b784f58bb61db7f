"""The daemon around an engine that takes its time to load, does not load, or dies.

The engine is scripted, so that each moment can be held; real SGLang goes through the same in
tests/engine.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import Box, rows, until
from support.s3server import free_port
from support.scripted import ScriptedEngine, chat_body, replay

from edge_store import daemon
from edge_store.config import Config, ReplicaSection, ServerSection, StoreSection
from edge_store.errors import EdgeStoreError, EngineCrashed, EngineStartFailed

CHAT = {"messages": [{"role": "user", "content": "hello"}]}
DEADLINE_S = 60.0


class Fragile(ScriptedEngine):
    """Loads when told to, and dies when told to."""

    def __init__(self, script: Any) -> None:
        super().__init__(script)
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.died: asyncio.Future[EdgeStoreError] = asyncio.get_running_loop().create_future()

    async def is_ready(self) -> bool:
        return self.loaded.done() and not self.died.done()

    async def until_ready(self) -> None:
        await self.loaded

    async def until_dead(self) -> EdgeStoreError:
        return await asyncio.shield(self.died)


def silent() -> Fragile:
    """Loaded, and never answers."""

    async def never(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.Event().wait()

    engine = Fragile(never)
    engine.loaded.set_result(None)
    return engine


async def served(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: Fragile,
    scenario: Callable[[httpx.AsyncClient], Awaitable[None]],
) -> None:
    """Run the daemon beside ``scenario``. Raises what the daemon raises."""
    port = free_port()
    config = Config(
        server=ServerSection(port=port),
        store=StoreSection(path=str(tmp_path / "results.db"), disk_reserve_bytes=0),
        replica=ReplicaSection(enabled=False),
    )
    monkeypatch.setattr(daemon, "build_engine", lambda *_: engine)
    async with asyncio.timeout(3 * DEADLINE_S):  # a start, the scenario, a stop
        serving = asyncio.ensure_future(daemon.serve(config))
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S
        ) as client:
            while not serving.done():
                try:
                    await client.get("/livez")
                    if not engine.loaded.done() or (await client.get("/readyz")).is_success:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.01)
            await scenario(client)
        await serving


async def test_http_is_up_while_the_engine_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Fragile(replay([chat_body("hi")]))
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setattr(daemon, "LOADING_BEAT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)

        async def told() -> str:
            return (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()

        async def scenario(client: httpx.AsyncClient) -> None:
            assert (await client.get("/readyz")).status_code == 503
            refused = await client.post("/v1/chat/completions", json=CHAT)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            message = await told()
            assert "EXTEND_TIMEOUT_USEC=" in message
            assert "STATUS=Loading the model" in message
            engine.loaded.set_result(None)
            while "READY=1" not in message:
                message = await told()
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
            os.kill(os.getpid(), signal.SIGTERM)

        await served(tmp_path, monkeypatch, engine, scenario)
    assert rows(tmp_path / "results.db", "SELECT status FROM results") == [("completed",)]


async def test_stop_while_the_engine_loads_is_a_clean_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(_client: httpx.AsyncClient) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    await served(tmp_path, monkeypatch, Fragile(replay([])), scenario)
    assert rows(tmp_path / "results.db", "SELECT state FROM completeness") == [("ended",)]


async def test_engine_that_does_not_load_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Fragile(replay([]))

    async def scenario(_client: httpx.AsyncClient) -> None:
        engine.loaded.set_exception(EngineStartFailed("no memory"))

    with pytest.raises(EngineStartFailed, match="no memory"):
        await served(tmp_path, monkeypatch, engine, scenario)


async def test_death_of_the_engine_is_recorded_in_what_was_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = silent()

    async def scenario(client: httpx.AsyncClient) -> None:
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT))
        await engine.called.wait()
        engine.died.set_result(EngineCrashed("the scheduler died"))
        answer = await asking
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "engine_crashed"

    with pytest.raises(EngineCrashed) as caught:
        await served(tmp_path, monkeypatch, engine, scenario)
    assert caught.value.exit_code == 70
    database = tmp_path / "results.db"
    assert rows(database, "SELECT status, error_type FROM results") == [
        ("failed", "engine_crashed")
    ]
    assert rows(database, "SELECT state FROM completeness") == [("ended",)]


async def test_death_of_the_engine_ends_a_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = silent()

    async def scenario(client: httpx.AsyncClient) -> None:
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT))
        await engine.called.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while (await client.get("/readyz")).status_code != 503:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        engine.died.set_result(EngineCrashed("the scheduler died"))
        assert (await asking).status_code == 502

    await served(tmp_path, monkeypatch, engine, scenario)  # it was to stop: not a failure
    found = rows(tmp_path / "results.db", "SELECT status, error_type FROM results")
    assert found == [("failed", "engine_crashed")]


MORTAL = """
import asyncio, pathlib, sys
from edge_store import daemon
from edge_store.cli import main
from edge_store.engine.demo import DemoEngine
from edge_store.errors import EngineCrashed

lives = pathlib.Path(sys.argv[0]).with_name("lives")

class Mortal(DemoEngine):
    async def until_dead(self):
        with lives.open("a") as file:
            file.write("x")
        if len(lives.read_text()) == 1:
            return EngineCrashed("it died")
        return await super().until_dead()

daemon.build_engine = lambda config, stop: Mortal(config.demo)
main()
"""


def test_restart_starts_again_after_a_death(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    script = tmp_path / "mortal.py"
    script.write_text(MORTAL)
    command = [sys.executable, str(script), "serve", "--restart", "--config", str(box.directory)]
    with subprocess.Popen([*command, "--port", "0"], env=box.environ) as process:
        try:
            until(lambda: box.scalar("SELECT count(*) FROM completeness") == 2, "a second boot")
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
    states = box.rows("SELECT state FROM completeness")
    assert states == [("ended",), ("ended",)]
