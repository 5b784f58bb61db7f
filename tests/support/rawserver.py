"""An HTTP/1.1 server on loopback that behaves exactly as badly as a test wants.

    async with RawServer(dies_midstream(b"data: {}\\n\\n")) as server:
        ...  # point something at server.url

A behaviour is a coroutine over one ``Peer``: it has the request and writes raw bytes. It runs for
each request of a connection until it closes that. Where one hangs, it hangs until the peer leaves.
"""

import asyncio
import contextlib
import gzip
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

DEADLINE_S = 60.0
HEAD_BYTES_MAX = 1 << 20
REASON = {200: "OK", 307: "Temporary Redirect", 429: "Too Many Requests"}

CHAT_EVENTS = tuple(
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"raw","choices":'
    b'[{"index":0,"delta":' + delta + b',"finish_reason":' + finish + b"}]}\n\n"
    for delta, finish in (
        (b'{"role":"assistant","content":""}', b"null"),
        (b'{"content":"Hel"}', b"null"),
        (b'{"content":"lo"}', b"null"),
        (b"{}", b'"stop"'),
    )
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """As it came: header names in lower case, in order."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Peer:
    """One connection, while one of its requests is answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.request: Request

    async def next_request(self) -> Request | None:
        """Read one request, body included; None when the peer has left."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = line.split(" ")
        headers = [(k.lower(), v.strip()) for k, _, v in (text.partition(":") for text in lines)]
        length = next((int(v) for k, v in headers if k == "content-length"), 0)
        body = await self._reader.readexactly(length)
        self.request = Request(method=method, target=target, headers=headers, body=body)
        return self.request

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int = 200, *headers: str, kind: str = "application/json") -> None:
        lines = [f"HTTP/1.1 {status} {REASON.get(status, 'Status')}", f"Content-Type: {kind}"]
        await self.write("\r\n".join([*lines, *headers, "", ""]).encode("latin-1"))

    async def stream_head(self) -> None:
        await self.head(200, "Transfer-Encoding: chunked", kind="text/event-stream")

    async def chunk(self, data: bytes) -> None:
        await self.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        await self.write(b"0\r\n\r\n")

    async def left(self) -> None:
        """Wait until the peer closes the connection, or breaks it."""
        with contextlib.suppress(ConnectionError):
            assert await self._reader.read(1) == b"", "the peer sent more instead of leaving"

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Close with a TCP reset: what a killed process with unread input leaves behind."""
        linger = struct.pack("ii", 1, 0)
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    @property
    def is_open(self) -> bool:
        return not self._writer.is_closing()


Behaviour = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Listens on a free port of 127.0.0.1. An error of a behaviour is raised on leaving."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour  # may be replaced between requests
        self.requests: list[Request] = []
        self.connections = 0
        self.peer_left = asyncio.Event()  # a connection has ended, whoever ended it
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, limit=HEAD_BYTES_MAX
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        if exc is None:
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._serve(Peer(reader, writer))))

    async def _serve(self, peer: Peer) -> None:
        try:
            while peer.is_open and (request := await peer.next_request()) is not None:
                async with self._arrived:
                    self.requests.append(request)
                    self._arrived.notify_all()
                with contextlib.suppress(ConnectionError):  # it has left, as who probes in haste
                    await self.behaviour(peer)
        finally:
            peer.close()
            self.peer_left.set()

    async def received(self, number: int = 1) -> Request:
        """Wait for the ``number``-th request, counted from 1."""
        async with asyncio.timeout(DEADLINE_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def left(self) -> None:
        """Wait until a connection has ended."""
        async with asyncio.timeout(DEADLINE_S):
            await self.peer_left.wait()


def answers(body: bytes = b"{}", status: int = 200, *headers: str) -> Behaviour:
    """A plain answer; the connection stays open for the next request."""

    async def behave(peer: Peer) -> None:
        await peer.head(status, f"Content-Length: {len(body)}", *headers)
        await peer.write(body)

    return behave


def answers_gzip(body: bytes) -> Behaviour:
    """An answer compressed though nobody asked for it."""
    return answers(gzip.compress(body), 200, "Content-Encoding: gzip")


def redirects(location: str) -> Behaviour:
    return answers(b"", 307, f"Location: {location}")


def streams(*events: bytes, gate: asyncio.Event | None = None) -> Behaviour:
    """Each event as one chunk, then the end. With a gate: all but the first wait for it."""

    async def behave(peer: Peer) -> None:
        await peer.stream_head()
        for number, event in enumerate(events):
            if number and gate is not None:
                await gate.wait()
            await peer.chunk(event)
        await peer.end()

    return behave


def dies_midstream(
    *events: bytes, reset: bool = False, gate: asyncio.Event | None = None
) -> Behaviour:
    """The connection ends, or is reset, after these events and before the end of the body.

    A reset overtakes bytes that the peer has not read: give it a gate, opened when they were.
    """

    async def behave(peer: Peer) -> None:
        await peer.stream_head()
        for event in events:
            await peer.chunk(event)
        if gate is not None:
            await gate.wait()
        if reset:
            peer.reset()
        else:
            peer.close()

    return behave


def dies_midbody(body: bytes, length: int) -> Behaviour:
    """Promises ``length`` bytes of a plain body, sends ``body``, closes."""

    async def behave(peer: Peer) -> None:
        await peer.head(200, f"Content-Length: {length}")
        await peer.write(body)
        peer.close()

    return behave


async def dies_before_headers(peer: Peer) -> None:
    """Closes without a byte of answer."""
    peer.close()


async def hangs_before_headers(peer: Peer) -> None:
    """Never answers."""
    await peer.left()
    peer.close()


def hangs_midstream(*events: bytes) -> Behaviour:
    """Goes silent after these events."""

    async def behave(peer: Peer) -> None:
        await peer.stream_head()
        for event in events:
            await peer.chunk(event)
        await peer.left()
        peer.close()

    return behave


def sends_garbage(data: bytes = b"SSH-2.0-OpenSSH_9.7\r\n\r\n") -> Behaviour:
    """Something that is not HTTP."""

    async def behave(peer: Peer) -> None:
        await peer.write(data)
        peer.close()

    return behave


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def unaccepting_port() -> Iterator[int]:
    """A port whose accept queue is full: a further connection is neither accepted nor refused.

    Linux drops a SYN when the queue of ``listen(backlog)`` holds more than ``backlog`` connections.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # one that is there fills it; the others are for kernels that count in another way
        stack.enter_context(socket.create_connection(listener.getsockname(), DEADLINE_S))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
