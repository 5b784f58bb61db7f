"""A TCP proxy on loopback that makes a server look bad: away, slow, refusing, breaking off."""

import asyncio
import contextlib
import random
import threading
from types import TracebackType
from typing import Self

__all__ = ["FlakyProxy"]

PIECE = 16 << 10
HEAD_BYTES_MAX = 64 << 10
DRAIN_S = 5.0


class FlakyProxy:
    """Entered: it forwards to ``port``, on a thread; ``at`` is its own, 0 a free one.

    ``cut_after``: bytes of answers that each connection may carry before it is closed; ``cuts``:
    how many more are cut. ``stall_after``: bytes of answers, in all, before nothing moves any more.
    ``refuses``: connections are closed at once; ``refusals``: how many more are. ``answers``: what
    each request is answered with, in place of the server, out of which it takes one at random; None
    is the server's own.
    ``delay_s``: before each piece of an answer; ``bytes_per_s``: of each connection, either way.

    What is changed holds for connections that are made later: ``drop`` ends those that are there.
    """

    def __init__(self, port: int, *, at: int = 0) -> None:
        self._port_to = port
        self.cut_after: int | None = None
        self.cuts = 1 << 30
        self.stall_after: int | None = None
        self.refuses = False
        self.refusals = 1 << 30
        self.answers: tuple[bytes | None, ...] = ()
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.passed = 0
        self.was_cut = 0
        self.was_refused = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = at

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def heal(self) -> None:
        """From now on it only forwards."""
        self.cut_after = self.stall_after = self.bytes_per_s = None
        self.refuses, self.answers, self.delay_s = False, (), 0.0
        self.drop()

    def drop(self) -> None:
        """End the connections that are there."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(60)

    async def _drop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed is closed then

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self.answers and (given := random.choice(self.answers)) is not None:
                await _answer_alone(reader, writer, given)
            elif self.refuses and self.refusals > 0:
                self.refusals -= 1
                self.was_refused += 1
            else:
                await self._forward(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port_to)
        sending = asyncio.ensure_future(self._send(reader, to_writer))
        try:
            await self._answer(to_reader, writer)
        finally:
            sending.cancel()
            to_writer.close()

    async def _send(self, reader: asyncio.StreamReader, to_writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                to_writer.write(piece)
                await to_writer.drain()
                await self._hold_up(piece)
            to_writer.close()

    async def _hold_up(self, piece: bytes) -> None:
        if self.bytes_per_s is not None:
            await asyncio.sleep(len(piece) / self.bytes_per_s)

    async def _answer(self, to_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried = 0
        while piece := await to_reader.read(PIECE):
            if self.stall_after is not None and self.passed >= self.stall_after:
                await asyncio.Event().wait()
            if self.cut_after is not None and self.cuts > 0 and carried >= self.cut_after:
                self.cuts -= 1
                self.was_cut += 1
                return
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(piece)
            await writer.drain()
            await self._hold_up(piece)
            carried += len(piece)
            self.passed += len(piece)


async def _answer_alone(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: bytes
) -> None:
    """Answer one request with ``given``, whole, and take what else comes until the other leaves."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES_MAX:
        piece = await reader.read(PIECE)
        if not piece:
            return
        head += piece
    writer.write(given)
    await writer.drain()
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while await reader.read(PIECE):
                pass
