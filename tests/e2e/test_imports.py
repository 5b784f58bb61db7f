"""Imports by the commands: beside a daemon that answers, and from a real PostgreSQL."""

import asyncio
import json
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.daemon import Box, DaemonProcess, until
from support.exporting import box_of
from support.postgres import postgres

CREATED = datetime(2026, 5, 1, 10, tzinfo=UTC).replace(tzinfo=None)  # as the column has it
ARTICLE = """CREATE TABLE sglang_inference_results (
    id SERIAL PRIMARY KEY, request_id TEXT UNIQUE NOT NULL, model_name TEXT, prompt TEXT,
    output_data JSONB, generated_tokens INTEGER, latency_ms DOUBLE PRECISION,
    created_at TIMESTAMP DEFAULT now())"""
SPENT = """CREATE TABLE "LiteLLM_SpendLogs" (
    request_id TEXT PRIMARY KEY, call_type TEXT NOT NULL, spend DOUBLE PRECISION,
    prompt_tokens INTEGER, completion_tokens INTEGER, "startTime" TIMESTAMP(3),
    "endTime" TIMESTAMP(3), "completionStartTime" TIMESTAMP(3), model TEXT, messages JSONB,
    response JSONB, metadata JSONB)"""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def lines(tmp_path: Path, number: int) -> str:
    """The export of another box."""
    connection, _ = box_of(tmp_path / "other.db", number)
    connection.close()
    target = tmp_path / "all.jsonl"
    done = Box(tmp_path).run("export", "--db", str(tmp_path / "other.db"), "--bodies", str(target))
    assert done.returncode == 0, done.stderr
    return str(target)


def imported(box: Box, *arguments: str) -> dict[str, Any]:
    done = box.run("import", *arguments, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


def percents(box: Box) -> list[tuple[Any, ...]]:
    return box.rows("SELECT state, percent FROM completeness ORDER BY boot_no")


def test_an_import_beside_requests_is_the_daemons_own_and_all_is_counted(
    box: Box, tmp_path: Path
) -> None:
    source = lines(tmp_path, 300)
    answered: list[int] = []
    stopped = threading.Event()

    def ask(daemon: DaemonProcess) -> None:
        while not stopped.is_set():
            answered.append(daemon.chat("beside").status_code)

    with box.serve() as daemon:
        caller = threading.Thread(target=ask, args=(daemon,))
        caller.start()
        try:
            counts = imported(box, source)
            again = imported(box, source)
        finally:
            stopped.set()
            caller.join()
        assert (counts["taken"], again["taken"], again["known"]) == (300, 0, 300)
        assert daemon.stop() == 0
    assert set(answered) == {200}
    assert box.scalar("SELECT count(*) FROM results WHERE engine = 'import:demo'") == 300
    assert box.scalar("SELECT count(*) FROM results") == 300 + len(answered)
    assert box.scalar("SELECT count(*) FROM losses") == 0
    assert percents(box) == [("ended", 100.0)]
    box.proven()


def test_what_is_imported_is_redacted_as_what_is_recorded(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", PRIVACY__DETECTORS='["email"]')
    source = Path(lines(tmp_path, 3))
    some = [json.loads(line) for line in source.read_text().splitlines()]
    changed = json.dumps({**some[1], "digest": None}).replace("q2", "ann@example.com")
    source.write_text("\n".join([json.dumps(some[0]), changed, json.dumps(some[2])]))
    assert imported(box, str(source))["taken"] == 3
    prompts = box.rows("SELECT input_text, CAST(request_body AS TEXT) FROM requests ORDER BY seq")
    assert ["example.com" in "".join(row) for row in prompts] == [False] * 3
    assert "ann" not in prompts[1][0]
    assert "q3" in prompts[2][0]
    box.proven()


def test_the_pipelines_postgresql_becomes_results_once(box: Box) -> None:
    async def fill(url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(ARTICLE)
            await connection.execute(SPENT)
            await connection.executemany(
                "INSERT INTO sglang_inference_results (request_id, model_name, prompt, "
                "output_data, generated_tokens, latency_ms, created_at) "
                "VALUES ($1, 'qwen', $2, $3, $4, $5, $6)",
                [(f"r{n}", f"你好 {n}", json.dumps({"n": n}), n, n / 8, CREATED)
                 for n in range(300)],
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO sglang_inference_results (request_id, generated_tokens) "
                "VALUES ('odd', -1)"
            )
            await connection.execute(
                """INSERT INTO "LiteLLM_SpendLogs" VALUES ('s1', 'acompletion', 0.5, 3, 4,
                '2026-05-01 10:00:00.5', '2026-05-01 10:00:01', NULL, 'gpt',
                '[{"role": "user", "content": "hi"}]', '{"choices": [{"message": {"content": "ho"},
                "finish_reason": "stop"}]}', '{}')"""
            )
        finally:
            await connection.close()

    with postgres() as url:
        asyncio.run(fill(url))
        found = box.run("import", "--from", "postgres", url, "--config", str(box.directory))
        assert found.returncode == 1
        assert "row 301: its generated_tokens, '-1', is no number" in found.stderr
        assert json.loads(found.stdout)["taken"] == 300
        looked = imported(box, "--from", "litellm", url, "--dry-run")
        spent = imported(box, "--from", "litellm", url)
        assert (looked["taken"], spent["read"], spent["taken"]) == (1, 1, 1)
        named = ("--from", "postgres", "--table", "no", "--config", str(box.directory))
        absent = box.run("import", url, *named)
        assert (absent.returncode, '"no" does not exist' in absent.stderr) == (1, True)
    row = box.rows(
        "SELECT model_name, prompt, output_data, generated_tokens, latency_ms, created_at "
        "FROM sglang_inference_results WHERE generated_tokens = 5 ORDER BY 1 DESC")[0]  # fmt: skip
    assert row == ("qwen", "你好 5", '{"n": 5}', 5, 0.625, "2026-05-01T10:00:00.000Z")
    assert box.rows("SELECT prompt, output_data FROM sglang_inference_results "
                    "WHERE model_name = 'gpt'") == [("hi", "ho")]  # fmt: skip
    assert percents(box) == [("ended", 100.0)] * 2
    box.proven()


@pytest.mark.parametrize("is_served", [False, True])
@pytest.mark.parametrize("is_replicated", [False, True])
def test_an_import_that_is_cut_at_the_keyboard_tells_what_is_in_and_how_to_go_on(
    tmp_path: Path, *, is_served: bool, is_replicated: bool
) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED=str(is_replicated).lower())
    given = Path(lines(tmp_path, 300)).read_bytes().splitlines(keepends=True)
    with box.serve() if is_served else nullcontext():
        cut = importing(box, "-")
        assert cut.stdin is not None
        cut.stdin.write(b"{odd\n" + b"".join(given))
        cut.stdin.flush()
        until(lambda: box.scalar("SELECT count(*) FROM results") == 256, "the first batch is in")
        cut.send_signal(signal.SIGINT)
        out, err = (each.decode() for each in cut.communicate(timeout=60))
        assert cut.returncode == 130, err
        counts = json.loads(out)
        assert (counts["faults"], counts["refused"], counts["complete"]) == (1, 0, False)
        assert counts["taken"] in (0, 256), "the daemon may have committed, and not yet answered"
        assert 256 < counts["read"] <= 301
        left = counts["read"] - counts["taken"] - 1
        said = (
            f"edge-store: cut: {counts['taken']} taken, 0 here already, 0 deleted here before, "
            f"0 refused, 1 malformed, {left} read and not known to be in"
        )
        assert [line for line in err.splitlines() if line] == [
            "edge-store: line 1: it is not JSON: object keys must be strings (byte 1)",
            said,
            "  what was taken is in; the command given again goes on, and takes nothing twice",
            "aborted",
        ]
        if is_replicated:  # emptied at a close, the next start would upload the whole database
            assert box.database.with_name("results.db-wal").stat().st_size
        again = importing(box, "-")
        counts = json.loads(again.communicate(b"".join(given), timeout=60)[0])
        assert (counts["taken"], counts["known"], counts["complete"]) == (44, 256, True)
    assert box.proven().faults == ()


def test_an_import_that_is_terminated_tells_what_is_in(box: Box, tmp_path: Path) -> None:
    given = Path(lines(tmp_path, 300)).read_bytes()
    cut = importing(box, "-")
    assert cut.stdin is not None
    cut.stdin.write(given)
    cut.stdin.flush()
    until(lambda: box.scalar("SELECT count(*) FROM results") == 256, "the first batch is in")
    cut.send_signal(signal.SIGTERM)
    out, err = (each.decode() for each in cut.communicate(timeout=30))
    assert cut.returncode == 143, err
    counts = json.loads(out)
    assert (counts["taken"], counts["complete"]) == (256, False)
    assert "  what was taken is in; the command given again goes on, and takes nothing twice" in err
    assert err.endswith("terminated\n")
    assert box.rows("SELECT state FROM completeness") == [("ended",)]


@pytest.mark.parametrize(("into", "exit_code"), [("| true", 141), ("> /dev/full", 1)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_import_whose_output_nobody_takes_leaves_the_wal_to_litestream(
    tmp_path: Path, into: str, exit_code: int, unbuffered: str
) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    source = lines(tmp_path, 3)
    command = f"set -o pipefail; {shlex.join(importing_of(box, source))} {into}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False,
        timeout=60, env={**box.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert box.database.with_name("results.db-wal").stat().st_size
    assert box.scalar("SELECT count(*) FROM results") == 3


IN_THE_WAY = """
import os, sys
from pathlib import Path
from edge_store.sqlite import open_writer
connection = open_writer(Path(sys.argv[1]))
connection.executescript("DROP INDEX deletions_forgotten; CREATE TABLE deletions_forgotten (x)")
os._exit(0)
"""


def test_an_import_that_fails_before_it_begins_leaves_the_wal_to_litestream(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    wal, command = box.database.with_name("results.db-wal"), importing_of(box, lines(tmp_path, 3))
    subprocess.run(command, env=box.environ, check=True, timeout=60)
    made = [sys.executable, "-c", IN_THE_WAY, str(box.database)]  # by an operator, say
    subprocess.run(made, env=box.environ, check=True, timeout=60)
    before = wal.read_bytes()
    assert before
    done = subprocess.run(
        command, env=box.environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "the database cannot be prepared" in done.stderr
    assert wal.read_bytes() == before
    assert box.scalar("SELECT count(*) FROM results") == 3


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_why_an_import_ended_is_said_where_its_output_takes_nothing(
    box: Box, tmp_path: Path, unbuffered: str
) -> None:
    source = Path(lines(tmp_path, 3))
    source.write_bytes(source.read_bytes() + b"{odd\n")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*importing_of(box, str(source)), "--faults-max", "0"], stdout=full,
            stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env={**box.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 1
    odd = "it is not JSON: object keys must be strings (byte 1)"
    counts = "3 taken, 0 here already, 0 deleted here before, 0 refused, 1 malformed"
    assert done.stderr.splitlines() == [
        f"edge-store: line 4: {odd}",
        f"edge-store: cut: {counts}, 0 read and not known to be in",
        "  what was taken is in",
        f"edge-store: 1 line is malformed, and --faults-max is 0; the last one is line 4: {odd}",
        "  is it the right --from? --faults-max lets more of them pass",
        "edge-store: standard output: No space left on device",
    ]


def importing_of(box: Box, source: str) -> list[str]:
    return [sys.executable, "-m", "edge_store", "import", source, "--config", str(box.directory)]


def importing(box: Box, source: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        importing_of(box, source), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=box.environ,
    )  # fmt: skip
