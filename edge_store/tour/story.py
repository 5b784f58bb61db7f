"""What the tour does, in order, and what must hold after each step.

A step that does not hold, or that fails, is the last one. ``say`` gets everything for the reader's
eyes: the commands are those that a person in the same folder would type.
"""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_store.chain import ChainCheck, verify_chain
from edge_store.errors import EdgeStoreError
from edge_store.fleet.copies import copy_path
from edge_store.ids import DeviceId
from edge_store.query import QueryResult, run_query
from edge_store.result import JsonState, Record
from edge_store.sql import sql
from edge_store.sqlite import check_integrity, open_reader
from edge_store.tour.clients import MODEL, Answer, Load, asked, connect, load_until
from edge_store.tour.processes import (
    Daemon,
    Process,
    accepts,
    clean_environment,
    free_port,
    run_edge_store,
    start_store,
)

__all__ = ["Kind", "Say", "Step", "run_tour"]

DEVICE = DeviceId("demo-box")
BUCKET = "edge"
KEYS = ("demo", "demo-secret-of-this-tour")  # of a store that lives on loopback, for seconds
CLIENTS = 16
LOAD_S = 2.0
TOKEN_DELAYS_MS = range(1, 9)  # an answer takes 0.05 to 0.4 s; clients do not march in step
ROWS_MAX = 100_000
QUERY_TIMEOUT_S = 10.0
INDENT = 2

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "degrees": {"type": "integer", "minimum": -60, "maximum": 60},
        "sky": {"enum": ["clear", "cloudy", "rain"]},
    },
    "required": ["city", "degrees", "sky"],
    "additionalProperties": False,
}
AS_JSON: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "weather", "schema": WEATHER},
}


class Kind(StrEnum):
    """What a line for the reader is."""

    STEP = "step"
    SHELL = "shell"
    PYTHON = "python"
    OUTPUT = "output"


Say = Callable[[Kind, str], None]


class Step(Record, frozen=True, kw_only=True):
    """One row of the final table."""

    name: str
    figure: str
    holds: bool


class Proof(Record, frozen=True, kw_only=True):
    """A database file as it was checked: every page, every digest."""

    integrity: str
    chain: ChainCheck

    @property
    def holds(self) -> bool:
        return self.integrity == "ok" and not self.chain.faults


def run_tour(folder: Path, rclone: str, say: Say) -> list[Step]:
    """Give the tour in ``folder``, which must be empty. Its processes are gone when this returns.

    The last step says what did not hold, if anything did not.
    """
    steps: list[Step] = []
    with ExitStack() as processes:
        tour = Tour(folder, rclone, say, processes)
        for title, name, act in (
            ("An object store (S3, on loopback)", "object store is up", tour.start_store),
            ("A box: configuration, database, device id", "box is set up", tour.init_box),
            ("The daemon", "daemon is ready", tour.start_daemon),
            (
                "Requests through the unmodified openai SDK",
                "answers are committed as the SDK saw them",
                tour.ask,
            ),
            (
                f"SIGKILL while {CLIENTS} clients are asking",
                "daemon is killed under load",
                tour.kill_under_load,
            ),
            ("The same daemon again", "daemon is ready again", tour.start_daemon),
            (
                "Is every acknowledged answer there?",
                "nothing acknowledged is missing",
                tour.compare,
            ),
            (
                "Is every admitted request accounted for?",
                "every admitted request is accounted for",
                tour.account,
            ),
            ("A clean stop", "last commits are replicated at a stop", tour.stop_daemon),
            ("The centre pulls the replica", "centre has every result of the box", tour.pull),
            ("Has anyone changed the copy?", "digest chain of the copy holds", tour.verify),
        ):
            say(Kind.STEP, f"{len(steps) + 1}. {title}")
            try:
                figure, holds = act()
            except EdgeStoreError as exc:
                figure, holds = str(exc), False
            steps.append(Step(name=name, figure=figure, holds=holds))
            if not holds:
                tour.show_logs()
                break
    return steps


class Tour:
    """The processes and what has been acknowledged so far. Each act returns a figure, and whether
    its step holds.
    """

    def __init__(self, folder: Path, rclone: str, say: Say, processes: ExitStack) -> None:
        self._folder = folder
        self._database = folder / "box" / "results.db"
        self._copy = copy_path(folder / "fleet", DEVICE)
        self._rclone = rclone
        self._say = say
        self._processes = processes
        self._started: list[Process] = []
        self._store_port, self._port = free_port(), free_port()
        self._url = f"s3://{BUCKET}/fleet?endpoint=http://127.0.0.1:{self._store_port}"
        self._settings = {
            "AWS_ACCESS_KEY_ID": KEYS[0],
            "AWS_SECRET_ACCESS_KEY": KEYS[1],
            "EDGE_STORE_SERVER__PORT": str(self._port),
            "EDGE_STORE_REPLICA__URL": self._url,
            # A store without conditions lets who was slow at its claim wait for three times that.
            "EDGE_STORE_REPLICA__OWNER_CHECK_S": "1",
        }
        columns = shutil.get_terminal_size().columns - INDENT
        self._environ = clean_environment(**self._settings, COLUMNS=str(columns))
        self._acknowledged: list[Answer] = []
        self._load = Load(acknowledged=(), unanswered=0)

    def start_store(self) -> tuple[str, bool]:
        """Start the S3 server with one bucket."""
        (self._folder / "store" / BUCKET).mkdir(parents=True)
        self._shell(f"cd {self._folder}")
        self._shell(f"mkdir -p store/{BUCKET}")
        keys = ",".join(KEYS)
        self._shell(
            f"rclone serve s3 --addr 127.0.0.1:{self._store_port} --auth-key {keys} store &"
        )
        store = start_store(self._rclone, self._store_port, keys, folder=self._folder)
        self._enter(store)
        store.wait_until(lambda: accepts(self._store_port))
        return f"127.0.0.1:{self._store_port}", True

    def init_box(self) -> tuple[str, bool]:
        """Make the box by the command."""
        for name, value in self._settings.items():
            self._shell(f"export {name}={shlex.quote(value)}")
        self._command("init", "box", "--engine", "demo", "--device-id", DEVICE)
        return str(self._database.relative_to(self._folder)), self._database.exists()

    def start_daemon(self) -> tuple[str, bool]:
        """Start the daemon and wait until it is ready."""
        self._shell("edge-store serve --config box &")
        self._daemon = Daemon(self._port, folder=self._folder, environ=self._environ)
        self._enter(self._daemon)
        seconds = self._daemon.wait_ready()
        self._output(f"process {self._daemon.process_id} answers on {self._daemon.url}/v1")
        return f"{seconds:.1f} s", True

    def ask(self) -> tuple[str, bool]:
        """Four requests, and how each is stored."""
        self._say(
            Kind.PYTHON, f"client = openai.OpenAI(base_url='{self._daemon.url}/v1', api_key='none')"
        )
        weather = "What is the weather in Turin?"
        with connect(self._daemon.url) as client:

            def ask(prompt: str, shown: str = "", **fields: Any) -> Answer:
                messages = [{"role": "user", "content": prompt}]
                call = f"client.chat.completions.create(model={MODEL!r}, messages={messages}"
                self._say(Kind.PYTHON, f"{call}{shown})")
                answer = asked(client, prompt, **fields)
                self._output(answer.text)
                self._output(f"id {answer.id}, durability: {answer.durability}")
                return answer

            self._say(Kind.PYTHON, f"weather = {AS_JSON}")
            schema = ", response_format=weather"
            plain = ask("What is an outbox?")
            streamed = ask("Tell me a story.", ", stream=True", stream=True)
            valid = ask(weather, schema, response_format=AS_JSON)
            broken = ask(f"[demo:broken-json] {weather}", schema, response_format=AS_JSON)
        answers = [plain, streamed, valid, broken]
        self._acknowledged += answers
        self._show("tour_answers")
        stored = {row[0]: row[1:] for row in self._rows("tour_stored").rows}
        return _verdict(
            "plain, streamed, JSON valid, JSON repaired",
            {
                "a body says committed": plain.durability == "committed",
                "a stream says on-end": streamed.durability == "on-end",
                "broken JSON reaches the client as it is": not _is_json(broken.text),
                "stored as seen": all(stored.get(a.id, ("",))[0] == a.text for a in answers),
                "good JSON is valid": stored.get(valid.id, ())[1:] == (JsonState.VALID, 1),
                "broken JSON is repaired": stored.get(broken.id, ())[1:] == (JsonState.REPAIRED, 1),
            },
        )

    def kill_under_load(self) -> tuple[str, bool]:
        """Many clients for a while, then no daemon."""
        self._output(f"{CLIENTS} clients ask for {LOAD_S:g} s, half of them streamed …")

        def kill() -> None:
            self._shell(f"kill -KILL {self._daemon.process_id}")
            self._daemon.kill()

        self._load = load_until(
            self._daemon.url, clients=CLIENTS, seconds=LOAD_S, delays_ms=TOKEN_DELAYS_MS, end=kill
        )
        acknowledged = len(self._load.acknowledged)
        self._acknowledged += self._load.acknowledged
        self._output(
            f"{acknowledged} answers were acknowledged; {self._load.unanswered} clients waited "
            "for one when it died"
        )
        figure = f"{acknowledged} acknowledged, {self._load.unanswered} in flight"
        return figure, acknowledged > 0 and self._load.unanswered > 0

    def compare(self) -> tuple[str, bool]:
        """Acknowledged ⊆ stored, with equal texts."""
        stored = {row[0]: row[1] for row in self._rows("tour_stored").rows}
        missing = [a.id for a in self._acknowledged if a.id not in stored]
        changed = [a.id for a in self._acknowledged if a.id in stored and stored[a.id] != a.text]
        for what, ids in (("missing", missing), ("other text", changed)):
            for result_id in ids[:10]:
                self._output(f"{what}: {result_id}")
        figure = f"{len(self._acknowledged)} acknowledged, {len(missing)} missing"
        figure += f", {len(changed)} changed" if changed else ""
        self._output(f"{figure}; {len(stored)} answers are stored")
        return figure, not missing and not changed

    def account(self) -> tuple[str, bool]:
        """The completeness of the boot that was killed."""
        self._show("tour_completeness")
        result = self._rows("tour_completeness")
        killed, *_after = (dict(zip(result.columns, row, strict=True)) for row in result.rows)
        admitted, completed = killed["admitted"], killed["completed"]
        interrupted = killed["interrupted"]
        unseen = completed - len(self._acknowledged)  # committed, but their callers had no end
        unmarked = self._load.unanswered - interrupted - unseen
        self._output(
            f"of {self._load.unanswered} in flight: {interrupted} counted as interrupted, {unseen} "
            f"committed unseen, {unmarked} came after the last mark (column unknown_after)"
        )
        return _verdict(
            f"{admitted} admitted = {completed} completed + {interrupted} interrupted",
            {
                "the killed boot is interrupted": killed["state"] == "interrupted",
                f"{admitted} = {completed} + {interrupted}": admitted == completed + interrupted,
                "every acknowledged answer is counted": unseen >= 0,
                "only requests in flight are interrupted": unmarked >= 0,
            },
        )

    def stop_daemon(self) -> tuple[str, bool]:
        """Stop it as systemd would."""
        self._shell(f"kill -TERM {self._daemon.process_id}")
        began = time.monotonic()
        code = self._daemon.stop()
        return f"exit {code} after {time.monotonic() - began:.1f} s", code == 0

    def pull(self) -> tuple[str, bool]:
        """Fetch the box's replica as the centre would, and ask across the fleet."""
        self._command("fleet", "pull", "--from", self._url, "--into", "fleet")
        self._command("fleet", "query", _one_line("tour_fleet"), "--in", "fleet", "--table")
        here = len(self._rows("tour_stored").rows)
        there = len(self._rows("tour_stored", self._copy).rows)
        return f"{there} of {here} completed", here == there > 0

    def verify(self) -> tuple[str, bool]:
        """Recompute every digest of the copy, and compare its end with the box's."""
        box, copy = self._proof(self._database), self._proof(self._copy)
        for fault in copy.chain.faults:
            self._output(fault)
        is_same = box.chain.newest_digest == copy.chain.newest_digest
        self._output(f"the box ends with {box.chain.newest_digest.hex()}")
        self._output(f"the copy    with {copy.chain.newest_digest.hex()}")
        return _verdict(
            f"{copy.chain.commits} commits, {copy.chain.results} results",
            {
                "the box's own file holds": box.holds,
                "the copy holds": copy.holds,
                "both end with the same digest": is_same,
            },
        )

    def show_logs(self) -> None:
        """The end of what the daemon wrote, or of the store before there was one."""
        for process in self._started[-1:]:
            self._say(Kind.STEP, f"The last lines of {process.log_path}")
            for line in process.log_tail():
                self._output(line)

    def _enter(self, process: Process) -> None:
        self._started.append(self._processes.enter_context(process))

    def _shell(self, text: str) -> None:
        self._say(Kind.SHELL, text)

    def _output(self, text: str) -> None:
        self._say(Kind.OUTPUT, text)

    def _command(self, *arguments: str) -> None:
        self._shell(f"edge-store {shlex.join(arguments)}")
        printed = run_edge_store(arguments, folder=self._folder, environ=self._environ)
        for line in printed.splitlines():
            self._output(line)

    def _show(self, name: str) -> None:
        self._command("query", _one_line(name), "--config", "box", "--table")

    def _rows(self, name: str, database: Path | None = None) -> QueryResult:
        """The same question, for the check."""
        reader = open_reader(database or self._database)
        try:
            return run_query(reader, sql(name), rows_max=ROWS_MAX, timeout_s=QUERY_TIMEOUT_S)
        finally:
            reader.close()

    def _proof(self, database: Path) -> Proof:
        reader = open_reader(database)
        try:
            reader.execute("BEGIN")
            integrity = check_integrity(reader, full=True)
            return Proof(integrity=integrity, chain=verify_chain(reader))
        finally:
            reader.close()


def _verdict(figure: str, claims: Mapping[str, bool]) -> tuple[str, bool]:
    """The figure if every claim holds, else those that do not."""
    wrong = [claim for claim, holds in claims.items() if not holds]
    return (f"not so: {'; '.join(wrong)}", False) if wrong else (figure, True)


def _one_line(name: str) -> str:
    return " ".join(sql(name).split())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
