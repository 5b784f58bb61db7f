"""The servers that the engine benchmark compares: the daemon, and the engine's own server.

Each runs in a session of its own, so that whatever it started ends with it, and logs to a file.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from edge_store.bench.load import free_port
from edge_store.bench.order import request_bytes
from edge_store.config import EngineKind, render_toml
from edge_store.errors import EdgeStoreError
from edge_store.sqlite import is_vulnerable

__all__ = ["Served", "daemon_of", "daemon_served", "own_server"]

START_TIMEOUT_S = 300.0  # a model, its kernels and its CUDA graphs
STOP_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 60.0
POLL_S = 0.2
LOG_CHARS_SHOWN = 1500


class Served:
    """A server process that answers chats on ``port``."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
        self.pid = process.pid
        self.port = port
        self.database = folder / "results.db"
        self._process = process

    def kill(self) -> None:
        """SIGKILL to the process itself, as nobody expects it."""
        self._process.kill()

    async def end(self) -> None:
        """SIGTERM, a bounded wait, then SIGKILL for all that it started."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()


@asynccontextmanager
async def own_server(
    kind: EngineKind, arguments: Mapping[str, Any], folder: Path
) -> AsyncIterator[Served]:
    """What answers without us: SGLang's own server, or the demo engine alone."""
    port = free_port()
    home = folder / "own"
    home.mkdir()
    if kind is EngineKind.DEMO:
        command = ["-m", "edge_store.bench.bare", str(port), "0"]
    else:
        command = ["-m", "sglang.launch_server", *_flags({**arguments, "port": port})]
    async with _running(command, port, home) as served:
        yield served


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """The same arguments as SGLang's command line spells them."""
    flags = []
    for key, value in arguments.items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, list):
            flags += [flag, *map(str, value)]
        elif value is True:
            flags.append(flag)
        elif value is not False:
            flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags


@asynccontextmanager
async def daemon_served(
    kind: EngineKind, arguments: Mapping[str, Any], own: Served, folder: Path
) -> AsyncIterator[Served]:
    """``edge-store serve``, recording, without a replica; ``upstream`` asks the other server."""
    settings: dict[str, Any] = {"engine.kind": kind.value, "log.level": "warning"}
    if kind is EngineKind.SGLANG:
        settings["engine.sglang"] = dict(arguments)
    elif kind is EngineKind.UPSTREAM:
        settings["engine.upstream.base_url"] = f"http://127.0.0.1:{own.port}"
    async with daemon_of(settings, folder / "daemon") as served:
        yield served


@asynccontextmanager
async def daemon_of(settings: Mapping[str, Any], home: Path) -> AsyncIterator[Served]:
    """``edge-store serve`` with these settings, recording, without a replica."""
    port = free_port()
    home.mkdir()  # noqa: ASYNC240  (before anything is measured)
    settings = {
        "server.port": port,
        "replica.enabled": False,
        "store.disk_reserve_bytes": 0,
        "store.allow_vulnerable_sqlite": is_vulnerable(),
        **settings,
    }
    (home / "edge-store.toml").write_text(render_toml(settings), encoding="utf-8")
    async with _running(["-m", "edge_store", "serve", "--config", str(home)], port, home) as served:
        yield served


@asynccontextmanager
async def _running(command: Sequence[str], port: int, home: Path) -> AsyncIterator[Served]:
    log = home / "server.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_STORE_")}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    served = Served(process, port, home)
    try:
        await _until_it_answers(process, port, command, log)
        yield served
    finally:
        await served.end()


async def _until_it_answers(
    process: asyncio.subprocess.Process, port: int, command: Sequence[str], log: Path
) -> None:
    ends_at = time.monotonic() + START_TIMEOUT_S
    while not await _answers(port):
        if process.returncode is not None or time.monotonic() > ends_at:
            how = (
                f"has not answered within {START_TIMEOUT_S:g} s"
                if process.returncode is None
                else f"ended with {process.returncode}"
            )
            raise EdgeStoreError(
                f"`python {' '.join(command)}` {how}; the end of its log:\n{_end_of(log)}",
                hint="the other arguments of SGLang come by --sglang key=value",
            )
        await asyncio.sleep(POLL_S)


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARS_SHOWN:]


async def _answers(port: int) -> bool:
    """Whether a chat is answered 200. A server that still loads refuses it, one way or another."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request_bytes(0, stream=False))
                head = await reader.readuntil(b"\r\n")
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError):
        return False
    return head.startswith(b"HTTP/1.1 200")
