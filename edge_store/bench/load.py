"""A load of keep-alive HTTP connections, and the servers it is put on.

The client is as small as can be (bytes over asyncio streams), so that on a small machine it does
not hide what the server costs.
"""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from edge_store.config import render_toml

__all__ = ["Server", "closed_loop", "free_port", "running_daemon", "running_engine"]

START_TIMEOUT_S = 30.0
HEADER_BYTES_MAX = 65536


class Server:
    """A server process that answers on ``port``."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running_daemon(
    folder: Path, token_delay_ms: float, *, is_indexed: bool = True
) -> AsyncIterator[Server]:
    """``edge-store serve`` with the demo engine, without a replica; its log goes nowhere."""
    _write_config(folder, token_delay_ms, is_indexed=is_indexed)
    port = free_port()
    arguments = ["-m", "edge_store", "serve", "--config", str(folder), "--port", str(port)]
    async with _running(arguments, port) as server:
        yield server


def _write_config(folder: Path, token_delay_ms: float, *, is_indexed: bool) -> None:
    folder.mkdir()
    (folder / "edge-store.toml").write_text(
        render_toml(
            {
                "replica.enabled": False,
                "search.enabled": is_indexed,
                "engine.demo.token_delay_ms": token_delay_ms,
                "store.disk_reserve_bytes": 0,
            }
        ),
        encoding="utf-8",
    )


@asynccontextmanager
async def running_engine(token_delay_ms: float) -> AsyncIterator[Server]:
    """The demo engine alone, under the same HTTP server."""
    port = free_port()
    arguments = ["-m", "edge_store.bench.bare", str(port), str(token_delay_ms)]
    async with _running(arguments, port) as server:
        yield server


@asynccontextmanager
async def _running(arguments: list[str], port: int) -> AsyncIterator[Server]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_STORE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _answers(port):
                if process.returncode is not None:
                    raise RuntimeError(f"{arguments} ended with {process.returncode}")
                await asyncio.sleep(0.05)
        yield Server(process.pid, port)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def closed_loop(
    server: Server, body: Mapping[str, object], *, connections: int, requests: int
) -> list[float]:
    """Send ``requests`` chats over ``connections``; the latency of each in seconds.

    Raises ``RuntimeError`` at the first answer that is not 200.
    """
    payload = json.dumps(body).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        + f"content-length: {len(payload)}\r\n\r\n".encode()
        + payload
    )
    left = iter(range(requests))
    latencies: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, limit=HEADER_BYTES_MAX
        )
        try:
            for _ in left:
                started = time.perf_counter()
                writer.write(request)
                await _read_answer(reader)
                latencies.append(time.perf_counter() - started)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(connection())
    return latencies


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"the server answered {head[:200]!r}")
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
