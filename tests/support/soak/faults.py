"""What goes wrong in a round: with the store, and with the box. Each is a context: entered, it is
so; left, whoever would be called has mended it.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING

from edge_store.schema import FILES, statements
from edge_store.sqlite import Connection, driver, open_writer

if TYPE_CHECKING:
    from support.soak.rounds import Soak

__all__ = ["BOX_FAULTS", "STORE_FAULTS", "Fault", "may_mount", "undo_newest_migration"]

Fault = Callable[["Soak"], AbstractContextManager[None]]

SKEW_S = 3600.0
BUSY_MS = 10_000


def _answer(status: str, code: str, date: float | None = None) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>soak</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\n"
    head += f"date: {formatdate(time() if date is None else date, usegmt=True)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


def _answering(*answers: tuple[str, str], share: bool = False, skew_s: float = 0.0) -> Fault:
    """All requests, or half of them, are answered so."""

    @contextmanager
    def fault(soak: "Soak") -> Iterator[None]:
        given: tuple[bytes | None, ...] = tuple(
            _answer(status, code, time() + skew_s) for status, code in answers
        )
        soak.proxy.answers = given + ((None,) * len(given) if share else ())
        soak.proxy.drop()
        yield
        soak.proxy.heal()

    return fault


@contextmanager
def _gone(soak: "Soak") -> Iterator[None]:
    soak.server.stop()
    soak.proxy.drop()
    yield
    soak.server.start()


@contextmanager
def _refusing(soak: "Soak") -> Iterator[None]:
    soak.proxy.refuses = True
    soak.proxy.drop()
    yield
    soak.proxy.heal()


@contextmanager
def _slow(soak: "Soak") -> Iterator[None]:
    soak.proxy.delay_s = soak.random.uniform(0.05, 0.5)
    soak.proxy.bytes_per_s = soak.random.uniform(100e3, 1e6)
    soak.proxy.drop()
    yield
    soak.proxy.heal()


@contextmanager
def _hanging(soak: "Soak") -> Iterator[None]:
    soak.proxy.stall_after = soak.proxy.passed
    yield
    soak.proxy.heal()


@contextmanager
def _breaking_off(soak: "Soak") -> Iterator[None]:
    soak.proxy.cut_after = soak.random.randrange(0, 400)
    soak.proxy.drop()
    yield
    soak.proxy.heal()


STORE_FAULTS: dict[str, Fault] = {
    "store gone": _gone,
    "store refuses": _refusing,
    "store slow": _slow,
    "store hangs": _hanging,
    "store breaks off": _breaking_off,
    "store 500": _answering(("500 Internal Server Error", "InternalError")),
    "store 500 at times": _answering(("500 Internal Server Error", "InternalError"), share=True),
    "store throttles": _answering(
        ("503 Slow Down", "SlowDown"), ("429 Too Many Requests", "TooManyRequests"), share=True
    ),
    "store throttles all": _answering(("503 Slow Down", "SlowDown")),
    "clock skewed": _answering(("403 Forbidden", "RequestTimeTooSkewed"), skew_s=SKEW_S),
}


@contextmanager
def _daemon_killed(soak: "Soak") -> Iterator[None]:
    soak.load_for(0.2, 1.0)
    soak.kill()
    yield
    if soak.random.random() < 0.3:  # and once more, while it starts
        soak.start()
        soak.sleep(0.1, 1.0)
        soak.kill()


@contextmanager
def _daemon_terminated(soak: "Soak") -> Iterator[None]:
    soak.load_for(0.2, 1.0)
    soak.terminate()
    yield


@contextmanager
def _daemon_restarted(soak: "Soak") -> Iterator[None]:
    """Whatever the store does just now."""
    soak.load_for(0.2, 1.0)
    soak.random.choice((soak.kill, soak.terminate))()
    soak.serve()
    yield


@contextmanager
def _litestream_killed(soak: "Soak") -> Iterator[None]:
    for _ in range(soak.random.choice((1, 1, 2))):
        soak.load_for(0.2, 1.0)
        number = soak.litestreams()
        process_id = int(soak.daemon.logged("litestream_started", number=number)["process_id"])
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        soak.daemon.logged("litestream_started", 60, number=number + 1)
    yield


@contextmanager
def _disk_full(soak: "Soak") -> Iterator[None]:
    soak.load_for(0.2, 0.6)
    ballast = soak.folder / "ballast"
    found = os.statvfs(soak.folder)
    left = soak.random.choice((0, 0, 64 << 10))
    with ballast.open("wb") as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - left))
    yield
    ballast.unlink()


@contextmanager
def _vacuumed(soak: "Soak") -> Iterator[None]:
    """By a tool that leaves checkpoints alone."""
    soak.load_for(0.2, 0.6)
    opened = closing(open_writer(soak.box.database, busy_timeout_ms=BUSY_MS))
    with opened as connection, suppress(driver.OperationalError):  # it may get no turn
        connection.execute("VACUUM")
        soak.totals["vacuumed"] += 1
    yield


@contextmanager
def _forgotten(soak: "Soak") -> Iterator[None]:
    soak.load_for(0.3, 1.0)
    user = soak.callers.change_user(f"u-{soak.rounds}")
    done = soak.box.run("forget", "--user", user, "--yes", "--config", str(soak.box.directory))
    if done.returncode == 0:
        soak.callers.forgotten.add(user)
        soak.totals["users forgotten"] += 1
    yield


@contextmanager
def _migrated(soak: "Soak") -> Iterator[None]:
    """The file is set back by its newest migration while the daemon is down."""
    soak.load_for(0.2, 0.6)
    soak.terminate()
    with closing(open_writer(soak.box.database)) as connection:
        if undo_newest_migration(connection):
            soak.totals["migrated"] += 1
    soak.serve()
    yield


@contextmanager
def _without_replication(soak: "Soak") -> Iterator[None]:
    """For a while the daemon moves the WAL into the database by itself, and empties it."""
    soak.terminate()
    soak.serve(REPLICA__ENABLED="false")
    yield
    soak.terminate()


@contextmanager
def _paused(soak: "Soak") -> Iterator[None]:
    where = ("--config", str(soak.box.directory))
    soak.load_for(0.2, 0.6)
    done = soak.box.run("replica", "pause", "--for", "10min", *where)
    assert done.returncode == 0, done.stderr
    yield
    soak.ensure_served()
    done = soak.box.run("replica", "resume", *where)
    assert done.returncode == 0, done.stderr


BOX_FAULTS: dict[str, Fault] = {
    "daemon killed": _daemon_killed,
    "daemon terminated": _daemon_terminated,
    "daemon restarted": _daemon_restarted,
    "litestream killed": _litestream_killed,
    "disk full": _disk_full,
    "vacuum": _vacuumed,
    "forget": _forgotten,
    "migration": _migrated,
    "replication off": _without_replication,
    "paused": _paused,
}


UNDONE = {  # what changes a table that holds something
    "0012_bodies.sql": (
        """UPDATE requests SET output_at = NULL, response_body = (
            SELECT b.response_body FROM bodies AS b WHERE b.seq = requests.seq)
        WHERE output_at IS NOT NULL""",
        "DROP VIEW bodies",
        "ALTER TABLE requests DROP COLUMN output_at",
    ),
}


def undo_newest_migration(connection: Connection) -> bool:
    """False when it does more than to make things that hold nothing yet."""
    before, after = _objects(FILES[:-1]), _objects(FILES)
    altered = [key for key, text in before.items() if key[0] == "table" and after.get(key) != text]
    if altered and FILES[-1] not in UNDONE:
        return False
    connection.execute("BEGIN IMMEDIATE")
    for statement in UNDONE.get(FILES[-1], ()):
        connection.execute(statement)
    kinds = ("trigger", "view", "index", "table")  # a table takes its indexes along
    for kind, name in sorted(after.keys() - before.keys(), key=lambda key: kinds.index(key[0])):
        connection.execute(f"DROP {kind} IF EXISTS {name}")
    for key in before.keys() - after.keys():
        connection.execute(before[key])
    connection.execute(
        "DELETE FROM _sqlite_migrations WHERE name = ?", (FILES[-1].removesuffix(".sql"),)
    )
    connection.execute(f"PRAGMA user_version = {len(FILES) - 1}")
    connection.execute("COMMIT")
    return True


def _objects(names: tuple[str, ...]) -> dict[tuple[str, str], str]:
    with closing(driver.connect(":memory:")) as connection:
        for name in names:
            for statement in statements(name):
                connection.execute(statement)
        found = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL")
        return {(kind, name): text for kind, name, text in found}


def may_mount(folder: os.PathLike[str], size: str) -> bool:
    """Mount a small file system there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", os.fspath(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
