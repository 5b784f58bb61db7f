"""How a box is, seen from outside the daemon: what it says of itself, and what its files say.

Reads only, and works when the daemon is down. The daemon is asked over HTTP, once, with a deadline;
the database is read as any reader does, with one.
"""

import http.client
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from edge_store.config import Config, ServerSection
from edge_store.errors import EdgeStoreError, StoreError
from edge_store.identity import read_device_id
from edge_store.ids import DeviceId
from edge_store.lock import lock_holder, noted_device_id
from edge_store.query import run_query
from edge_store.recorder.disk import Disk
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import open_reader, translated
from edge_store.wal import wal_bytes

__all__ = [
    "BoxStatus",
    "DaemonState",
    "Stored",
    "ask_daemon",
    "has_never_run",
    "known_device_id",
    "read_metrics",
    "read_status",
    "read_stored",
    "require_daemon",
    "url_of_daemon",
]

ANSWER_TIMEOUT_S = 5.0  # the daemon itself gives its engine 2 s to say whether it is ready
ANSWER_BYTES_MAX = 64 * 1024
METRICS_BYTES_MAX = 4 * 1024 * 1024
SUMMARY_TIMEOUT_S = 10.0  # counting 10 million rows takes about one


class DaemonState(StrEnum):
    """What came of asking the daemon."""

    READY = "ready"
    NOT_READY = "not ready"
    DOWN = "down"


class Stored(Record, frozen=True, kw_only=True):
    """What the database file holds."""

    device_id: str | None
    results: int
    seq: int | None
    committed_at: int | None  # UTC ms
    database_bytes: int
    wal_bytes: int


class BoxStatus(Record, frozen=True, kw_only=True):
    """One look at a box. ``daemon`` is what /readyz said; ``problem`` why there is none."""

    state: DaemonState
    url: str
    daemon: dict[str, Any] | None
    problem: str | None
    stored: Stored | None
    stored_problem: str | None
    disk_free_bytes: int | None
    disk_reserve_bytes: int


def read_status(config: Config) -> BoxStatus:
    """Ask the daemon and read the files. Does not raise for what is wrong with either."""
    path = Path(config.store.path)
    stored, stored_problem = None, None
    try:
        stored = read_stored(path)
    except EdgeStoreError as exc:
        stored_problem = str(exc)
    daemon, problem = ask_daemon(config.server, known_device_id(config))
    if daemon is None:
        state = DaemonState.DOWN
        holder = lock_holder(path)
        if holder is not None:
            problem = f"{problem}; process {holder} holds the database: it may be starting"
    else:
        state = DaemonState.READY if daemon["is_ready"] else DaemonState.NOT_READY
    return BoxStatus(
        state=state,
        url=url_of_daemon(config.server),
        daemon=daemon,
        problem=problem,
        stored=stored,
        stored_problem=stored_problem,
        disk_free_bytes=Disk(path, 0).free_bytes() if path.parent.is_dir() else None,
        disk_reserve_bytes=config.store.disk_reserve_bytes,
    )


def read_stored(path: Path) -> Stored:
    """Count what is in the database.

    Raises:
        StoreError: there is none, or it cannot be read.
        QueryRefused: counting took longer than ``SUMMARY_TIMEOUT_S``.
    """
    connection = open_reader(path)
    try:
        with translated(f"{path} cannot be read"):
            device_id = read_device_id(connection)
        summary = run_query(
            connection, sql("select_summary"), rows_max=1, timeout_s=SUMMARY_TIMEOUT_S
        )
    finally:
        connection.close()
    results, seq, committed_at = summary.rows[0]
    try:
        database_bytes = path.stat().st_size
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror}") from exc
    return Stored(
        device_id=device_id,
        results=results,
        seq=seq,
        committed_at=committed_at,
        database_bytes=database_bytes,
        wal_bytes=wal_bytes(path),
    )


def known_device_id(config: Config) -> DeviceId | None:
    """The device id that the database holds; when that is lost or damaged, the configuration's, or
    what the lock beside it has noted.
    """
    path = Path(config.store.path)
    try:
        connection = open_reader(path)
        try:
            with translated(f"{path} cannot be read"):
                found = read_device_id(connection)
        finally:
            connection.close()
    except EdgeStoreError:
        found = None
    return found or DeviceId(config.device.id) or noted_device_id(path)


def has_never_run(config: Config) -> bool:
    """Whether the database is there, and no daemon ever began with it."""
    path = Path(config.store.path)
    cannot = translated(f"{path} cannot be read")
    with suppress(EdgeStoreError), closing(open_reader(path)) as connection, cannot:
        return connection.execute(sql("select_a_boot")).fetchone() is None
    return False


def ask_daemon(
    config: ServerSection, device_id: DeviceId | None
) -> tuple[dict[str, Any] | None, str | None]:
    """What ``GET /readyz`` answers, or None and why. Only the daemon of ``device_id`` is believed:
    on one machine another box may have the port. None, for a box without an id yet, believes any.
    """
    if config.port == 0:
        return None, "server.port is 0: which port the daemon took is in its log"
    connection = _connection(config)
    try:
        connection.request("GET", "/readyz", headers={"Connection": "close"})
        response = connection.getresponse()
        state = msgspec.json.decode(response.read(ANSWER_BYTES_MAX), type=dict[str, Any])
    except TimeoutError:
        return None, f"no answer within {ANSWER_TIMEOUT_S:g} s"
    except OSError as exc:
        return None, f"{exc.strerror or exc}"
    except (http.client.HTTPException, msgspec.MsgspecError):
        return None, "what answers there is not edge-store"
    finally:
        connection.close()
    problem = None
    if not isinstance(state.get("is_ready"), bool):
        problem = "what answers there is not edge-store"
    elif device_id is not None and state.get("device_id") != device_id:
        problem = f"another box answers there: {state.get('device_id')}, and this is {device_id}"
    return None if problem else state, problem


def require_daemon(config: Config) -> str:
    """The address at which this box's daemon answers; another box may have its port.

    Raises:
        StoreError: it does not answer there.
    """
    url = url_of_daemon(config.server)
    _, problem = ask_daemon(config.server, known_device_id(config))
    if problem is not None:
        raise StoreError(
            f"this box's daemon does not answer at {url}: {problem}",
            hint="start it: `edge-store serve`; `edge-store status` shows how it is",
        )
    return url


def read_metrics(config: ServerSection) -> bytes:
    """What ``GET /metrics`` answers.

    Raises:
        StoreError: there is no answer, or another one.
    """
    connection = _connection(config)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(METRICS_BYTES_MAX)
    except (OSError, http.client.HTTPException) as exc:
        raise StoreError(f"the daemon does not answer: {exc}") from exc
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise StoreError(f"the daemon answered {response.status} to GET /metrics")
    return text


def url_of_daemon(config: ServerSection) -> str:
    """Where it is reached, without a path."""
    host = _reachable(config.host)
    scheme = "https" if config.tls_certificate else "http"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{config.port}"


def _connection(config: ServerSection) -> http.client.HTTPConnection:
    """To the daemon of this machine, whose certificate is for the name that others call it by: it
    is known by its device id, and told nothing.
    """
    host, port = _reachable(config.host), config.port
    if not config.tls_certificate:
        return http.client.HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
    import ssl  # noqa: PLC0415  (a box without TLS does not pay for it)

    context = ssl._create_unverified_context()  # noqa: S323, SLF001  (see above)
    return http.client.HTTPSConnection(host, port, timeout=ANSWER_TIMEOUT_S, context=context)


def _reachable(host: str) -> str:
    """An address to connect to: "every address" is reached by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (not bound here)
