"""What is in a support bundle: each part is a function that reads, and may fail alone.

Nothing here reads a prompt, an answer, a body or metadata. Of the log only what is known to be of
our own making is taken: events, codes, numbers.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edge_store import __version__
from edge_store.config import (
    Config,
    Loaded,
    StoreSection,
    config_path,
    load,
    shown_settings,
    variables_of_settings,
)
from edge_store.doctor import check_box, check_machine, check_store
from edge_store.errors import ConfigError, EdgeStoreError, StoreError
from edge_store.query import run_query
from edge_store.replica.litestream import find_litestream
from edge_store.result import Check, CheckState
from edge_store.sinks.orders import names_of, standing_of
from edge_store.sql import sql
from edge_store.sqlite import driver, open_reader
from edge_store.status import read_metrics, read_status, require_daemon
from edge_store.support.broken import database_of, text_of
from edge_store.support.settings import form_of, in_sizes, own_texts_in_sizes

__all__ = ["PARTS", "Subject"]

PROGRAM_TIMEOUT_S = 20.0
ROWS_MAX = 10_000
QUERY_TIMEOUT_S = 20.0
LOG_LINES = 2000
LOG_BYTES_MAX = 2 * 1024 * 1024
FILES_MAX = 100_000
# What a line of the log may keep as a text, where it is one word; of the rest numbers and booleans
# are kept. Frames of an exception are kept without its message.
LOG_TEXTS = (
    "event", "level", "timestamp", "code", "logger", "room", "sink", "alarm", "status", "state",
    "version", "engine", "boot_id", "device_id", "verb", "kind", "cause", "txid",
)  # fmt: skip
NOT_LOOKED_FOR = (
    "not looked for: the settings cannot be read, and there is no database where they name one, "
    "where an installed box has it, or beside them"
)
OF_VARIABLES = (
    "A variable is at fault, not the file: everything here is told as if it were not set."
)
WORD = re.compile(r"[\w.:+-]{1,80}", re.ASCII)
FRAME = re.compile(r'^ *File "[^"]*", line \d+, in \S+|^[\w.]+(?=:|$)', re.MULTILINE | re.ASCII)
OURS = (
    "results.db",
    "search.db",
    "edge-store",
    "litestream",
    "replica",
    "files",
    "alerts",
    "drill",
)


class Subject(NamedTuple):
    """Which box, and the unit that its daemon logs under. ``fault``: why the settings cannot be
    read; ``broken``: the text of the file then. ``loaded`` are the defaults then, with the database
    where it was found, or those of the file alone where the ``variables`` are at fault.
    ``redact``: without names.
    """

    loaded: Loaded
    unit: str
    redact: bool = False
    fault: str = ""
    broken: str = ""
    variables: tuple[str, ...] = ()
    is_store_known: bool = True

    @classmethod
    def found(cls, flag: str | None, unit: str, *, redact: bool) -> "Subject":
        """By ``--config``, also where the file that it names is broken.

        Raises:
            ConfigError: there is no such file.
        """
        try:
            return cls(load(flag), unit, redact)
        except ConfigError as exc:
            path = config_path(flag)
            if path is None:
                raise
            fault = exc.bare or "its settings cannot be read"
            if with_others := _without_faulty_variables(flag):
                loaded, variables = with_others
                return cls(loaded, unit, redact, fault, variables=variables)
            text = text_of(path)
            database = database_of(path, text)
            config = Config(store=StoreSection(path=str(database))) if database else Config()
            loaded = Loaded(config=config.resolved(path.parent), path=path, origins={})
            return cls(loaded, unit, redact, fault, text, is_store_known=database is not None)

    def require_settings(self) -> None:
        """Raises ``ConfigError``: there are none that can be read."""
        if self.fault and not self.variables:
            raise ConfigError(self.fault)

    @property
    def database(self) -> Path:
        """Raises ``StoreError``: nobody knows where it is."""
        if not self.is_store_known:
            raise StoreError(NOT_LOOKED_FOR)
        return Path(self.loaded.config.store.path)


def _without_faulty_variables(
    flag: str | None, environ: Mapping[str, str] = os.environ
) -> tuple[Loaded, tuple[str, ...]] | None:
    """The settings without the variables that are at fault, and these: one of them, else all. None:
    it is not for them that the settings cannot be read.
    """
    names = variables_of_settings(environ)
    for faulty in (*((name,) for name in names), names):
        with suppress(ConfigError):
            rest = {name: value for name, value in environ.items() if name not in faulty}
            return load(flag, environ=rest), faulty
    return None


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=1).decode() + "\n"


def versions(_subject: Subject) -> str:
    """Of us, of Python, of the programs and the packages."""
    try:
        litestream = find_litestream().version
    except EdgeStoreError as exc:
        litestream = str(exc)
    packages = {each.name: each.version for each in importlib.metadata.distributions()}
    return _json({
        "edge_store": __version__,
        "python": sys.version,
        "sqlite": f"{driver.sqlite_version} ({driver.__name__})",
        "litestream": litestream,
        "packages": dict(sorted(packages.items())),
    })  # fmt: skip


def machine(subject: Subject) -> str:
    """Kernel, processors, memory, disk."""
    disk = shutil.disk_usage(subject.database.parent) if subject.is_store_known else None
    wanted = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return _json({
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "kernel": platform.version(),
        "libc": " ".join(platform.libc_ver()),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "memory": [line for line in memory if line.startswith(wanted)],
        "disk": {"total": disk.total, "free": disk.free} if disk else NOT_LOOKED_FOR,
    })  # fmt: skip


def gpu(_subject: Subject) -> str:
    """What nvidia-smi says."""
    columns = "name,driver_version,memory.total,memory.used,utilization.gpu,temperature.gpu,pstate"
    return _said("nvidia-smi", f"--query-gpu={columns}", "--format=csv")


def doctor(subject: Subject) -> str:
    """``edge-store doctor``."""
    config = subject.loaded.config
    if not subject.fault:
        return _json([*check_machine(config), *check_box(config)])
    failed = Check(name="config", state=CheckState.FAILED, found=subject.fault)
    if subject.variables:
        return _json([failed, *check_machine(config), *check_box(config)])
    if not subject.is_store_known:
        nowhere = Check(name="database", state=CheckState.WARNING, found=NOT_LOOKED_FOR)
        return _json([failed, *check_machine(None), nowhere])
    reserve = config.store.disk_reserve_bytes
    return _json([failed, *check_machine(None), *check_store(subject.database, "", reserve)])


def status(subject: Subject) -> str:
    """``edge-store status``: /readyz with the alarms and the replica, and what is stored."""
    subject.require_settings()
    return _json(read_status(subject.loaded.config))


def config(subject: Subject) -> str:
    """``edge-store config show``: every setting, where it was set; secrets are hidden."""
    subject.require_settings()
    shown = shown_settings(subject.loaded)
    return _json([(in_sizes(each) if subject.redact else each)._asdict() for each in shown])


def broken_file(subject: Subject) -> str:
    """Why the settings cannot be read; of a file at fault names, and the form of what is set."""
    if not subject.fault:
        return ""
    if subject.variables:
        return f"{subject.fault}\n\n{OF_VARIABLES}\n"
    return f"{subject.fault}\n\n{form_of(subject.broken)}"


def metrics(subject: Subject) -> str:
    """``GET /metrics``."""
    subject.require_settings()
    require_daemon(subject.loaded.config)
    return read_metrics(subject.loaded.config.server).decode(errors="replace")


def completeness(subject: Subject) -> str:
    """Of each boot: what was admitted and what became of it."""
    return _rows(subject, "select_completeness")


def schema(subject: Subject) -> str:
    """Tables, views and indexes, the operator's too."""
    found = _found(subject, "select_whole_schema")
    if subject.redact:
        found = [{**row, "sql": own_texts_in_sizes(row["sql"])} for row in found]
    return _json(found)


def counts(subject: Subject) -> str:
    """Rows of each table of ours."""
    with closing(open_reader(subject.database)) as connection:
        tables = [name for name, kind, _ in connection.execute(sql("select_relations"))
                  if kind == "table"]  # fmt: skip
        found = {}
        for table in tables:
            statement = sql("count_rows").replace("sqlite_schema", f'"{table}"')
            result = run_query(connection, statement, rows_max=1, timeout_s=QUERY_TIMEOUT_S)
            found[table] = result.rows[0][0]
    return _json(found)


def sizes(subject: Subject) -> str:
    """Of the files of ours beside the database; of others together."""
    found: dict[str, int] = {}
    for path in subject.database.parent.iterdir():
        name = path.name if path.name.lstrip(".").startswith(OURS) else "(others)"
        found[name] = found.get(name, 0) + _bytes_of(path)
    return _json(found)


def _bytes_of(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    each = (file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return sum(islice(each, FILES_MAX))


def sinks(subject: Subject) -> str:
    """How far each is, without its dead letters."""
    with closing(open_reader(subject.database)) as connection:
        return _json([standing_of(connection, name) for name in names_of(connection)])


def log(subject: Subject) -> str:
    """The last lines of the journal: events, codes and numbers."""
    text = _said(
        "journalctl", "--unit", subject.unit, "--lines", str(LOG_LINES), "--output", "cat",
        "--no-pager",
    )  # fmt: skip
    lines = [_without_texts(line) for line in text.splitlines()]
    kept = "".join(line for line in lines if line)
    left_out = sum(not line for line in lines)
    return f"{kept[-LOG_BYTES_MAX:]}({left_out} lines that are no event were left out)\n"


def _without_texts(line: str) -> str:
    """An event with what may be kept of it; empty for what is none."""
    start = line.find("{")
    try:
        event = msgspec.json.decode(line[start:], type=dict[str, Any]) if start >= 0 else {}
    except msgspec.DecodeError:
        return ""
    kept: dict[str, Any] = {}
    for name, value in event.items():
        is_word = isinstance(value, str) and name in LOG_TEXTS and WORD.fullmatch(value)
        if is_word or isinstance(value, bool | int | float):
            kept[name] = value
    if "event" in event:
        kept.setdefault("event", "(a text)")  # of a library
    if isinstance(event.get("exception"), str):
        kept["exception"] = FRAME.findall(event["exception"])
    return msgspec.json.encode(kept).decode() + "\n" if kept else ""


def _said(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=PROGRAM_TIMEOUT_S,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise OSError(f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _rows(subject: Subject, block: str) -> str:
    return _json(_found(subject, block))


def _found(subject: Subject, block: str) -> list[dict[str, Any]]:
    with closing(open_reader(subject.database)) as connection:
        found = run_query(connection, sql(block), rows_max=ROWS_MAX, timeout_s=QUERY_TIMEOUT_S)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


PARTS: dict[str, Callable[[Subject], str]] = {
    "versions.json": versions,
    "machine.json": machine,
    "gpu.csv": gpu,
    "doctor.json": doctor,
    "status.json": status,
    "config.json": config,
    "config-form.txt": broken_file,
    "completeness.json": completeness,
    "schema.json": schema,
    "rows.json": counts,
    "sizes.json": sizes,
    "sinks.json": sinks,
    "metrics.txt": metrics,
    "log.jsonl": log,
}
