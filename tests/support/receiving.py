"""A web hook and a mail server that take alerts, or do not."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEADLINE_S = 60.0
# apprise gives up after 4 s, which is for a network: a busy machine would be told twice
PATIENCE = f"cto={DEADLINE_S:.0f}&rto={DEADLINE_S:.0f}"


def hook_url(port: int) -> str:
    """apprise's URL of a hook there."""
    return f"json://127.0.0.1:{port}/secret-path?{PATIENCE}"


class Hook:
    """Keeps what it is sent (apprise's ``json://``)."""

    def __init__(self, port: int = 0) -> None:
        self.taken: list[dict[str, Any]] = []
        self.status = 200
        changed = self._changed = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805  (the library's; `self` is the hook)
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                with changed:
                    if self.status == 200:
                        self.taken.append(json.loads(body))
                    changed.notify_all()
                handler.send_response(self.status)
                handler.end_headers()

            def log_message(handler, *_arguments: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return hook_url(self.port)

    @property
    def titles(self) -> list[str]:
        return [each["title"].partition("] ")[2] for each in self.taken]

    def wait(self, number: int, deadline_s: float = DEADLINE_S) -> list[str]:
        """Wait until so many were taken; their titles, without the device."""
        ends_at = time.monotonic() + deadline_s
        with self._changed:
            while len(self.taken) < number:
                left_s = ends_at - time.monotonic()
                assert left_s > 0, f"only {self.titles}"
                self._changed.wait(left_s)
        return self.titles

    def start(self) -> "Hook":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE_S)


@contextmanager
def hook(port: int = 0) -> Iterator[Hook]:
    """One that listens meanwhile."""
    made = Hook(port).start()
    try:
        yield made
    finally:
        made.stop()
