"""uvicorn, without its signal handling and with a socket bound before anything slow begins."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edge_store.api.access import is_loopback
from edge_store.config import ServerSection
from edge_store.errors import AddressTaken, ConfigError, InvalidRequest
from edge_store.ids import new_result_id
from edge_store.loggers import get_logger
from edge_store.recorder.envelope import error_body, error_headers

__all__ = [
    "YOUNG_OBJECTS",
    "HttpServer",
    "bind",
    "listening",
    "require_certificate",
    "require_guarded",
    "url_of",
]

log = get_logger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]

BACKLOG = 2048
KEEP_ALIVE_S = 30
HEAD_BYTES_MAX = 64 * 1024  # of a request's line and headers
FORCE_AFTER_S = 5.0  # connections that do not end by themselves after the drain
# For gc.set_threshold in a process that serves: by Python's own 700 the collector goes through what
# 64 requests in flight hold again and again, a tenth of all CPU.
YOUNG_OBJECTS = 10_000


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


def url_of(listener: socket.socket, config: ServerSection) -> str:
    """Where it can be reached, without a path."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if config.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def require_guarded(address: str, config: ServerSection, *, has_keys: bool) -> None:
    """Refuse an ``address`` that other machines reach where nothing asks who they are.

    Raises:
        ConfigError: there are no keys, and ``server.allow_open`` is not set.
    """
    if is_loopback(address):
        return
    if not has_keys and not config.allow_open:
        raise ConfigError(
            f"server.host = {config.host!r}: other machines reach {address}, and this box has no "
            "API keys: whoever reaches it could ask it and read everything",
            hint="make one (`edge-store keys create NAME --tenant T`), set server.host to "
            "127.0.0.1, or set server.allow_open = true",
        )
    if not config.tls_certificate:
        log.warning("http_not_encrypted", address=address, has_keys=has_keys)


def require_certificate(config: ServerSection) -> None:
    """Raises ``ConfigError`` for a certificate or a key that cannot be used."""
    if not config.tls_certificate:
        return
    files = f"server.tls_certificate = {config.tls_certificate!r}"
    if config.tls_key:
        files += f", server.tls_key = {config.tls_key!r}"
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # of a key with a passphrase OpenSSL would ask for it on the terminal, and wait
        context.load_cert_chain(config.tls_certificate, config.tls_key or None, _no_passphrase)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise ConfigError(
            f"{files} cannot be used: {reason or exc}",
            hint="both are PEM files that this user may read; the key belongs to the certificate, "
            "and has no passphrase",
        ) from exc


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


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

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP: uvicorn would say so in plain text."""
        error = InvalidRequest(msg.rstrip(".").lower())
        body = error_body(error)
        headers = [
            *error_headers(error),
            (b"x-request-id", new_result_id().encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = [
            b"HTTP/1.1 400 Bad Request",
            *(b": ".join(header) for header in headers),
            b"",
            body,
        ]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()


class HttpServer(uvicorn.Server):
    """A uvicorn server whose signals belong to the daemon.

    On connections beyond ``connections_max``, ``overflow`` answers in place of ``app``. ``tls``
    names the certificate, if there is one.
    """

    def __init__(
        self,
        app: App,
        connections_max: int,
        overflow: App | None = None,
        tls: ServerSection | None = None,
    ) -> None:
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
                ssl_certfile=(tls.tls_certificate if tls else "") or None,
                ssl_keyfile=(tls.tls_key if tls else "") or None,
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
