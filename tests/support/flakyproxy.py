"""A TCP proxy on loopback that breaks connections, or lets them stall, after so many bytes."""

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

__all__ = ["FlakyProxy"]

PIECE = 16 << 10


class FlakyProxy:
    """Entered: it forwards to ``port``, on a thread.

    ``cut_after``: bytes of answers that each connection may carry before it is closed; ``cuts``:
    how many more are cut. ``stall_after``: bytes of answers, in all, before nothing moves any more.
    """

    def __init__(self, port: int) -> None:
        self._port_to = port
        self.cut_after: int | None = None
        self.cuts = 1 << 30
        self.stall_after: int | None = None
        self.passed = 0
        self.was_cut = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port_to)
            sending = asyncio.ensure_future(self._send(reader, to_writer))
            try:
                await self._answer(to_reader, writer)
            finally:
                sending.cancel()
                to_writer.close()
        writer.close()
        self._tasks.discard(task)

    async def _send(self, reader: asyncio.StreamReader, to_writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                to_writer.write(piece)
                await to_writer.drain()
            to_writer.close()

    async def _answer(self, to_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = 0
        while piece := await to_reader.read(PIECE):
            if self.stall_after is not None and self.passed >= self.stall_after:
                await asyncio.Event().wait()
            if self.cut_after is not None and self.cuts > 0 and carried >= self.cut_after:
                self.cuts -= 1
                self.was_cut += 1
                return
            writer.write(piece)
            await writer.drain()
            carried += len(piece)
            self.passed += len(piece)
