"""The appliance as processes: a box made by ``edge-store init``, its daemon, its commands.

Every wait has a deadline. Leaving a ``DaemonProcess`` kills what is left of it, and fails if the
daemon's log holds a traceback: no fault of the world may become one.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from support.processes import descendants, is_alive

import edge_store
from edge_store.chain import ChainCheck, verify_chain
from edge_store.sqlite import check_integrity, open_reader

__all__ = ["DEADLINE_S", "Box", "DaemonProcess", "chat_until_replicated", "until"]

DEADLINE_S = 60.0  # for whatever takes well under a second on an idle machine
POLL_S = 0.02
ROOT = Path(edge_store.__file__).parent.parent
EDGE_STORE = (sys.executable, "-m", "edge_store")


def environment(**extra: str) -> dict[str, str]:
    """Nothing of the tester's settings or cloud keys; replication off unless it is asked for."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "EDGE_STORE_REPLICA__ENABLED": "false",
        "EDGE_STORE_REPLICA__PROFILE": "fast",  # the default makes whoever looks wait longer
        **extra,
    }


def until(holds: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until ``holds()`` is true, and return its value."""
    ends_at = time.monotonic() + deadline_s
    while not (value := holds()):
        assert time.monotonic() < ends_at, f"not within {deadline_s} s: {what}"
        time.sleep(POLL_S)
    return value


class Box:
    """A folder with ``edge-store.toml`` and ``results.db``."""

    def __init__(self, directory: Path, **settings: str) -> None:
        """``settings``: ``SECTION__KEY`` and its value, for every command."""
        self.deadline_s = DEADLINE_S  # of a command
        self.directory = directory
        self.database = directory / "results.db"
        self.environ = environment(**{f"EDGE_STORE_{k}": v for k, v in settings.items()})

    @classmethod
    def init(cls, directory: Path, *options: str, **settings: str) -> "Box":
        """Run ``edge-store init``; the demo engine unless ``options`` say otherwise."""
        box = cls(directory, **settings)
        done = box.run("init", str(directory), *(options or ("--engine", "demo")))
        assert done.returncode == 0, done.stderr
        return box

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*EDGE_STORE, *arguments],
            env={**self.environ, **{f"EDGE_STORE_{k}": v for k, v in settings.items()}},
            cwd=self.directory.parent,
            capture_output=True,
            text=True,
            timeout=self.deadline_s,
            check=False,
        )

    def serve(self, **settings: str) -> "DaemonProcess":
        """A daemon on a free port, not yet started."""
        more = {f"EDGE_STORE_{k}": v for k, v in settings.items()}
        return DaemonProcess(self, {**self.environ, **more})

    def query(self, statement: str, *params: str) -> list[dict[str, Any]]:
        """Rows by ``edge-store query``."""
        arguments = ("query", statement, "--config", str(self.directory), "--nl", *params)
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def rows(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        """Rows by our own reader, in this process."""
        return rows(self.database, statement, *params)

    def scalar(self, statement: str, *params: Any) -> Any:
        """The first column of the only row."""
        ((value,),) = self.rows(statement, *params)
        return value

    def texts(self) -> dict[str, str]:
        """The first choice of each completed result, by id."""
        return dict(
            self.rows(
                "SELECT r.id, o.output_text FROM results AS r JOIN outputs AS o USING (seq) "
                "WHERE r.status = 'completed' AND o.choice_index = 0"
            )
        )

    def everything(self) -> bytes:
        """All that is on the disk of the database and the files of batches; of a file that goes
        while it is looked at, nothing.
        """
        found = []
        for path in (*self.directory.glob("results.db*"), *self.directory.glob("files/*")):
            with suppress(FileNotFoundError):
                found.append(path.read_bytes())
        return b"".join(found)

    def proven(self) -> ChainCheck:
        """The chain's extent; fails unless file and chain are whole."""
        return proven(self.database)


def rows(database: Path, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Rows of any database of ours."""
    connection = open_reader(database)
    try:
        return connection.execute(statement, params).fetchall()
    finally:
        connection.close()


def proven(database: Path) -> ChainCheck:
    """Check every page and every digest of one consistent view of the file."""
    connection = open_reader(database)
    try:
        connection.execute("BEGIN")
        assert check_integrity(connection, full=True) == "ok"
        found = verify_chain(connection)
    finally:
        connection.close()
    assert found.faults == ()
    return found


class DaemonProcess:
    """``edge-store serve`` under observation. Entered: it is ready."""

    def __init__(
        self,
        box: Box,
        environ: Mapping[str, str],
        *,
        start_deadline_s: float = DEADLINE_S,
        port: str = "0",
    ) -> None:
        self.box = box
        self.url = ""
        self.log: list[dict[str, Any]] = []  # each line of its log, decoded
        self.raw: list[str] = []  # each line of stdout that is no JSON, and of stderr
        self._environ = dict(environ)
        self._start_deadline_s = start_deadline_s
        self._port = port  # 0: a free one
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str]
        self._client = httpx.Client(
            verify=False,  # noqa: S501  (plain HTTP: there are no certificates to load, each time)
            timeout=DEADLINE_S,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready(self._start_deadline_s)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        if exc is None:
            assert self.tracebacks() == []

    def start(self) -> None:
        """Start the process and read its output."""
        self._process = subprocess.Popen(
            [*EDGE_STORE, "serve", "--config", str(self.box.directory), "--port", self._port],
            env=self._environ,
            cwd=self.box.directory.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for stream in (self._process.stdout, self._process.stderr):
            thread = threading.Thread(target=self._collect, args=(stream,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _collect(self, stream: Any) -> None:
        for line in stream:
            with self._changed:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.raw.append(line.rstrip("\n"))
                self._changed.notify_all()
        stream.close()

    def wait_ready(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until /readyz answers 200."""
        self.url = str(self.logged("http_listening", deadline_s=deadline_s)["url"])
        until(lambda: self.get("/readyz").status_code == 200, "/readyz is 200", deadline_s)

    def logged(
        self, event: str, deadline_s: float = DEADLINE_S, *, number: int = 1
    ) -> dict[str, Any]:
        """Wait for the ``number``-th line of this event."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log if line.get("event") == event]

        with self._changed:
            self._changed.wait_for(
                lambda: len(found()) >= number or self._process.poll() is not None, deadline_s
            )
        if len(found()) < number:
            for thread in self._threads if self._process.poll() is not None else ():
                thread.join(DEADLINE_S)  # it has ended: its last lines are still on their way
        assert len(found()) >= number, f"no {event} within {deadline_s} s:\n{self.output()}"
        return found()[number - 1]

    def output(self) -> str:
        """The end of everything it has said, for messages of failed tests."""
        lines = [json.dumps(line) for line in self.log]
        return "\n".join([*lines[-40:], *self.raw[-40:]])

    def tracebacks(self) -> list[str]:
        """Errors that nobody expected."""
        return [line["exception"] for line in self.log if "exception" in line] + [
            line for line in self.raw if "Traceback" in line
        ]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._client.get(self.url + path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._client.post(self.url + path, **options)

    def chat(self, prompt: str, **fields: Any) -> httpx.Response:
        """One plain chat."""
        body = {"model": "demo", "messages": [{"role": "user", "content": prompt}], **fields}
        return self.post("/v1/chat/completions", json=body)

    def refused(self, prompt: str) -> tuple[int, str] | None:
        """A chat that must not be acknowledged, of a daemon that ends by itself: the status and the
        code of its refusal; None where the daemon had gone before it could refuse.
        """
        try:
            answer = self.chat(prompt)
        except httpx.TransportError:
            return None
        assert not answer.is_success, answer.text
        assert answer.headers.get("x-edge-store-durability", "none") == "none"
        return answer.status_code, str(answer.json()["error"]["code"])

    def metrics(self) -> dict[str, float]:
        """Every sample, by name and labels as they are printed."""
        samples = (line.rsplit(" ", 1) for line in self.get("/metrics").text.splitlines())
        return {parts[0]: float(parts[1]) for parts in samples if not parts[0].startswith("#")}

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negated number of the signal that ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end and for the last line of its log."""
        try:
            code = self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on after {deadline_s} s:\n{self.output()}") from None
        for thread in self._threads:
            thread.join(DEADLINE_S)
        return code

    def stop(self, deadline_s: float = DEADLINE_S) -> int:
        """SIGTERM, and its exit code."""
        self.terminate()
        return self.wait(deadline_s)

    def kill(self) -> None:
        """SIGKILL: not one more instruction of it runs, nor of what it has started."""
        self._kill()
        self.wait()

    def _kill(self) -> None:
        """What it has started dies with it, but may do a step more until it has: its Litestream
        would change the replica that is looked at next.
        """
        started = descendants(self._process.pid)
        self._process.kill()
        self._process.wait(DEADLINE_S)
        until(lambda: not any(map(is_alive, started)), "what it has started has ended")

    def end(self) -> None:
        """Kill what is left of it."""
        if self._process.poll() is None:
            self._kill()
        self._process.wait(DEADLINE_S)
        self._client.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)


def chat_until_replicated(daemon: DaemonProcess) -> None:
    """Ask, and wait for the answer to be replicated: longer than a caller may, as a store without
    conditions lets who comes late to its claim wait for a minute.
    """
    answer = daemon.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hello"}]},
        headers={"x-edge-store-wait": "replicated; timeout=60"},
        timeout=2 * DEADLINE_S,  # no race of the two who wait a minute
    )
    receipt = f"/v1/results/{answer.headers['x-edge-store-id']}/receipt"
    until(
        lambda: daemon.get(receipt).json()["replicated"]["state"] == "replicated",
        f"it is replicated; at first {answer.headers}",
        240,
    )
