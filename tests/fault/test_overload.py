"""More than fits: refused with 503 or 429 and Retry-After, never dropped; no tenant starves."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import httpx
import openai
import pytest
from support.daemon import DEADLINE_S, Box, until

from edge_store.bench.clients import Load, Slice, running_clients
from edge_store.bench.figures import resident_bytes
from edge_store.bench.order import Mode

SLOW = "[demo:slow=2000] slowly"
ROUNDS = 3


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
        assert daemon.stop() == 0
    assert box.scalar("SELECT max(boot_seq) FROM results") == box.scalar(
        "SELECT count(*) FROM results"
    )


def test_sdk_that_retries_gets_its_answer(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", RECORDER__SLOTS="1", RECORDER__ADMISSION_TIMEOUT_S="0")
    with (
        box.serve() as daemon,
        openai.OpenAI(
            base_url=f"{daemon.url}/v1", api_key="x", timeout=DEADLINE_S, max_retries=30
        ) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        body = {"text": SLOW, "stream": True}
        with httpx.stream("POST", f"{daemon.url}/generate", json=body, timeout=DEADLINE_S):
            asked = threads.submit(
                lambda: client.chat.completions.create(
                    model="demo", messages=[{"role": "user", "content": "patience"}]
                )
            )
            refused = 'edge_store_refused_total{code="recorder_full"}'
            until(lambda: daemon.metrics().get(refused), "it was told to come again")
        chat = asked.result(2 * DEADLINE_S)
        assert chat.id in box.texts()


def test_too_many_connections_are_told_to_come_again(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", RECORDER__SLOTS="2")
    with box.serve() as daemon:
        host, port = daemon.url.removeprefix("http://").split(":")
        answers = []
        with ExitStack() as stack:
            callers = [
                stack.enter_context(socket.create_connection((host, int(port)), DEADLINE_S))
                for _ in range(100)
            ]
            for caller in callers:  # each keeps its connection
                caller.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            for caller in callers:
                answer = caller.recv(65536)
                while answer.startswith(b"HTTP/1.1 503") and (more := caller.recv(65536)):
                    answer += more
                answers.append(answer)
            stack.enter_context(socket.create_connection((host, int(port)), DEADLINE_S))
            for path in ("/livez", "/readyz", "/metrics"):
                assert daemon.get(path).status_code == 200, "who watches it is answered"
        by_status = Counter(answer.split()[1] for answer in answers)
        assert set(by_status) == {b"200", b"503"}
        refused = next(answer for answer in answers if answer.split()[1] == b"503")
        head, _, body = refused.partition(b"\r\n\r\n")
        assert json.loads(body)["error"]["code"] == "recorder_full"
        assert b"\r\nretry-after: 1" in head
        assert b"\r\nconnection: close" in head  # those make room for others
        until(lambda: daemon.get("/v1/models").status_code == 200, "it answers again")


@pytest.mark.alone
def test_ten_times_the_load_is_answered_at_the_same_rate_and_fairly(tmp_path: Path) -> None:
    """One tenant has seven tenths of the callers, and gets a quarter of the answers."""
    slots = 16
    box = Box.init(tmp_path / "box", RECORDER__SLOTS=str(slots), ENGINE__DEMO__TOKEN_DELAY_MS="10")
    sustainable = Load(connections=slots, mode=Mode.MIXED, tenants=(4, 4, 4, 4))
    overload = Load(connections=160, mode=Mode.MIXED, tenants=(112, 16, 16, 16))
    with box.serve() as daemon:
        port, pid = int(daemon.url.rsplit(":", 1)[1]), daemon.process_id

        async def measure() -> None:
            async with running_clients(1) as clients:
                resident = 0
                for _ in range(ROUNDS):
                    one, seen = await clients.slice(pid, port, sustainable, 1.5)
                    acknowledged.update(seen)
                    resident = resident or resident_bytes(pid)
                    ten, seen = await clients.slice(pid, port, overload, 2.5)
                    acknowledged.update(seen)
                    pairs.append((one, ten))
            assert resident_bytes(pid) < 1.2 * resident

        pairs: list[tuple[Slice, Slice]] = []
        acknowledged: set[str] = set()
        asyncio.run(measure())
        assert all(ten.refused for _, ten in pairs), "this must be too much, or it proves nothing"
        # of several noisy pairs the middle one
        assert median(ten.requests_per_s / one.requests_per_s for one, ten in pairs) > 0.75
        assert median(ten.p99_ms / one.p99_ms for one, ten in pairs) < 6
        shares = [ten.answers_by_tenant for _, ten in pairs]
        assert median(min(each) / max(each) for each in shares) > 0.6
        metrics = daemon.metrics()
        assert metrics['edge_store_refused_total{code="tenant_over_share"}'] > 0
        assert metrics["edge_store_loop_lag_seconds_count"] > 20  # at least one second's
    assert acknowledged <= set(box.texts())
    box.proven()


@pytest.mark.alone
def test_a_greedy_tenant_does_not_starve_another(tmp_path: Path) -> None:
    """Eight callers that never wait, whatever they are told, and one that asks ten times."""
    box = Box.init(tmp_path / "box", RECORDER__SLOTS="2", ENGINE__DEMO__TOKEN_DELAY_MS="5")
    statuses: Counter[int] = Counter()
    leaving = threading.Event()
    with box.serve() as daemon, ExitStack() as stack:
        body = {"text": "more", "sampling_params": {"max_new_tokens": 16}}

        def press() -> None:
            with httpx.Client(headers={"authorization": "Bearer greedy"}) as client:
                while not leaving.wait(0.01):
                    answer = client.post(f"{daemon.url}/generate", json=body, timeout=DEADLINE_S)
                    statuses[answer.status_code] += 1
                    if answer.status_code != 200:
                        assert int(answer.headers["retry-after"]) > 0

        callers = [threading.Thread(target=press) for _ in range(8)]
        for caller in callers:
            caller.start()
            stack.callback(caller.join, DEADLINE_S)
        stack.callback(leaving.set)
        until(lambda: statuses[503], "it is full, and alone it is not over its share")
        took = []
        for _ in range(10):
            began = time.monotonic()
            answer = daemon.post("/generate", json=body, headers={"x-api-key": "small"})
            took.append(time.monotonic() - began)
            assert answer.status_code == 200, answer.text
        assert statuses[429], "the greedy one was told that it is over its share"
        assert max(took) < 5, took


def test_large_bodies_are_refused_at_their_bound_and_taken_again(tmp_path: Path) -> None:
    box = Box.init(
        tmp_path / "box", RECORDER__BYTES_MAX="2000000", SERVER__BODY_BYTES_MAX="1000000"
    )
    large = {"text": SLOW, "padding": "x" * 900_000, "stream": True}
    small = {"text": "hello"}
    with box.serve() as daemon:
        url = f"{daemon.url}/generate"
        keys = [{"authorization": f"Bearer {name}"} for name in ("one", "two")]
        with httpx.stream("POST", url, json=large, headers=keys[0], timeout=DEADLINE_S):
            assert daemon.metrics()["edge_store_held_bytes"] > 900_000
            refused = daemon.post("/generate", json=large, headers=keys[0])
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "recorder_full")
            assert int(refused.headers["retry-after"]) > 0
            assert daemon.post("/generate", json=small, headers=keys[1]).status_code == 200
        until(lambda: daemon.metrics()["edge_store_held_bytes"] == 0, "the bytes are given back")
        large = {**large, "text": "quickly", "stream": False}
        assert daemon.post("/generate", json=large, headers=keys[0]).status_code == 200
    box.proven()
