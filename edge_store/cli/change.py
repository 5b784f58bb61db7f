"""Has a change made: by the daemon of this box if it runs, else here, under its lock."""

import http.client
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from edge_store.config import Config
    from edge_store.result import Record
    from edge_store.sqlite import Connection

__all__ = ["alone", "ask", "change", "changes", "follow"]

ANSWER_TIMEOUT_S = 120.0


Make = Callable[[str, "Record"], Any]


def change(config: "Config", name: str, params: "Record", *, said: Callable[[Any], object]) -> None:
    """Make the change ``name`` of ``edge_store.changes``, call ``said`` with its value as decoded
    JSON, and end the process.

    Raises:
        EdgeStoreError: what the daemon answered, or the change itself raised.
    """
    changes(config, lambda make: said(make(name, params)))


def changes(config: "Config", work: Callable[[Make], object]) -> None:
    """Let ``work`` make changes, as many as it likes, each a transaction; and end the process.

    Raises:
        EdgeStoreError: what the daemon answered, or a change itself raised.
    """
    import msgspec

    database = Path(config.store.path)
    if _is_served(database):
        work(lambda name, params: _ask_daemon(database, name, _checked(name, params)[1]))
        return
    from edge_store.changes import CHANGES
    from edge_store.recorder.transactions import in_transaction

    def here(connection: "Connection") -> None:
        def make(name: str, params: "Record") -> Any:
            checked, _ = _checked(name, params)
            value = in_transaction(connection, CHANGES[name].carry_out, checked)
            return msgspec.to_builtins(value)

        work(make)

    alone(config, here)


def alone(config: "Config", work: "Callable[[Connection], object]") -> NoReturn:
    """Call ``work`` with the writer's connection, under the database's lock, and end the process.

    Raises:
        AlreadyRunning: the daemon runs.
    """
    from edge_store import exits
    from edge_store.cli.main import ended
    from edge_store.indexes import sole_writer
    from edge_store.sqlite import require_safe_sqlite

    require_safe_sqlite(allow_vulnerable=config.store.allow_vulnerable_sqlite)
    os.umask(0o027)  # as the daemon does: -wal and -shm are for the owner and the group
    replicated = config.replica.enabled
    exit_code = exits.FAILURE
    with sole_writer(Path(config.store.path), stays_open=replicated) as connection:
        try:
            exit_code = ended(lambda: work(connection))
        finally:  # whatever ended it: not even standard error may take what is said of that
            if replicated:  # see docs/adr/0010: closed, the whole database would be uploaded again
                os._exit(exit_code)
    sys.exit(exit_code)


def _checked(name: str, params: "Record") -> tuple["Record", bytes]:
    """The parameters, and their JSON: a constructor checks nothing."""
    import msgspec

    from edge_store.changes import CHANGES
    from edge_store.faults import refusal_of

    encoded = msgspec.json.encode(params)
    try:
        return msgspec.json.decode(encoded, type=CHANGES[name].params), encoded
    except msgspec.ValidationError as exc:
        raise refusal_of(exc, CHANGES[name].params) from exc


def _is_served(database: Path) -> bool:
    """Whether a daemon listens."""
    connection = _connected(database)
    if connection is not None:
        connection.close()
    return connection is not None


def _connected(database: Path) -> http.client.HTTPConnection | None:
    """A connection to the daemon; None when there is none."""
    from edge_store.errors import StoreError
    from edge_store.socketpath import reachable_socket

    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_TIMEOUT_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(ANSWER_TIMEOUT_S)
    try:
        with reachable_socket(database) as path:
            connection.sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as exc:
        connection.close()
        raise StoreError(
            f"the admin socket {database.with_name('edge-store.sock')}: {exc.strerror}",
            hint="it is for the daemon's user and group: `sudo -u edge-store …`, or join the group",
        ) from exc
    return connection


def follow(database: Path, path: str) -> Iterator[dict[str, Any]] | None:
    """The lines that the daemon answers a POST with, decoded; None when there is none.

    Raises:
        EdgeStoreError: what the daemon answered, or that it went away.
    """
    connection = _connected(database)
    return None if connection is None else _lines(connection, path)


def _lines(connection: http.client.HTTPConnection, path: str) -> Iterator[dict[str, Any]]:
    import msgspec

    from edge_store.errors import EdgeStoreError, StoreError

    try:
        connection.request("POST", path)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            error = msgspec.json.decode(response.read())["error"]
            raise EdgeStoreError(error["message"], hint=error.get("hint") or "")
        while line := response.readline():
            yield msgspec.json.decode(line, type=dict[str, Any])
    except (OSError, http.client.HTTPException) as exc:
        raise StoreError(
            f"the daemon went away: {exc}", hint="see its log, and begin again"
        ) from exc
    finally:
        connection.close()


def _ask_daemon(database: Path, name: str, params: bytes) -> Any:
    """The daemon's answer."""
    from edge_store.errors import StoreError

    answer = ask(database, "POST", f"/changes/{name}", params)
    if answer is None:
        raise StoreError("the daemon has stopped meanwhile", hint="begin again")
    return answer


def ask(database: Path, method: str, path: str, body: bytes = b"") -> Any:
    """What the daemon answers on its admin socket; None when there is no daemon.

    Raises:
        EdgeStoreError: what it answered; or it did not.
    """
    import msgspec

    from edge_store.errors import EdgeStoreError, StoreError

    connection = _connected(database)
    if connection is None:
        return None
    try:
        connection.request(method, path, body=body)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise StoreError(
            f"the daemon did not answer to {path}: {exc}", hint="it may be done: look, then repeat"
        ) from exc
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        error = msgspec.json.decode(answer)["error"]
        raise EdgeStoreError(error["message"], hint=error.get("hint") or "")
    return msgspec.json.decode(answer)
