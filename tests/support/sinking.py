"""What takes results: a web hook that misbehaves as it is told, a PostgreSQL, an MQTT broker."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, cast

from support.daemon import until
from support.records import make_result, new_database
from support.s3server import free_port

from edge_store.alerts import Alarms
from edge_store.config import Config, SinkSection
from edge_store.observability.metrics import Metrics
from edge_store.recorder.around import Around
from edge_store.recorder.commits import Commits
from edge_store.recorder.transactions import in_transaction
from edge_store.result import Result
from edge_store.rows import insert_rows, to_row
from edge_store.sinks.room import push
from edge_store.sqlite import Connection, DatabaseThread, open_writer

T = TypeVar("T")

DEADLINE_S = 60.0
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")


class Receiver:
    """A web hook. ``plan`` says what becomes of the next requests, one word each: a status, with
    ``/seconds`` for Retry-After; ``hang`` until ``released``; ``cut`` before an answer; ``half`` of
    one. Without a plan it takes them.
    """

    def __init__(self, tls: "Authority | None" = None) -> None:
        self.plan: list[str] = []
        self.refused: set[str] = set()  # ids for which it answers 422
        self.taken: list[dict[str, Any]] = []  # the results, in the order of their arrival
        self.requests: list[tuple[Message, bytes, float]] = []
        self.released = threading.Event()
        changed = self._changed = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805  (the library's; `self` is the receiver)
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                with changed:
                    self.requests.append((handler.headers, body, time.monotonic()))
                    what = self.plan.pop(0) if self.plan else "200"
                    changed.notify_all()
                self._answer(handler, what, json.loads(body)["data"])

            def log_message(handler, *_arguments: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._start = "http://127.0.0.1"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._start = "https://localhost"
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"{self._start}:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        with self._changed:
            return [each["id"] for each in self.taken]

    def _answer(self, handler: BaseHTTPRequestHandler, what: str, data: list[Any]) -> None:
        if what == "hang":
            self.released.wait(DEADLINE_S)
            what = "cut"
        if what == "cut":
            self._reset(handler)
            return
        if what == "half":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_WR)
            handler.close_connection = True
            return
        status, _, after = what.partition("/")
        if self.refused & {each["id"] for each in data}:
            status = "422"
        if status == "200":
            with self._changed:
                self.taken += data
                self._changed.notify_all()
        handler.send_response(int(status))
        if after:
            handler.send_header("Retry-After", after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _reset(self, handler: BaseHTTPRequestHandler) -> None:
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True

    def wait(self, number: int, deadline_s: float = DEADLINE_S) -> list[str]:
        """Until so many different results were taken: the ids, as they came."""
        until(lambda: len(set(self.ids)) >= number, f"{number} results were taken", deadline_s)
        return self.ids

    def start(self) -> "Receiver":
        self._thread.start()
        return self

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE_S)


@contextmanager
def receiver(tls: "Authority | None" = None) -> Iterator[Receiver]:
    made = Receiver(tls).start()
    try:
        yield made
    finally:
        made.stop()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def process(command: list[str | Path], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(2)  # PostgreSQL: fast shutdown
        try:
            child.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """A server of its own on a free port, with the password ``geheim``: its URL without it."""
    programs = POSTGRES[-1].parent
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # it refuses to run as root
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    # Not below tmp_path, which others may not enter.
    data = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    secret = data.with_name(f"{data.name}.pw")
    secret.write_text("geheim\n")
    try:
        if user:
            shutil.chown(data, "postgres", "postgres")
            shutil.chown(secret, "postgres", "postgres")
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256",
             f"--pwfile={secret}", "--no-sync"],
            check=True, capture_output=True, cwd="/", timeout=DEADLINE_S, **user,
        )  # fmt: skip
        port = free_port()
        command: list[str | Path] = [
            programs / "postgres", "-D", data, "-p", str(port), "-k", "", "-h", "127.0.0.1",
            "-c", "fsync=off",
        ]  # fmt: skip
        with process(command, cwd="/", **user):
            ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            # it listens before that, and refuses everybody as it is starting up
            until(
                lambda: subprocess.run(ready, check=False, timeout=DEADLINE_S).returncode == 0,
                "PostgreSQL takes connections",
                DEADLINE_S,
            )
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(data, ignore_errors=True)
        secret.unlink(missing_ok=True)


class Authority(NamedTuple):
    """A private CA, and the certificate that it gave to ``localhost``: files of PEM."""

    root: Path
    certificate: Path
    key: Path


def authority(folder: Path) -> Authority:
    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=DEADLINE_S)

    folder.mkdir()
    found = Authority(folder / "root.pem", folder / "certificate.pem", folder / "key.pem")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    root_key = folder / "root-key.pem"
    openssl("req", "-x509", *curve, "-subj", "/CN=a CA of our own", "-keyout", root_key,
            "-out", found.root)  # fmt: skip
    openssl("req", "-x509", *curve, "-subj", "/CN=localhost", "-keyout", found.key, "-out",
            found.certificate, "-CA", found.root, "-CAkey", root_key,
            "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    for file in (folder, *found):
        file.chmod(0o755 if file.is_dir() else 0o644)  # mosquitto gives up being root
    return found


@contextmanager
def broker(folder: Path, port: int = 0, tls: tuple[int, Authority] | None = None) -> Iterator[int]:
    """An MQTT broker that lets everybody in: its port. ``tls``: another port, with TLS."""
    port = port or free_port()
    settings = folder / "mosquitto.conf"
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true"]
    if tls is not None:
        lines += [
            f"listener {tls[0]} 127.0.0.1", f"certfile {tls[1].certificate}",
            f"keyfile {tls[1].key}", "user root", "max_queued_messages 0",
        ]  # fmt: skip
    settings.write_text("\n".join(lines) + "\n")
    assert MOSQUITTO is not None
    with process([MOSQUITTO, "-c", settings]):
        ports = [port] if tls is None else [port, tls[0]]
        until(lambda: all(map(is_listening, ports)), "the broker listens", DEADLINE_S)
        yield port


class Subscriber:
    """Keeps the messages of a broker: ``(topic, body)``."""

    PROGRAM = (
        "import asyncio, aiomqtt, sys\n"
        "async def main():\n"
        "    async with aiomqtt.Client('127.0.0.1', int(sys.argv[1])) as client:\n"
        "        await client.subscribe('#', qos=1)\n"
        "        print('ready', flush=True)\n"
        "        async for each in client.messages:\n"
        "            print(each.topic, each.payload.decode(), flush=True)\n"
        "asyncio.run(main())\n"
    )

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, str(port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "ready"
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, _, body = line.partition(" ")
            self.messages.append((topic, json.loads(body)))
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(DEADLINE_S)


class Flow:
    """A database that results come into, and the sinks that follow it; no daemon."""

    def __init__(self, writer: DatabaseThread, around: Around) -> None:
        self.writer, self.around = writer, around
        self.path = around.path

    async def add(self, *changes: dict[str, Any]) -> list[str]:
        """Commit a result for each; their ids."""
        first = self.around.commits.seq + 1
        results = [make_result(first + n, **each) for n, each in enumerate(changes)]
        await self.writer.run(in_transaction, _commit, first, self.around.boot.timeline, results)
        self.around.commits.advance(first + len(results) - 1)
        return [result.id for result in results]

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What the database has."""
        return await self.writer.run(lambda connection: connection.execute(statement).fetchall())

    async def change(self, function: Callable[..., T], *args: Any) -> T:
        """As an operator does."""
        return cast("T", await self.around.change(function, *args))

    async def delivered(self, sink: str, number: int) -> None:
        """Wait until that sink knows that so many were taken since the start."""
        name = "edge_store_sink_delivered_total"
        await eventually(lambda: self.sample(name, sink) == number, f"{number} are delivered")

    def sample(self, name: str, sink: str) -> float | None:
        """A metric of a sink."""
        return self.around.metrics.registry.get_sample_value(name, {"sink": sink})


def _commit(connection: Connection, first: int, timeline: str, results: list[Result]) -> None:
    insert_rows(connection, [to_row(first + n, timeline, each) for n, each in enumerate(results)])
    connection.execute(
        "INSERT INTO commits (boot_id, at, admitted_upto, seq_from, seq_to, digest, previous) "
        "VALUES ('b', 1, 1, ?, ?, x'00', x'00')",
        (first, first + len(results) - 1),
    )


@asynccontextmanager
async def flowing(path: Path, *sinks: SinkSection) -> AsyncIterator[Flow]:
    """Meanwhile the sinks are pushed to; at the end they are stopped as the daemon does."""
    if not path.exists():  # noqa: ASYNC240  (a test)
        new_database(path)[0].close()
    writer = await DatabaseThread.open(lambda: open_writer(path))
    (row,) = await writer.run(
        lambda c: c.execute("SELECT coalesce(max(seq_to), 0), "
                            "(SELECT timeline FROM timelines ORDER BY timeline_no DESC LIMIT 1) "
                            "FROM commits").fetchall()
    )  # fmt: skip

    async def change(function: Callable[..., T], *args: Any) -> T:
        return await writer.run(in_transaction, function, *args)

    metrics = Metrics()
    boot: Any = type("Boot", (), {"device_id": "box-test", "timeline": row[1]})
    around = Around(
        Config(sinks=sinks), path, boot, Commits(row[0]), change, cast("Any", None), metrics,
        Alarms(metrics), None, asyncio.Event(),
    )  # fmt: skip
    pushing = asyncio.create_task(push(around))
    flow = Flow(writer, around)
    try:
        while await flow.rows("SELECT count(*) FROM sinks") < [(len(sinks),)]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the database tells nobody
        yield flow
    finally:
        pushing.cancel()
        with suppress(asyncio.CancelledError):
            await pushing
        await writer.close()


async def eventually(holds: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until it does."""
    ends_at = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < ends_at, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)
