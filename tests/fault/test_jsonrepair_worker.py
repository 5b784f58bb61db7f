"""The worker processes under real hostile texts, real limits and real kills."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from edge_store.config import RepairSection
from edge_store.jsonrepair import Assessed, JsonWorkers, Wanted
from edge_store.result import JsonState

pytestmark = pytest.mark.alone

MIB = 1 << 20
SLACK_S = 60.0  # for a start or an exit on a busy machine; nothing here waits for it to pass
UNCLOSED_STRING = '{"a": "' + "x" * (MIB - 8)  # json-repair needs more than 15 s
HOSTILE = [
    UNCLOSED_STRING,
    "{" + "key:" * 25_000,
    '{"' * 50_000,
    '[{"a": 1, "b": "two"},' * 47_000,
    "[" * 100_000,
    "{a:" * 1_000,
]


def wanted(text: str, schema: str | None = None) -> Wanted:
    return Wanted(text=text, schema=schema, is_truncated=False)


REPAIRABLE = wanted('{"a": 1,}')


def assert_repairs(found: Assessed) -> None:
    assert (found.json_state, found.output_json) == (JsonState.REPAIRED, '{"a": 1}')


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SLACK_S):
        while not condition():  # noqa: ASYNC110  (the event is in /proc)
            await asyncio.sleep(0.01)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def descriptors(pid: int) -> set[str]:
    return {entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()}


async def begin_hostile(workers: JsonWorkers) -> tuple[asyncio.Task[Assessed], int]:
    """A task that waits for a hostile text, and the process that is deep inside it."""
    assert_repairs(await workers.assess(REPAIRABLE))  # so it has started
    (pid,) = workers.pids
    before = cpu_ticks(pid)
    task = asyncio.create_task(workers.assess(wanted(UNCLOSED_STRING)))
    await until(lambda: cpu_ticks(pid) >= before + 10)
    return task, pid


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
async def test_hostile_text_has_an_outcome_by_the_deadline(text: str) -> None:
    config = RepairSection(deadline_s=1.5)
    async with JsonWorkers(config) as workers:
        assert_repairs(await workers.assess(REPAIRABLE))
        started = time.monotonic()
        found = await workers.assess(wanted(text))
        assert time.monotonic() - started < config.deadline_s + 10.0  # what it takes is 15 s
        assert found.json_state in (JsonState.INVALID, JsonState.REPAIRED)
        assert_repairs(await workers.assess(REPAIRABLE))


async def test_a_worker_past_its_deadline_is_killed_and_replaced() -> None:
    async with JsonWorkers(RepairSection(deadline_s=1.5)) as workers:
        assert_repairs(await workers.assess(REPAIRABLE))
        (before,) = workers.pids
        found = await workers.assess(wanted(UNCLOSED_STRING))
        assert found.json_state is JsonState.INVALID
        assert found.repair_log == "killed: it took longer than repair.deadline_s = 1.5"
        (after,) = workers.pids
        assert after != before
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)
        assert_repairs(await workers.assess(REPAIRABLE))


async def test_the_loop_stays_responsive_while_a_hostile_text_is_repaired() -> None:
    lags = []
    async with JsonWorkers(RepairSection(deadline_s=5.0)) as workers:
        task, _ = await begin_hostile(workers)
        while not task.done():
            started = time.monotonic()
            await asyncio.sleep(0.005)
            lags.append(time.monotonic() - started - 0.005)
        assert (await task).json_state is JsonState.INVALID
    assert len(lags) > 20
    assert max(lags) < 2.5, "one 1 MB repair on the loop would have held it for the whole 5 s"


async def test_a_hostile_schema_leaves_the_json_valid() -> None:
    text = '"' + "a" * 40 + '!"'
    async with JsonWorkers(RepairSection(deadline_s=1.5)) as workers:
        for answer in (text, f"Here it is:\n```\n{text}\n```"):
            found = await workers.assess(wanted(answer, '{"pattern": "^(a+)+$"}'))
            assert found.output_json == text
            assert found.schema_valid is None
            assert found.schema_error is not None
            assert "deadline_s" in found.schema_error


async def test_an_answer_beyond_the_memory_limit_is_invalid_and_the_next_is_not() -> None:
    config = RepairSection(memory_bytes_max=64 * MIB, deadline_s=SLACK_S)
    async with JsonWorkers(config) as workers:
        found = await workers.assess(wanted("[" + "0.5," * (2 * MIB) + "0]"))
        assert found.json_state is JsonState.INVALID
        assert found.repair_log is not None
        assert "repair.memory_bytes_max = 67108864" in found.repair_log
        assert_repairs(await workers.assess(REPAIRABLE))


async def test_a_large_valid_document_is_valid() -> None:
    text = "[" + "0.5," * (2 * MIB) + "0]"
    async with JsonWorkers(RepairSection(deadline_s=SLACK_S)) as workers:
        found = await workers.assess(wanted(text))
        assert found.json_state is JsonState.VALID
        assert found.output_json == text


async def test_a_worker_killed_amid_an_answer_costs_that_answer_only() -> None:
    async with JsonWorkers(RepairSection(deadline_s=60.0)) as workers:
        task, pid = await begin_hostile(workers)
        os.kill(pid, signal.SIGKILL)
        found = await task
        assert found.json_state is JsonState.INVALID
        assert found.repair_log == "the repair worker died (exit status -9)"
        assert_repairs(await workers.assess(REPAIRABLE))


async def test_a_worker_killed_while_idle_costs_nothing() -> None:
    async with JsonWorkers(RepairSection(deadline_s=SLACK_S)) as workers:
        assert_repairs(await workers.assess(REPAIRABLE))
        os.kill(workers.pids[0], signal.SIGKILL)
        await until(lambda: not workers.pids)
        assert_repairs(await workers.assess(REPAIRABLE))


async def test_a_cancelled_caller_frees_its_worker() -> None:
    async with JsonWorkers(RepairSection(deadline_s=60.0)) as workers:
        task, pid = await begin_hostile(workers)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert_repairs(await workers.assess(REPAIRABLE))
        assert pid not in workers.pids


async def test_callers_are_served_in_order_and_each_gets_its_own_answer() -> None:
    done: list[int] = []

    async def ask(number: int) -> None:
        found = await workers.assess(wanted(f"[{number}, {number},"))
        assert found.output_json == f"[{number}, {number}]"
        done.append(number)

    async with JsonWorkers(RepairSection(deadline_s=SLACK_S)) as workers:
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(ask(number))
        assert done == list(range(50))


async def test_a_caller_behind_hostile_texts_waits_a_bounded_time() -> None:
    async with JsonWorkers(RepairSection(deadline_s=0.05)) as workers:
        hostile = wanted(UNCLOSED_STRING)
        async with asyncio.timeout(60.0):
            found = await asyncio.gather(*(workers.assess(hostile) for _ in range(40)))
    logs = [one.repair_log or "" for one in found]
    assert all(one.json_state is JsonState.INVALID for one in found)
    assert any("came free in 0.75 s" in log for log in logs)


async def test_closing_ends_busy_workers_and_does_not_wait_for_them() -> None:
    async with JsonWorkers(RepairSection(deadline_s=60.0)) as workers:
        task, pid = await begin_hostile(workers)
        started = time.monotonic()
    assert time.monotonic() - started < 10.0  # what it is at takes 15 s
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (await task).json_state is JsonState.INVALID
    assert workers.pids == ()


async def test_an_interpreter_that_is_missing_makes_answers_invalid_not_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    async with JsonWorkers(RepairSection()) as workers:
        found = await workers.assess(REPAIRABLE)
        assert found.json_state is JsonState.INVALID
        assert (await workers.assess(wanted("[1]"))).json_state is JsonState.VALID


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_worker_has_its_own_session_and_nothing_of_the_daemons(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)

    async def main() -> None:
        async with JsonWorkers(RepairSection(deadline_s=1.5)) as workers:
            assert_repairs(await workers.assess(REPAIRABLE))
            (pid,) = workers.pids
            assert os.getsid(pid) == pid
            assert descriptors(pid) == {"0", "1", "2"}
            assert b"hush" not in environment(pid)
            killed = await workers.assess(wanted(UNCLOSED_STRING))
            assert killed.json_state is JsonState.INVALID
            assert_repairs(await workers.assess(REPAIRABLE))

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    finally:
        os.close(inherited)


DAEMON = """
import asyncio, sys
from edge_store.config import RepairSection
from edge_store.jsonrepair import JsonWorkers, Wanted

async def main(text):
    async with JsonWorkers(RepairSection(deadline_s=60.0)) as workers:
        await workers.assess(Wanted(text='{"a": 1,}', schema=None, is_truncated=False))
        print(workers.pids[0], flush=True)
        if text:
            await workers.assess(Wanted(text=text, schema=None, is_truncated=False))
        await asyncio.sleep(60)

asyncio.run(main(sys.stdin.read()))
"""


@pytest.mark.parametrize("text", ["", UNCLOSED_STRING], ids=["idle", "busy"])
def test_a_worker_does_not_outlive_a_killed_daemon(text: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        try:
            assert daemon.stdin is not None
            assert daemon.stdout is not None
            daemon.stdin.write(text.encode())
            daemon.stdin.close()
            pid = int(daemon.stdout.readline())
            worker = os.pidfd_open(pid)
            before = cpu_ticks(pid)
            deadline = time.monotonic() + SLACK_S
            while text and cpu_ticks(pid) < before + 10:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            daemon.kill()
    readable, _, _ = select.select([worker], [], [], SLACK_S)
    os.close(worker)
    assert readable, f"the worker {pid} runs on"
