"""Callers that leave: what had come is a row, the engine is told to stop, nobody else notices."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until

SLOW = "[demo:slow=1000] a long story"  # in ms for each token, of four characters
FOR_EVER = "[demo:slow=10000] a long story"
WHOLE = 130  # characters, or more: half a minute. Who is not told to stop makes them all


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("left") / "box")
    with box.serve() as daemon:
        yield daemon
        assert daemon.stop() == 0
        box.proven()


def recorded(daemon: DaemonProcess, result_id: str) -> tuple[Any, ...]:
    """Wait for the row of a caller that has left."""
    found: tuple[Any, ...] = until(
        lambda: daemon.box.rows(
            "SELECT status, error_type, http_status, output_text "
            "FROM results LEFT JOIN outputs USING (seq) WHERE id = ?",
            result_id,
        ),
        "the row",
    )[0]
    return found


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/generate"])
def test_stream_left_in_the_middle_is_recorded_with_what_had_come(
    daemon: DaemonProcess, route: str
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": SLOW}]},
        "/v1/completions": {"prompt": SLOW},
        "/generate": {"text": SLOW},
    }
    text = ""
    with httpx.stream(
        "POST", daemon.url + route, json={**bodies[route], "stream": True}, timeout=DEADLINE_S
    ) as answer:
        for line in answer.iter_lines():
            if not line:
                continue
            event = json.loads(line.removeprefix("data: "))
            if route == "/generate":
                text = event["text"]
            else:
                (choice,) = event["choices"]
                text += choice["text"] if "text" in choice else choice["delta"]["content"]
            if len(text) >= 8:
                break
    status, error, http_status, stored = recorded(daemon, answer.headers["x-edge-store-id"])
    assert (status, error, http_status) == ("incomplete", "client_disconnected", 499)
    assert stored.startswith(text)
    assert len(stored) < WHOLE
    until(lambda: daemon.metrics()["edge_store_in_flight"] == 0, "its slot is free")


def test_plain_request_left_before_its_answer_is_recorded_as_far_as_it_came(
    daemon: DaemonProcess,
) -> None:
    """That something has come of it shows another, which began later and is a stream."""
    before = daemon.box.scalar("SELECT coalesce(max(seq), 0) FROM results")
    admitted = daemon.metrics()["edge_store_admitted_total"]
    host, port = daemon.url.removeprefix("http://").split(":")
    body = json.dumps({"text": SLOW}).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    later = {"text": SLOW, "stream": True}
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as caller:
        caller.sendall(head + body)
        until(
            lambda: daemon.metrics()["edge_store_admitted_total"] == admitted + 1, "it is admitted"
        )
        url = f"{daemon.url}/generate"
        with httpx.stream("POST", url, json=later, timeout=DEADLINE_S) as answer:
            lines = answer.iter_lines()  # which would end the stream where nobody holds it
            assert any(text_of(line) for line in lines)
            caller.close()
            ((result_id,),) = until(
                lambda: daemon.box.rows("SELECT id FROM results WHERE seq > ?", before), "the row"
            )
            assert result_id != answer.headers["x-edge-store-id"]
    status, error, http_status, stored = recorded(daemon, result_id)
    assert (status, error, http_status) == ("incomplete", "client_disconnected", 499)
    assert stored
    assert len(stored) < WHOLE
    recorded(daemon, answer.headers["x-edge-store-id"])


def text_of(line: str) -> str:
    """What a line of a streamed /generate has of the answer."""
    return str(json.loads(line.removeprefix("data: "))["text"]) if line else ""


@pytest.mark.parametrize(
    "piece",
    [
        b"POST /generate HT",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
        b'POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"text": "a"',
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
    ],
)
def test_request_left_before_its_end_costs_nothing(daemon: DaemonProcess, piece: bytes) -> None:
    before = daemon.metrics()["edge_store_admitted_total"]
    host, port = daemon.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as caller:
        caller.sendall(piece)
    assert daemon.chat("still there?").status_code == 200
    after = daemon.metrics()
    assert after["edge_store_admitted_total"] == before + 1
    until(lambda: daemon.metrics()["edge_store_in_flight"] == 0, "nothing is in flight")


def test_body_that_stops_coming_is_refused_after_its_time(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", SERVER__BODY_TIMEOUT_S="1")
    with box.serve() as daemon:  # its own: no other request is to hurry
        host, port = daemon.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as caller:
            caller.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            answer = b""
            while b"did not arrive within 1 s" not in answer:
                more = caller.recv(65536)
                assert more, answer
                answer += more
    assert answer.startswith(b"HTTP/1.1 408")


def test_many_callers_that_leave_at_once_are_all_recorded(daemon: DaemonProcess) -> None:
    before = daemon.box.scalar("SELECT count(*) FROM results WHERE status = 'incomplete'")
    body = json.dumps({"text": FOR_EVER, "stream": True}).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    host, port = daemon.url.removeprefix("http://").split(":")
    admitted = daemon.metrics()["edge_store_admitted_total"]
    callers = [socket.create_connection((host, int(port)), timeout=DEADLINE_S) for _ in range(50)]
    for caller in callers:
        caller.sendall(head + body)
    until(
        lambda: daemon.metrics()["edge_store_admitted_total"] == admitted + 50, "all are admitted"
    )
    for caller in callers:
        caller.close()
    until(
        lambda: (
            daemon.box.scalar("SELECT count(*) FROM results WHERE status = 'incomplete'")
            == before + 50
        ),
        "50 more rows",
    )
