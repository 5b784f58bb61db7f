"""SIGTERM: what runs is finished and answered, what comes later is told to come again."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until
from support.load import Load

SLOW = "[demo:slow=4000] take your time"  # 30 tokens or more: two minutes
LONG_S = "600"  # for a drain: longer than anybody waits here for an end


@contextmanager
def streaming(daemon: DaemonProcess) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    """A slow stream of which the first text has come, and its further lines."""
    body = {"messages": [{"role": "user", "content": SLOW}], "stream": True}
    url = f"{daemon.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=DEADLINE_S) as answer:
        lines = answer.iter_lines()
        assert any('"content":"' in line and '"content":""' not in line for line in lines)
        yield answer, lines


def completeness(box: Box) -> tuple[object, ...]:
    """Of the newest boot."""
    return box.rows(
        "SELECT state, admitted, completed, cancelled, in_flight, interrupted, percent "
        "FROM completeness ORDER BY boot_no DESC LIMIT 1"
    )[0]


def test_sigterm_under_load_finishes_and_answers_all_it_admitted(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="2")
    with box.serve() as daemon, Load(daemon.url, 32) as load:
        load.wait_acknowledged(100)
        assert daemon.stop() == 0
    assert load.cut == []
    assert all(answer.status_code == 503 for answer in load.refused), load.refused
    assert all(int(answer.headers["retry-after"]) > 0 for answer in load.refused)
    assert box.texts() == load.acknowledged
    number = len(load.acknowledged)
    assert completeness(box) == ("ended", number, number, 0, 0, 0, 100.0)
    box.proven()


def test_idle_daemon_stops_at_once(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve(SERVER__DRAIN_TIMEOUT_S=LONG_S) as daemon:
        assert daemon.stop() == 0
    assert completeness(box) == ("ended", 0, 0, 0, 0, 0, 100.0)


def test_requests_that_come_during_the_drain_are_refused(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon, httpx.Client(base_url=daemon.url, timeout=DEADLINE_S) as caller:
        assert caller.get("/livez").status_code == 200  # a connection that is kept
        with streaming(daemon):
            daemon.terminate()
            daemon.logged("stop_requested")
            body = {"messages": [{"role": "user", "content": "too late"}]}
            for _ in range(3):
                try:
                    answer = caller.post("/v1/chat/completions", json=body)
                except httpx.TransportError:
                    continue
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                assert answer.json()["error"]["code"] == "admission_closed"
            daemon.terminate()
            assert daemon.wait() == 0
    assert box.scalar("SELECT count(*) FROM results") == 1


@pytest.mark.parametrize("hurry", ["second SIGTERM", "drain_timeout_s"])
def test_what_outlasts_the_drain_is_cut_told_and_recorded(tmp_path: Path, hurry: str) -> None:
    box = Box.init(tmp_path / "box")
    drain_s = "0.3" if hurry == "drain_timeout_s" else LONG_S
    with box.serve(SERVER__DRAIN_TIMEOUT_S=drain_s) as daemon, streaming(daemon) as (answer, lines):
        daemon.terminate()
        daemon.logged("stop_requested")
        if hurry == "second SIGTERM":
            daemon.terminate()
        rest = [line for line in lines if line]
        assert daemon.wait() == 0
    assert rest[-2].startswith(": committed ")
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shut_down"
    assert not any("[DONE]" in line or '"finish_reason":"' in line for line in rest)
    assert box.rows("SELECT id, status, error_type, http_status FROM results") == [
        (answer.headers["x-edge-store-id"], "cancelled", "shut_down", 503)
    ]
    assert completeness(box) == ("ended", 1, 0, 1, 0, 0, 100.0)


def test_plain_answer_cut_by_a_stop_is_a_503_with_retry_after(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve(SERVER__DRAIN_TIMEOUT_S="0.3") as daemon, Load(daemon.url, 1, SLOW) as load:
        until(lambda: daemon.metrics()["edge_store_in_flight"] == 1, "it is admitted")
        assert daemon.stop() == 0
    (answer,) = load.refused
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shut_down")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-edge-store-durability"] == "committed"
    assert box.rows("SELECT id, status FROM results") == [
        (answer.headers["x-edge-store-id"], "cancelled")
    ]


def test_caller_that_reads_nothing_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve(SERVER__DRAIN_TIMEOUT_S="1") as daemon:
        # some 20 MB: more than the sockets between us hold
        sampling = {"n": 100}
        body = {"text": ["read me"] * 10, "sampling_params": sampling, "stream": True}
        with httpx.stream("POST", f"{daemon.url}/generate", json=body, timeout=DEADLINE_S):
            time.sleep(0.5)  # until it is stuck; if it is not yet, the stop is only easier
            assert daemon.metrics()["edge_store_in_flight"] == 1
            assert daemon.stop() == 0
    assert completeness(box) == ("ended", 1, 0, 1, 0, 0, 100.0)
    box.proven()
