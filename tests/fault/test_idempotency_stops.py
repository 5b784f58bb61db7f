"""A stop of the daemon while callers wait for another's answer."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until
from support.rawserver import Peer, RawServer, answers
from support.scripted import chat_body

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


async def test_those_who_wait_are_answered_before_a_drained_daemon_ends(tmp_path: Path) -> None:
    """The engine answers once the daemon has been told to stop."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    async def behave(peer: Peer) -> None:
        if not peer.request.target.endswith("/chat/completions"):
            return await answers(b'{"object": "list", "data": []}')(peer)
        await stopping.wait()
        return await answers(chat_body("a story"))(peer)

    def asked_and_stopped(box: Box) -> list[httpx.Response]:
        with (
            box.serve(SERVER__DRAIN_TIMEOUT_S="600") as daemon,
            ThreadPoolExecutor(CALLERS) as threads,
        ):
            asked = begin(threads, daemon, "a story")
            daemon.terminate()
            daemon.logged("stop_requested")
            loop.call_soon_threadsafe(stopping.set)
            assert daemon.wait() == 0
            return [future.result() for future in asked]

    async with RawServer(behave) as server:
        options = ("--engine", "upstream", "--upstream", server.url)
        box = await asyncio.to_thread(Box.init, tmp_path / "box", *options)
        told = await asyncio.to_thread(asked_and_stopped, box)
    assert {answer.status_code for answer in told} == {200}
    assert len({answer.content for answer in told}) == 1
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
