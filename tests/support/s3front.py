"""Stands before an S3 server and treats conditions on a PUT as other stores do.

B2 answers 501 to a condition; some versions of Ceph's gateway heed ``If-Match`` and pass over
``If-None-Match``.
"""

import threading
from collections.abc import Collection
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["S3Front"]

CONDITIONS = ("If-Match", "If-None-Match")
NOT_IMPLEMENTED = (
    b'<?xml version="1.0"?><Error><Code>NotImplemented</Code><Message>A header you provided implies'
    b" functionality that is not implemented</Message></Error>"
)
TIMEOUT_S = 30.0
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length")


class S3Front:
    """Entered: it forwards to ``port``; refuses the conditions ``refused``, drops ``ignored``."""

    def __init__(
        self, port: int, *, refused: Collection[str] = (), ignored: Collection[str] = ()
    ) -> None:
        assert {*refused, *ignored} <= {*CONDITIONS}
        self.refusals = 0
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.forward
                raise AttributeError(name)

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.command == "PUT" and any(name in self.headers for name in refused):
                    front.refusals += 1
                    self.answer(501, {"Content-Type": "application/xml"}, NOT_IMPLEMENTED)
                    return
                for name in ignored:
                    del self.headers[name]
                connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                reply = connection.getresponse()
                self.answer(reply.status, dict(reply.headers.items()), reply.read())
                connection.close()

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(TIMEOUT_S)
