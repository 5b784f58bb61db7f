"""uvicorn, without its signal handling and with a socket bound before anything slow begins."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edge_store.config import ServerSection
from edge_store.errors import AddressTaken, ConfigError

__all__ = ["HttpServer", "bind", "listening", "url_of"]

App = Callable[[Any, Any, Any], Awaitable[None]]

BACKLOG = 2048
KEEP_ALIVE_S = 30
HEAD_BYTES_MAX = 64 * 1024  # of a request's line and headers
FORCE_AFTER_S = 5.0  # connections that do not end by themselves after the drain


def bind(config: ServerSection) -> socket.socket:
    """A listening address.

    Raises:
        AddressTaken: something else listens there.
        ConfigError: it is not this machine's, or not for this user.
    """
    where = f"server.host = {config.host!r}, server.port = {config.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        message = f"cannot listen on {where}: {exc.strerror}"
        if exc.errno == errno.EADDRINUSE:
            hint = "stop what listens there, or set another server.port"
            raise AddressTaken(message, hint=hint) from exc
        raise ConfigError(message, hint=_bind_hint(exc)) from exc
    return listener


def url_of(listener: socket.socket) -> str:
    """Where it can be reached, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_hint(exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return "ports below 1024 are root's: set server.port to a higher one"
    if isinstance(exc, socket.gaierror):
        return "server.host must be an address of this machine, or a name that resolves to one"
    return "`ip address` lists this machine's addresses: set server.host to one, as 127.0.0.1"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's, with a bound on the head of a request: httptools would collect it for ever."""

    _head_bytes: int | None = None  # None: not within a head

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._head_bytes = None
                self.send_400_response("The head of the request is too large.")


class HttpServer(uvicorn.Server):
    """A uvicorn server whose signals belong to the daemon.

    On connections beyond ``connections_max``, ``overflow`` answers in place of ``app``.
    """

    def __init__(self, app: App, connections_max: int, overflow: App | None = None) -> None:
        self._app = app
        self._overflow = overflow or app
        self._connections_max = connections_max
        super().__init__(
            uvicorn.Config(
                self._answering,  # uvicorn's own bound says 503 in plain text, without Retry-After
                interface="asgi3",
                http=BoundedProtocol,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self.is_listening = asyncio.Event()

    def _answering(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        is_over = len(self.server_state.connections) > self._connections_max
        return (self._overflow if is_over else self._app)(scope, receive, send)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(
    server: HttpServer, listener: socket.socket, drain: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[None]:
    """Serve until left; then stop listening, await ``drain``, and close what is still open.

    Connections are taken from the first moment inside.
    """
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()  # or the error of ``serve``, which cancels this
        try:
            yield
        finally:
            server.should_exit = True
            if drain is not None:
                await drain()
            _, pending = await asyncio.wait({serving}, timeout=FORCE_AFTER_S)
            server.force_exit = bool(pending)
