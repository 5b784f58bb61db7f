"""Checks of a box, each with what was found and what to do: ``edge-store doctor``.

Nothing is changed, but for a small file in the database's folder that the disk probe writes and
removes. The database is only read, the daemon is only asked. Every check is bounded in time.
"""

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_store.clock import is_clock_synced, now_ms, rfc3339
from edge_store.config import Config, EngineKind
from edge_store.engine.sglang import find_sglang
from edge_store.engine.sglang_private import SUPPORTED_VERSIONS
from edge_store.errors import EdgeStoreError, LitestreamUnavailable
from edge_store.identity import read_device_id
from edge_store.keys import LOOK_AGAIN, revived_keys
from edge_store.recorder.disk import Disk, DiskLevel
from edge_store.replica.litestream import find_litestream, require_safe_path
from edge_store.replica.location import Location, Scheme, parse_location, read_credentials
from edge_store.result import Check, CheckState
from edge_store.schema import SCHEMA_VERSION, altered, require_schema
from edge_store.sqlite import (
    RESTORE_HINT,
    Connection,
    check_integrity,
    driver,
    is_vulnerable,
    open_reader,
    translated,
)
from edge_store.status import ask_daemon, known_device_id

__all__ = ["check_box", "check_machine", "check_store"]

PROBE_WRITES = 64
PROBE_BYTES = 8192  # as much as a small COMMIT
PROBE_TIMEOUT_S = 5.0
SLOW_FLUSH_MS = 20.0  # at one COMMIT per flush, 50 a second
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")

INTEGRITY_TIMEOUT_S = 600.0
STEPS_BETWEEN_CHECKS = 100_000  # SQLite virtual machine steps

LAG_WARNING_S = 60.0
LAG_FAILURE_S = 3600.0
DISK_WARNING_FACTOR = 4  # warn while this many reserves are left
GIVEN_UP = {
    DiskLevel.NO_SEARCH: "the search index is dropped",
    DiskLevel.NO_BODIES: "bodies are not recorded",
    DiskLevel.REFUSING: "they are",
}

DOUBT_MS = 30 * 86_400_000  # how long after a restore its keys are asked about

OTHERS = 0o007  # rwx of users that are neither owner nor group
OTHERS_WRITE = 0o002


def _ok(name: str, found: str) -> Check:
    return Check(name=name, state=CheckState.OK, found=found)


def _warning(name: str, found: str, advice: str) -> Check:
    return Check(name=name, state=CheckState.WARNING, found=found, advice=advice)


def _failed(name: str, found: str, advice: str) -> Check:
    return Check(name=name, state=CheckState.FAILED, found=found, advice=advice)


def check_machine(config: Config | None) -> Iterator[Check]:
    """What is installed; without a configuration, as if replication were on."""
    replicates = config is None or config.replica.enabled
    allowed = config is not None and config.store.allow_vulnerable_sqlite
    yield _ok("python", f"{platform.python_version()} at {sys.executable}")
    yield _check_sqlite(allowed=allowed)
    if replicates:
        try:
            program = find_litestream()
            yield _ok("litestream", f"{program.version} at {program.path}")
        except LitestreamUnavailable as exc:
            yield _failed("litestream", str(exc), exc.hint)
        setpriv = shutil.which("setpriv")
        if setpriv:
            yield _ok("setpriv", setpriv)
        else:
            yield _warning(
                "setpriv",
                "not found",
                "install util-linux: without it Litestream may outlive a crash of the daemon",
            )
    if config is not None and config.engine.kind is EngineKind.SGLANG:
        yield _check_sglang(config)
    if is_clock_synced():
        yield _ok("clock", "synchronized")
    else:
        yield _warning(
            "clock",
            "not synchronized: times of results may be wrong, their order is not",
            "enable chrony or systemd-timesyncd; a box without a network can go on",
        )


def _check_sglang(config: Config) -> Check:
    arguments = config.engine.sglang
    try:
        version, is_tested = find_sglang(arguments)
    except EdgeStoreError as exc:
        return _failed("sglang", str(exc), exc.hint)
    found = f"{version}, model {arguments['model_path']}"
    if not is_tested:
        return _warning("sglang", f"{found}: not a version that was tested",
                        f"install {' or '.join(SUPPORTED_VERSIONS)}; or run SGLang's own server, "
                        "with engine.kind = upstream")  # fmt: skip
    return _ok("sglang", found)


def _check_sqlite(*, allowed: bool) -> Check:
    bundled = "its own copy" if driver.__name__.startswith("pysqlite3") else "Python's"
    found = f"{driver.sqlite_version}, {bundled}"
    if not is_vulnerable():
        return _ok("sqlite", found)
    advice = (
        "install pysqlite3 (x86-64), or a Python whose sqlite3 is 3.51.3 or newer; "
        "see sqlite.org/wal.html#the_wal_reset_bug"
    )
    make = _warning if allowed else _failed
    return make("sqlite", f"{found}: has the WAL-reset bug", advice)


def check_box(config: Config, *, full: bool = False) -> Iterator[Check]:
    """The database, its disk, its folder, its replica. ``full`` also reads every page."""
    path = Path(config.store.path)
    yield from check_store(path, config.device.id, config.store.disk_reserve_bytes, full=full)
    if not path.parent.is_dir():
        return
    daemon, problem = ask_daemon(config.server, known_device_id(config))
    yield from _check_engine(config, daemon)
    yield from _check_replica(config, path, daemon, problem)
    yield from _check_alarms(daemon)


def check_store(
    path: Path, device_id: str, reserve_bytes: int, *, full: bool = False
) -> Iterator[Check]:
    """The database at ``path``, its folder and its disk."""
    if not path.parent.is_dir():
        yield _failed("folder", f"{path.parent} is not there", "create it, or `edge-store init`")
        return
    yield _check_folder(path)
    yield from _check_database(path, device_id, full=full)
    yield _check_space(path, reserve_bytes)
    yield _check_flush(path.parent)


def _check_folder(path: Path) -> Check:
    mode = path.parent.stat().st_mode
    file_mode = path.stat().st_mode if path.is_file() else OTHERS
    found = f"{path.parent}, mode {mode & 0o777:04o}"
    if mode & OTHERS_WRITE:
        return _failed("folder", f"{found}: every user can replace the database",
                       f"chmod o= {path.parent}")  # fmt: skip
    if mode & OTHERS and file_mode & OTHERS:
        return _warning("folder", f"{found}: every user can read the results",
                        f"chmod o= {path.parent}")  # fmt: skip
    return _ok("folder", found)


def _check_database(path: Path, device_id: str, *, full: bool) -> Iterator[Check]:
    try:
        connection = open_reader(path)
    except EdgeStoreError as exc:
        yield _failed("database", str(exc), exc.hint or "see docs/operations.md")
        return
    try:
        with translated(f"{path} cannot be read"):
            require_schema(connection, f"{path} is damaged")
            yield _check_schema(connection, path)
            yield _check_device(read_device_id(connection), device_id)
            yield from _check_restored_keys(connection)
            if full:
                yield _check_pages(connection)
    except EdgeStoreError as exc:
        yield _failed("database", str(exc), exc.hint or "see docs/operations.md")
    finally:
        connection.close()


def _check_schema(connection: Connection, path: Path) -> Check:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    found = f"{path}, schema {version}, journal mode {journal_mode}"
    if version > SCHEMA_VERSION:
        return _failed("database", f"{found}; this edge-store knows up to {SCHEMA_VERSION}",
                       "install the edge-store that wrote it, or a newer one")  # fmt: skip
    if version < SCHEMA_VERSION:
        return _warning("database", f"{found}, not {SCHEMA_VERSION}",
                        "the next `edge-store serve` migrates it")  # fmt: skip
    if strange := altered(connection):
        names = ", ".join(map(str, strange))
        return _warning("database", f"{found}; missing, or not edge-store's own: {names}",
                        "the next `edge-store serve` makes it anew")  # fmt: skip
    if journal_mode != "wal":
        return _warning("database", found, "the next `edge-store serve` sets it to wal")
    return _ok("database", found)


def _check_device(found: str | None, wanted: str) -> Check:
    if found is None:
        return _warning("device", "none yet", "the first `edge-store serve` makes one")
    if wanted and wanted != found:
        return _failed("device", f"the database belongs to {found}, device.id is {wanted}",
                       "set device.id back, or use another store.path")  # fmt: skip
    return _ok("device", found)


def _check_restored_keys(connection: Connection) -> Iterator[Check]:
    """For a month after a restore, while there are live keys from before it."""
    revived = revived_keys(connection)
    if revived is None or now_ms() - revived.restored_at > DOUBT_MS:
        return
    found = f"{revived.live} live from before the restore of {rfc3339(revived.restored_at)}"
    yield _warning("keys", found, LOOK_AGAIN) if revived.live else _ok("keys", found)


def _check_pages(connection: Connection) -> Check:
    deadline = time.monotonic() + INTEGRITY_TIMEOUT_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
    try:
        answer = check_integrity(connection)
    except driver.OperationalError as exc:
        if exc.sqlite_errorcode != driver.SQLITE_INTERRUPT:
            raise
        return _warning("pages", f"not all were read within {INTEGRITY_TIMEOUT_S:g} s",
                        "restore the replica elsewhere: a restore checks every page")  # fmt: skip
    if answer != "ok":
        return _failed("pages", answer, RESTORE_HINT)
    return _ok("pages", "quick_check: ok")


def _check_space(path: Path, reserve: int) -> Check:
    free, level = Disk(path, reserve).measure()
    found = (
        f"{free} bytes free; store.disk_reserve_bytes = {reserve}, "
        f"below half of it ({reserve // 2}) requests are refused"
    )
    if level is not DiskLevel.OK:
        return _failed("disk", f"{found}; now {GIVEN_UP[level]}", "free space on that disk")
    if free < DISK_WARNING_FACTOR * reserve:
        return _warning("disk", found, "free space before something is given up for it")
    return _ok("disk", found)


def _check_flush(folder: Path) -> Check:
    """Time small writes at a file's end. On ext4 that is two flushes of the disk by fdatasync, too,
    as many as a COMMIT waits for: pysqlite3 flushes by fsync, which writes the WAL's time as well.
    """
    kind = _file_system(folder)
    if kind in MEMORY_FILE_SYSTEMS:
        return _warning("flush", f"{folder} is in memory ({kind})",
                        "put store.path on a disk: a power cut loses everything here")  # fmt: skip
    try:
        times = _flush_times(folder)
    except OSError as exc:
        return _warning("flush", f"not measured: {folder}: {exc.strerror}",
                        "run doctor as the user that the daemon runs as")  # fmt: skip
    median, p99 = statistics.median(times), times[round(0.99 * (len(times) - 1))]
    found = (
        f"{len(times)} writes of {PROBE_BYTES} bytes: "
        f"median {median:.2f} ms, p99 {p99:.2f} ms ({kind})"
    )
    if median > SLOW_FLUSH_MS:
        return _warning("flush", found, "each COMMIT waits for one: use a faster disk")
    return _ok("flush", found)


def _flush_times(folder: Path) -> list[float]:
    page = os.urandom(PROBE_BYTES)
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while len(times) < PROBE_WRITES and (not times or time.monotonic() < deadline):
            started = time.perf_counter()
            file.write(page)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


def _file_system(folder: Path) -> str:
    """The type of the file system that holds ``folder``, from /proc/self/mountinfo."""
    best, kind = "", "unknown"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return kind
    place = str(folder.resolve())
    for line in lines:  # 36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/sda1 rw
        head, _, tail = line.partition(" - ")
        point = head.split()[4].replace(r"\040", " ")
        if len(point) >= len(best) and f"{place}/".startswith(f"{point.rstrip('/')}/"):
            best, kind = point, tail.split()[0]
    return kind


def _check_engine(config: Config, daemon: dict[str, Any] | None) -> Iterator[Check]:
    if daemon is None:
        return
    engine = daemon.get("engine") or {}
    if engine.get("is_ready"):
        yield _ok("engine", f"{engine.get('kind')} {engine.get('version')}, ready")
    elif config.engine.kind is EngineKind.UPSTREAM:
        url = config.engine.upstream.base_url
        yield _failed("engine", f"the server at {url} does not answer, or is not ready",
                      "start it, or set engine.upstream.base_url to its address")  # fmt: skip
    else:
        yield _failed("engine", f"{engine.get('kind')} is not ready: it loads its model, or failed",
                      "the daemon's log says which: `journalctl -u edge-store`")  # fmt: skip


def _check_alarms(daemon: dict[str, Any] | None) -> Iterator[Check]:
    if daemon is None:
        return
    alarms = daemon.get("alarms", ())
    for alarm in alarms:
        since, seen = rfc3339(alarm["since"]), rfc3339(alarm.get("seen", alarm["since"]))
        found = f"{alarm['name']} since {since}, last seen {seen}: {alarm['message']}"
        yield _failed("alarm", found, "see Alarms in docs/operations.md")
    if not alarms:
        yield _ok("alarms", "none is raised")


def _check_replica(
    config: Config, path: Path, daemon: dict[str, Any] | None, problem: str | None
) -> Iterator[Check]:
    if not config.replica.enabled:
        yield _warning("replica", "off (replica.enabled)", "the results are on this disk only")
        return
    try:
        require_safe_path(path)
        location = parse_location(config.replica.url)
    except EdgeStoreError as exc:
        yield _failed("replica", str(exc), exc.hint)
        return
    try:
        is_same_disk = location.scheme is Scheme.FILE and _is_same_disk(location, path)
    except OSError as exc:
        yield _warning("replica-disk", f"{location} cannot be looked at: {exc.strerror}",
                       "run doctor as the user that the daemon runs as")  # fmt: skip
        is_same_disk = None
    if is_same_disk:
        yield _warning("replica-disk", f"{location} is on the database's own disk",
                       "set replica.url to another disk or an object store: "
                       "one failed disk takes both")  # fmt: skip
    elif is_same_disk is not None:
        yield _ok("replica-disk", f"{location}")
    try:
        read_credentials(location)
    except EdgeStoreError as exc:  # the daemon may have them from systemd
        yield _warning("replica-keys", f"not in this command's environment: {exc}", exc.hint)
    if daemon is None:
        yield _warning("replica", f"not known, this box's daemon does not answer: {problem}",
                       "start it: `edge-store serve`")  # fmt: skip
        return
    yield _judge_replica(daemon.get("replica") or {})


def _judge_replica(replica: dict[str, Any]) -> Check:
    state, lag_s, error = replica.get("state"), replica.get("lag_s"), replica.get("error")
    if not isinstance(lag_s, int | float):
        return _failed("replica", "the daemon runs without replication",
                       "restart it with this configuration")  # fmt: skip
    found = f"{state}, {lag_s:.1f} s behind" + (f": {error}" if error else "")
    advice = "check the address, the keys and the network; until then results are on this disk only"
    if lag_s > LAG_FAILURE_S:
        return _failed("replica", found, advice)
    if lag_s > LAG_WARNING_S:
        return _warning("replica", found, advice)
    return _ok("replica", found)


def _is_same_disk(location: Location, database: Path) -> bool:
    folder = Path(location.path)
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev == database.parent.stat().st_dev
