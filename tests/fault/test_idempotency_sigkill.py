"""SIGKILL under callers with keys: each sends again what it had sent, and finds it or runs it."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from support.daemon import DEADLINE_S, Box, DaemonProcess

CALLERS = 16
REQUESTS = 240
ROUTES: dict[str, str] = {  # and where its prompt goes
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/generate": "text",
}


class Request(NamedTuple):
    """One of the requests, the same whenever it is sent."""

    key: str
    route: str
    body: bytes


class Answer(NamedTuple):
    """As far as it came."""

    headers: httpx.Headers
    body: bytes
    is_whole: bool


def requests() -> Iterator[Request]:
    """Every route in turn, plain and streamed."""
    for number in range(REQUESTS):
        route = list(ROUTES)[number % len(ROUTES)]
        prompt: Any = f"request {number}"
        if route == "/v1/chat/completions":
            prompt = [{"role": "user", "content": prompt}]
        body = {ROUTES[route]: prompt, "stream": number % 2 == 1}
        yield Request(f"key-{number}", route, json.dumps(body).encode())


def send(client: httpx.Client, request: Request) -> Answer | None:
    """None: nothing came."""
    headers = {"idempotency-key": request.key, "content-type": "application/json"}
    body, whole = b"", False
    try:
        with client.stream("POST", request.route, content=request.body, headers=headers) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_raw():
                body += piece
            whole = True
    except httpx.HTTPError:
        if not body:
            return None
    return Answer(answer.headers, body, whole)


class Callers:
    """Send the requests, ``CALLERS`` at a time, until the daemon is gone: it is killed as a quarter
    is answered, while the other callers wait.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self.answers: dict[str, Answer] = {}
        self._daemon = daemon
        self._requests = requests()
        self._lock = threading.Lock()

    def run(self) -> None:
        with httpx.Client(base_url=self._daemon.url, timeout=DEADLINE_S, trust_env=False) as client:
            while True:
                with self._lock:
                    request = next(self._requests, None)
                if request is None:
                    return
                answer = send(client, request)
                if answer is not None:
                    self.answers[request.key] = answer
                if len(self.answers) >= REQUESTS // 4:
                    self._daemon.kill()
                if answer is None or not answer.is_whole:
                    return


def sent_again(daemon: DaemonProcess) -> dict[str, Answer]:
    """Every request, once more."""
    with httpx.Client(base_url=daemon.url, timeout=DEADLINE_S, trust_env=False) as client:
        found = {request.key: send(client, request) for request in requests()}
    answers = {key: answer for key, answer in found.items() if answer is not None}
    assert len(answers) == REQUESTS
    assert all(answer.is_whole for answer in answers.values())
    return answers


def test_answers_cut_by_sigkill_are_given_again_byte_for_byte(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="1")
    with box.serve() as daemon, ThreadPoolExecutor(CALLERS) as threads:
        callers = Callers(daemon)
        for run in [threads.submit(callers.run) for _ in range(CALLERS)]:
            run.result(2 * DEADLINE_S)
    first = callers.answers
    whole = {key for key, answer in first.items() if answer.is_whole}
    assert REQUESTS // 4 <= len(whole) < REQUESTS, "it was cut in the middle"

    with box.serve() as daemon:
        second = sent_again(daemon)
        third = sent_again(daemon)
        assert daemon.metrics()["edge_store_replayed_total"] >= REQUESTS + len(whole)
        assert daemon.stop() == 0

    for key, answer in first.items():
        again = second[key]
        is_replayed = "idempotency-replayed" in again.headers
        assert is_replayed or not answer.is_whole, "what was acknowledged is stored"
        if is_replayed:
            assert again.headers["x-edge-store-id"] == answer.headers["x-edge-store-id"]
            assert again.body[: len(answer.body)] == answer.body
            assert len(again.body) == len(answer.body) or not answer.is_whole
    for key, answer in second.items():
        assert third[key].headers["idempotency-replayed"] == "true"
        assert third[key].body == answer.body
        assert third[key].headers["x-edge-store-id"] == answer.headers["x-edge-store-id"]
    statuses = dict(box.rows("SELECT status, count(*) FROM results GROUP BY status"))
    assert statuses == {"completed": REQUESTS}, "one row for each key, whatever was sent"
    box.proven()
