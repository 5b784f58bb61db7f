"""What Litestream answers on its control socket is told without a key."""

import asyncio
from pathlib import Path

import pytest

from edge_store.errors import ReplicationError
from edge_store.replica.control import Control

SIGNATURE = "Eh%2FA%3D" * 5


@pytest.mark.parametrize("before", [10, 270])
async def test_signature_in_a_refusal_is_not_told(tmp_path: Path, before: int) -> None:
    said = f"{'x' * before} http://a.net/edge?sig={SIGNATURE}&sp=rl: no such host"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 500 Error\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + said.encode())
        await writer.drain()
        writer.close()

    socket = tmp_path / "s"
    async with await asyncio.start_unix_server(answer, socket):
        control = Control(socket, tmp_path / "results.db")
        try:
            with pytest.raises(ReplicationError, match="with 500: xxx") as caught:
                await control.info()
        finally:
            await control.close()
    assert "Eh%2F" not in str(caught.value)
    assert "sig=(" in str(caught.value)
