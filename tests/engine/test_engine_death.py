"""SGLang's scheduler dies, under load or before; a stop comes while the model loads."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from support.daemon import DEADLINE_S, DaemonProcess, until
from support.engines import Appliance, new_box, user
from support.sglang import MODEL, START_S, descendants, environ, model_path

pytestmark = pytest.mark.sglang

EXIT_ENGINE, EXIT_CONFIG = 70, 78  # docs/operations.md
LONG = {"max_tokens": 1500, "ignore_eos": True}  # four of them fill the model's cache for seconds
SCHEDULER = "sglang::scheduler"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    box = new_box("sglang", tmp_path / "box")
    daemon = DaemonProcess(box, {**box.environ, **environ()}, start_deadline_s=START_S)
    daemon.start()
    try:
        yield daemon
    finally:
        left = descendants(daemon.process_id)
        daemon.end()
        for process_id in left:  # after a failure: one that began just now outlives its parent
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


def scheduler_of(daemon: DaemonProcess) -> int:
    """The oldest of that name: what it forks has it too, until its own program begins."""
    found = descendants(daemon.process_id).items()
    return min(pid for pid, name in found if name == SCHEDULER)


def no_process_is_left(processes: dict[int, str]) -> None:
    until(
        lambda: not [pid for pid in processes if Path(f"/proc/{pid}/cmdline").exists()],
        f"{processes} have ended",
    )


def streamed(appliance: Appliance, has_begun: threading.Event) -> tuple[str, str, str]:
    """The id, the text and the error of a stream that breaks."""
    body = {"model": MODEL, "messages": user("long"), "stream": True, **LONG}
    text, error = "", ""
    url = f"{appliance.daemon.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    error = event["error"]["code"]
                for choice in event.get("choices", ()):
                    text += choice["delta"].get("content") or ""
                if text:
                    has_begun.set()
        return answer.headers["x-edge-store-id"], text, error


def test_death_of_the_scheduler_loses_nothing_and_a_restart_mends_it(daemon: DaemonProcess) -> None:
    box = daemon.box
    daemon.wait_ready(START_S)
    appliance = Appliance("sglang", MODEL, daemon)
    acknowledged = {
        answer.json()["id"]: answer.json()["choices"][0]["message"]["content"]
        for answer in (appliance.chat(f"before {n}", max_tokens=4) for n in range(5))
    }
    processes = descendants(daemon.process_id)
    has_begun = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        stream = threads.submit(streamed, appliance, has_begun)
        plain = [threads.submit(appliance.chat, f"long {n}", **LONG) for n in range(3)]
        until(lambda: daemon.get("/readyz").json()["in_flight"] == 4, "four requests run")
        assert has_begun.wait(DEADLINE_S)
        os.kill(scheduler_of(daemon), signal.SIGKILL)
        assert daemon.wait() == EXIT_ENGINE, daemon.output()
        told = [answered(future) for future in plain]
        stream_id, seen, error = stream.result(DEADLINE_S)
    no_process_is_left(processes)

    assert told == [(502, "engine_crashed")] * 3
    assert error == "engine_crashed"
    assert box.texts() == acknowledged
    failed = box.rows(
        "SELECT id, error_type, output_text FROM results LEFT JOIN outputs USING (seq) "
        "WHERE status = 'failed'"
    )
    assert len(failed) == 4
    assert {code for _, code, _ in failed} == {"engine_crashed"}
    assert {i: text for i, _, text in failed}[stream_id] == seen
    numbers = box.rows("SELECT boot_seq FROM results ORDER BY boot_seq")
    assert [number for (number,) in numbers] == list(range(1, 10))
    assert daemon.tracebacks() == []
    box.proven()

    again = DaemonProcess(box, {**box.environ, **environ()}, start_deadline_s=START_S)
    with again:
        answer = Appliance("sglang", MODEL, again).chat("after", max_tokens=4)
        assert answer.status_code == 200
        processes = descendants(again.process_id)
        assert again.stop() == 0, again.output()
    no_process_is_left(processes)
    assert box.texts().keys() == {*acknowledged, answer.json()["id"]}


def answered(future: "Future[httpx.Response]") -> tuple[int, str]:
    answer = future.result(DEADLINE_S)
    return answer.status_code, answer.json()["error"]["code"]


def test_folder_without_weights_ends_the_start_for_good(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    box = new_box("sglang", tmp_path / "box")
    place = {"EDGE_STORE_ENGINE__SGLANG__MODEL_PATH": str(folder)}
    daemon = DaemonProcess(box, {**box.environ, **environ(), **place})
    daemon.start()
    try:
        assert daemon.wait() == EXIT_CONFIG, daemon.output()
    finally:
        daemon.end()
    assert f"engine.sglang.model_path = '{folder}': the folder has no weights" in daemon.output()
    assert daemon.tracebacks() == []


def test_stop_while_the_model_loads_is_a_clean_one(daemon: DaemonProcess) -> None:
    daemon.url = str(daemon.logged("http_listening")["url"])
    until(lambda: SCHEDULER in descendants(daemon.process_id).values(), "it loads", START_S)
    processes = descendants(daemon.process_id)
    assert daemon.get("/livez").status_code == 200
    assert daemon.get("/readyz").status_code == 503
    refused = daemon.chat("too early")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert daemon.stop() == 0, daemon.output()
    no_process_is_left(processes)
    assert daemon.tracebacks() == []
    assert daemon.box.scalar("SELECT count(*) FROM results") == 0
    assert daemon.box.rows("SELECT event FROM boots ORDER BY boot_no") == [("start",), ("end",)]


def test_death_while_the_model_loads_ends_the_daemon(daemon: DaemonProcess) -> None:
    daemon.logged("http_listening")
    until(lambda: SCHEDULER in descendants(daemon.process_id).values(), "it loads", START_S)
    processes = descendants(daemon.process_id)
    os.kill(scheduler_of(daemon), signal.SIGKILL)
    assert daemon.wait(60) == 1, daemon.output()
    no_process_is_left(processes)
    assert [line for line in daemon.raw if line.startswith("edge-store: SGLang")]
    assert daemon.tracebacks() == []
