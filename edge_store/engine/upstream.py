"""An OpenAI-compatible server elsewhere as an engine: requests pass on, answers stream back.

Status, headers and body pass as they are, 4xx and 5xx too; what belongs to one connection does not
(RFC 9110 §7.6.1). What is no answer becomes an ``EngineError``, before or after the response has
begun. Cancelling a call closes its upstream connection: that stops a generation everywhere. Nothing
is retried: a request that may have reached the server may have been generated. Proxies of the
environment are not used, cookies do not pass, the API key is in no message, repr or log.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx
import msgspec

from edge_store.config import UpstreamSection, read_credential
from edge_store.engine.protocol import AlwaysUp, Receive, Scope, Send
from edge_store.engine.upstream_errors import REASON_CHARS_MAX, translated
from edge_store.errors import (
    ClientDisconnected,
    ConfigError,
    EngineError,
    InvalidRequest,
    UpstreamError,
)
from edge_store.ids import ResultId
from edge_store.loggers import get_logger

__all__ = ["UpstreamEngine"]

log = get_logger(__name__)

Headers = list[tuple[bytes, bytes]]

KEY_VARIABLE = "EDGE_STORE_UPSTREAM_API_KEY"
KEY_CREDENTIAL = "upstream-api-key"  # a file in $CREDENTIALS_DIRECTORY: systemd.exec(5)

# RFC 9110 §7.6.1 and §11.7; keep-alive and proxy-connection are older than it
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# host, length and encoding are those of our own request; the body is whole, so nothing to expect;
# cookies are for this box's name, and whoever runs on it
NOT_SENT = HOP_BY_HOP | {b"host", b"content-length", b"accept-encoding", b"expect", b"cookie"}
# the daemon's HTTP server writes these; the recorder adds to the body, so its length is not known
NOT_ANSWERED = HOP_BY_HOP | {b"content-length", b"date", b"server", b"set-cookie"}
OURS = b"x-edge-store-"  # an upstream that is an edge-store says the same of its own row
DECODED = frozenset({"gzip", "deflate"})  # what httpx decodes without further packages

REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEEPALIVE_S = 2.0  # uvicorn drops idle connections after 5 s: never be the one to use it just then
PROBE_TIMEOUT_S = 3.0
READY_TIMEOUT_S = 2.0
ABORT_TIMEOUT_S = 2.0
PROBE_BYTES_MAX = 1 << 20  # SGLang's server_info is tens of KiB

READY_PATHS = ("/v1/models", "/health")
# "not this way": the server is there, but has no such route or wants the caller's own key for it
READY_ELSEWHERE = frozenset({401, 403, 404, 405})
VERSION_PATHS = (
    "/server_info",
    "/get_server_info",
    "/version",
    "/api/version",
)  # SGLang, vLLM, Ollama


class UpstreamEngine(AlwaysUp):
    """Passes requests to the server at ``config.base_url``."""

    name = "upstream"

    def __init__(self, config: UpstreamSection) -> None:
        """Raises ``ConfigError`` if the address or the API key cannot be used."""
        self.version = "unknown"
        self.model: str | None = None
        self.takes_rid = config.send_rid
        self._config = config
        self._base = require_address(config.base_url)
        self._address = str(self._base).rstrip("/")
        self._key = read_credential(KEY_CREDENTIAL, KEY_VARIABLE).encode()
        self._client: httpx.AsyncClient | None = None
        self._aborts: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Open the pool and ask the server for its version; it need not be up yet."""
        config = self._config
        self._client = httpx.AsyncClient(
            # the system's certificates: a site's own authority counts where it is installed
            verify=ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
            # the client would collect every caller's cookies for as long as it lives
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(
                connect=config.connect_timeout_s,
                read=config.read_timeout_s,
                write=config.read_timeout_s,
                pool=config.connect_timeout_s,
            ),
            limits=httpx.Limits(
                max_connections=config.connections_max,
                max_keepalive_connections=config.connections_max,
                keepalive_expiry=KEEPALIVE_S,
            ),
        )
        try:
            self.version = await self._ask_version()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the last aborts leave, at most ``ABORT_TIMEOUT_S``, and close the pool."""
        assert self._client is not None
        if self._aborts:
            await asyncio.wait(self._aborts)  # each has its own deadline
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and its answer back, piece by piece as it comes.

        Safe to cancel at any await: the upstream connection is closed.

        Raises:
            UpstreamError: no connection, no HTTP, a redirect, or the answer broke off.
            GenerationTimeout: silence for ``read_timeout_s``.
            ClientDisconnected, InvalidRequest: the caller's request is not whole, or no request.
        """
        assert scope["type"] == "http"
        body = await _body(receive)
        request = httpx.Request(
            scope["method"],
            self._url(_path(scope), scope.get("query_string", b"")),
            headers=self._request_headers(scope["headers"]),
            content=body or None,
        )
        async with self._sent(request) as response:
            is_decoded = self._check(response)
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": _answer_headers(response.headers.raw, is_decoded=is_decoded),
                }
            )
            chunks = response.aiter_bytes()
            while (chunk := await self._next(chunks)) is not None:
                if chunk:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self, result_id: ResultId) -> None:
        """Tell an SGLang to stop at once. Any server also sees the connection close."""
        if self.takes_rid and self._client is not None and not self._client.is_closed:
            task = asyncio.create_task(self._abort(result_id), name=f"abort {result_id}")
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)

    async def is_ready(self) -> bool:
        """Whether the server answers 200 for its models or health in ``READY_TIMEOUT_S``."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                for path in READY_PATHS:
                    status, _ = await self._get(path)
                    if status not in READY_ELSEWHERE:
                        return status == 200
        except (TimeoutError, EngineError):
            pass
        return False

    async def _abort(self, result_id: ResultId) -> None:
        request = httpx.Request(
            "POST",
            self._url(b"/abort_request", b""),
            headers=self._request_headers([(b"content-type", b"application/json")]),
            content=msgspec.json.encode({"rid": result_id}),
        )
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S), self._sent(request):
                pass
        except (TimeoutError, EngineError) as exc:
            log.debug("abort_not_delivered", id=result_id, error=str(exc) or "timed out")

    async def _ask_version(self) -> str:
        """What the server says of itself, or "unknown": a daemon may start before its server."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                for path in VERSION_PATHS:
                    status, body = await self._get(path)
                    if status == 200 and (version := _version(body)):
                        return version
        except EngineError as exc:
            log.warning("upstream_not_reached", error=str(exc))
        except TimeoutError:
            log.warning("upstream_not_reached", error=f"silent for {PROBE_TIMEOUT_S} s")
        return "unknown"

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body, cut after ``PROBE_BYTES_MAX``. The caller sets the deadline."""
        request = httpx.Request(
            "GET", self._url(path.encode(), b""), headers=self._request_headers([])
        )
        body = b""
        async with self._sent(request) as response:
            chunks = response.aiter_bytes()
            while len(body) < PROBE_BYTES_MAX and (chunk := await self._next(chunks)) is not None:
                body += chunk
        return response.status_code, body

    @contextlib.asynccontextmanager
    async def _sent(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """The response, its body unread. Leaving closes it; its connection too, unless all of the
        body was read.
        """
        assert self._client is not None, "the engine was not entered"
        with translated(self._config, self._address):
            response = await self._client.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """One piece of a body, None at its end. Errors of ``send`` are not translated."""
        with translated(self._config, self._address):
            return await anext(chunks, None)

    def _check(self, response: httpx.Response) -> bool:
        """Whether the body is decoded on its way. Raises ``UpstreamError`` if this is no answer."""
        status = response.status_code
        if status in REDIRECTS:
            to = response.headers.get("location", "nowhere")[:REASON_CHARS_MAX]
            raise UpstreamError(
                f"{self._address} answered {status} (to {to}); redirects are not followed",
                hint="set engine.upstream.base_url to the address that answers itself",
            )
        value = response.headers.get("content-encoding", "")
        codings = {coding.strip().lower() for coding in value.split(",")} - {"", "identity"}
        if codings - DECODED:
            raise UpstreamError(
                f"{self._address} answered in content-encoding {value[:REASON_CHARS_MAX]!r}, "
                "though asked for identity",
                hint="turn compression off there, or in the proxy before it",
            )
        return bool(codings)

    def _url(self, path: bytes, query: bytes) -> httpx.URL:
        raw_path = self._base.raw_path.rstrip(b"/") + path + (b"?" + query if query else b"")
        try:
            return self._base.copy_with(raw_path=raw_path)
        except (httpx.InvalidURL, UnicodeDecodeError) as exc:
            raise InvalidRequest(f"the path or query is not a URL's: {exc}") from exc

    def _request_headers(self, given: Headers) -> Headers:
        dropped = NOT_SENT | _named_by_connection(given)
        if self._key:
            dropped |= {b"authorization"}
        headers = [(k, v) for k, v in given if k.lower() not in dropped]
        headers.append((b"accept-encoding", b"identity"))
        if self._key:
            headers.append((b"authorization", b"Bearer " + self._key))
        return headers


def require_address(url: str) -> httpx.URL:
    """``base_url`` without trailing slashes and ``/v1``. A password in it is not shown.

    Raises:
        ConfigError: it is no address.
    """
    hint = "set it to the server's address, as in http://127.0.0.1:30000"
    try:
        base = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as exc:
        raise ConfigError(f"engine.upstream.base_url is not an address: {exc}", hint=hint) from exc
    if base.userinfo:
        raise ConfigError(
            "engine.upstream.base_url has a user or password in it",
            hint=f"put the API key into ${KEY_VARIABLE} or the systemd credential {KEY_CREDENTIAL}",
        )
    if base.query or base.fragment:
        raise ConfigError("engine.upstream.base_url has a query or fragment", hint=hint)
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigError(f"engine.upstream.base_url = {url!r} is not an address", hint=hint)
    return base


async def _body(receive: Receive) -> bytes:
    """The whole request body; its size was bounded at the door (``server.body_bytes_max``)."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the caller left before the end of its request")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _path(scope: Scope) -> bytes:
    raw: bytes | None = scope.get("raw_path")
    return raw if raw is not None else quote(scope["path"]).encode()


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that ``Connection`` says belong to the connection."""
    values = (v for k, v in headers if k.lower() == b"connection")
    return frozenset(name.strip().lower() for v in values for name in v.split(b","))


def _answer_headers(headers: Headers, *, is_decoded: bool) -> Headers:
    dropped = NOT_ANSWERED | _named_by_connection(headers)
    if is_decoded:
        dropped |= {b"content-encoding"}
    kept = [(k.lower(), v) for k, v in headers if k.lower() not in dropped]
    return [(k, v) for k, v in kept if not k.startswith(OURS)]


def _version(body: bytes) -> str | None:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    version = said.get("version") if isinstance(said, dict) else None
    return version[:100] if isinstance(version, str) and version else None
