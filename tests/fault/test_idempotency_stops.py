"""A stop of the daemon while callers wait for another's answer."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until

CALLERS = 6


def ask(url: str, words: str) -> httpx.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": words}]}
    return httpx.post(
        f"{url}/v1/chat/completions",
        json=body,
        headers={"Idempotency-Key": "one"},
        timeout=DEADLINE_S,
        trust_env=False,
    )


def begin(
    threads: ThreadPoolExecutor, daemon: DaemonProcess, words: str
) -> list[Future[httpx.Response]]:
    """Callers of one key: one runs, the others wait."""
    asked = [threads.submit(ask, daemon.url, words) for _ in range(CALLERS)]
    until(lambda: daemon.metrics()["edge_store_attached_total"] == CALLERS - 1, "all but one wait")
    return asked


def test_those_who_wait_are_answered_before_a_drained_daemon_ends(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", SERVER__DRAIN_TIMEOUT_S="60")
    with box.serve() as daemon, ThreadPoolExecutor(CALLERS) as threads:
        asked = begin(threads, daemon, "[demo:slow=200] a story")
        assert daemon.stop() == 0
        answers = [future.result() for future in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert box.scalar("SELECT count(*) FROM results") == 1
    box.proven()


@pytest.mark.parametrize("again", [False, True])
def test_those_who_wait_for_a_run_that_is_cut_are_refused(tmp_path: Path, *, again: bool) -> None:
    box = Box.init(tmp_path / "box", SERVER__DRAIN_TIMEOUT_S="30" if again else "0.2")
    with box.serve() as daemon, ThreadPoolExecutor(CALLERS) as threads:
        asked = begin(threads, daemon, "[demo:slow=10000] a long story")
        daemon.terminate()
        if again:
            daemon.logged("stop_requested")
            daemon.terminate()
        assert daemon.wait() == 0
        answers = [future.result() for future in asked]
    codes = sorted(answer.json()["error"]["code"] for answer in answers)
    assert codes == ["admission_closed"] * (CALLERS - 1) + ["shut_down"]
    assert {answer.status_code for answer in answers} == {503}
    assert box.rows("SELECT status FROM results") == [("cancelled",)]
    box.proven()
