"""Databases that are written, replicated and compared: here, or in a process that can be killed.

As a program (``python -m support.replicating DATABASE DEVICE``) it commits on request and ends
without closing its connection, as the daemon does.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.records import make_result

import edge_store
from edge_store.config import ReplicaSection
from edge_store.identity import create_identity
from edge_store.ids import DeviceId
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot
from edge_store.replica.supervisor import Litestream
from edge_store.result import Content, Result
from edge_store.schema import migrate
from edge_store.sqlite import Connection, open_reader, open_writer

__all__ = ["Database", "WriterProcess", "contents", "is_alive", "replicate", "wait_for"]

ROOT = Path(edge_store.__file__).parent.parent
DEADLINE_S = 60.0


class Database:
    """A database with a writer in this process. Its connection is closed only by ``close``."""

    def __init__(self, path: Path, device_id: str) -> None:
        self.path = path
        self.connection: Connection = open_writer(path)
        migrate(self.connection)
        self.device_id = create_identity(self.connection, device_id)
        self.boot = begin_boot(
            self.connection,
            device_id=self.device_id,
            version="0",
            engine="demo",
            engine_version="0",
        )
        self._head = read_head(self.connection)
        self._admitted = 0

    def write(self, results: int, *, body_bytes: int = 100, **changes: Any) -> None:
        """Commit that many results of this boot at once; ``changes`` replace fields of each."""
        content = Content(
            input_text="hello", request_body=b"{}", response_body=os.urandom(body_bytes)
        )
        batch = []
        for _ in range(results):
            self._admitted += 1
            fields = {"device_id": self.device_id, "content": content, **changes}
            batch.append(make_result(self._admitted, self.boot.boot_id, **fields))
        self._commit(batch)

    def _commit(self, batch: list[Result]) -> None:
        written = write_batch(self.connection, self.boot, self._head, self._admitted, batch)
        assert not [each for each in written.outcomes if isinstance(each, Exception)]
        self._head = written.head

    def close(self) -> None:
        self.connection.close()


class WriterProcess:
    """A ``Database`` in a process of its own."""

    def __init__(self, path: Path, device_id: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.replicating", str(path), device_id],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def write(self, results: int, body_bytes: int = 100) -> None:
        """Returns once they are committed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{results} {body_bytes}\n")
        self._process.stdin.flush()
        assert self._answer() == "committed"

    def leave(self) -> None:
        """End it without closing its connection."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(DEADLINE_S) == 0

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def contents(path: Path) -> list[tuple[Any, ...]]:
    """What makes two databases the same: each result with its digest, then each commit's digest."""
    connection = open_reader(path)
    try:
        return [
            *connection.execute("SELECT seq, id, digest FROM results ORDER BY seq"),
            *connection.execute("SELECT commit_id, digest FROM commits ORDER BY commit_id"),
        ]
    finally:
        connection.close()


def is_alive(process_id: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it ended while it was read
        return False


@asynccontextmanager
async def replicate(
    database: Path, device_id: str, url: str, *, as_served: bool = False, **settings: Any
) -> AsyncIterator[Litestream]:
    """Litestream as the daemon runs it, looked at often, or ``as_served`` by the profile."""
    section = ReplicaSection(url=url, **settings)
    async with Litestream(
        section, database, DeviceId(device_id), health_interval_s=None if as_served else 0.2
    ) as litestream:
        await litestream.start()
        yield litestream


async def wait_for(holds: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Until ``holds()`` is true."""
    ends_at = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < ends_at, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.05)


def main() -> None:
    database = Database(Path(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    for line in sys.stdin:
        results, body_bytes = map(int, line.split())
        database.write(results, body_bytes=body_bytes)
        print("committed", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
