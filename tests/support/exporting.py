"""Boxes to export from, and a receiver of spans as a real HTTP server."""

import gzip
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.records import make_result, new_database

from edge_store.exports.kinds import Job
from edge_store.exports.mark import Mark, mark_beside
from edge_store.exports.pages import Source
from edge_store.exports.run import begun, export
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Boot, Content, Output, Result
from edge_store.selection import Selection
from edge_store.sqlite import Connection

DAY_MS = 86_400_000
NOON = 1_760_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2


def store(connection: Connection, boot: Boot, results: Sequence[Result]) -> None:
    """Commit them, as the next of their boot."""
    head = read_head(connection)
    written = write_batch(connection, boot, head, head.seq + len(results), results)
    assert written.head.seq == head.seq + len(results), written.outcomes


def chat(number: int, boot: Boot, **changes: Any) -> Result:
    """One of a chat whose request is stored, a day later for each hundred."""
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": f"q{number}"}]})
    at = NOON + number // 100 * DAY_MS
    fields = {
        "created_at": at,
        "completed_at": at + 10,
        "content": Content(input_text=f"q{number}", request_body=body.encode(),
                           response_body=b"{}"),
        "outputs": (Output(choice_index=0, output_text=f"a{number}", finish_reason="stop"),),
        **changes,
    }  # fmt: skip
    return make_result(number, boot.boot_id, **fields)


def box_of(path: Path, number: int) -> tuple[Connection, Boot]:
    """A box with so many chats."""
    connection, boot = new_database(path)
    store(connection, boot, [chat(n, boot) for n in range(1, number + 1)])
    return connection, boot


def exported(
    database: Path,
    target: Path | str,
    kind: str,
    *,
    resume: bool = False,
    after: int = 0,
    **job: Any,
) -> Mark:
    """As the command does it."""
    job.setdefault("selection", Selection())
    state = job.pop("state", None) or mark_beside(Path(str(target).rpartition("://")[2]))
    asked = Job(kind, str(target), **job)
    with Source(database) as source:
        mark = begun(asked, source, state, resume=resume, after=after)
        return export(asked, source, mark, state)


class Receiver(ThreadingHTTPServer):
    """Takes OTLP as JSON; refuses with ``refusals`` first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiving)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refusals: list[int] = []
        self.answer = b"{}"

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [
            span
            for request in self.requests
            for resource in request["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


class Receiving(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.refusals.pop(0) if self.server.refusals else 200
        if status == 200 and self.path == "/v1/traces":
            self.server.requests.append(json.loads(gzip.decompress(body)))
            self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        self.send_response(status)
        self.send_header("content-length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_args: Any) -> None:
        """Tests say what they see."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """It listens meanwhile."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
