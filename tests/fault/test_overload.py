"""More than fits: refused with 503 and Retry-After, never dropped."""

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
from support.daemon import DEADLINE_S, Box, until

SLOW = "[demo:slow=100] slowly"


def test_full_recorder_refuses_and_recovers(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", RECORDER__SLOTS="2", RECORDER__ADMISSION_TIMEOUT_S="0.2")
    with box.serve() as daemon:
        body = {"messages": [{"role": "user", "content": SLOW}], "stream": True}
        url = f"{daemon.url}/v1/chat/completions"
        with (
            httpx.stream("POST", url, json=body, timeout=DEADLINE_S),
            httpx.stream("POST", url, json=body, timeout=DEADLINE_S),
        ):
            until(lambda: daemon.metrics()["edge_store_in_flight"] == 2, "both are admitted")
            refused = daemon.chat("one too many")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "recorder_full")
            assert int(refused.headers["retry-after"]) > 0
            assert daemon.metrics()['edge_store_refused_total{code="recorder_full"}'] == 1
            assert daemon.get("/livez").status_code == 200
        until(lambda: daemon.chat("and now?").status_code == 200, "there is room again")
    assert box.scalar("SELECT max(boot_seq) FROM results") == box.scalar(
        "SELECT count(*) FROM results"
    )


def test_sdk_that_retries_gets_its_answer(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", RECORDER__SLOTS="1", RECORDER__ADMISSION_TIMEOUT_S="0")
    with (
        box.serve() as daemon,
        openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="x", timeout=DEADLINE_S) as client,
    ):
        body = {"text": "[demo:slow=10] a second or less"}
        holder = threading.Thread(
            target=lambda: httpx.post(f"{daemon.url}/generate", json=body, timeout=DEADLINE_S)
        )
        holder.start()
        until(lambda: daemon.metrics()["edge_store_in_flight"] == 1, "the slot is taken")
        chat = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "patience"}]
        )
        holder.join(DEADLINE_S)
        assert chat.id in box.texts()
        assert daemon.metrics()['edge_store_refused_total{code="recorder_full"}'] >= 1


def test_too_many_connections_are_told_to_come_again(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", RECORDER__SLOTS="2")
    with box.serve() as daemon:
        host, port = daemon.url.removeprefix("http://").split(":")
        statuses = []
        with ExitStack() as stack:
            callers = [
                stack.enter_context(socket.create_connection((host, int(port)), DEADLINE_S))
                for _ in range(100)
            ]
            for caller in callers:  # each keeps its connection
                caller.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                statuses.append(caller.recv(65536).split()[1])
        assert b"503" in statuses  # those are closed, and make room for others
        assert b"200" in statuses
        until(lambda: daemon.get("/livez").status_code == 200, "it answers again")
