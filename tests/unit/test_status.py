"""Asking the daemon: whatever answers, or does not, becomes an answer in words within a bound."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_store import status
from edge_store.config import ServerSection
from edge_store.ids import DeviceId
from edge_store.status import ask_daemon


@contextmanager
def server(answer: bytes | None) -> Iterator[ServerSection]:
    """Answers one connection with these bytes; with None it reads and says nothing."""
    asked, done = threading.Event(), threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            asked.set()
            if answer is None:
                done.wait(60)
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield ServerSection(port=listener.getsockname()[1])
            assert asked.wait(60)
        finally:
            done.set()
            thread.join(60)


def http(status_line: str, body: str) -> bytes:
    return f"HTTP/1.1 {status_line}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_daemon_that_is_not_ready_is_an_answer_too() -> None:
    with server(http("503 Service Unavailable", '{"is_ready": false}')) as config:
        assert ask_daemon(config, None) == ({"is_ready": False}, None)


def test_daemon_of_another_box_is_not_taken_for_this_one() -> None:
    body = '{"is_ready": true, "device_id": "box-b"}'
    for asked, is_believed in (("box-a", False), ("box-b", True), (None, True)):
        with server(http("200 OK", body)) as config:
            found, problem = ask_daemon(config, DeviceId(asked) if asked else None)
        assert (found is not None) == is_believed
        assert is_believed or "another box answers there: box-b" in str(problem)


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", "<html>"),
        http("200 OK", "[]"),
        http("200 OK", "{}"),
        http("200 OK", '{"is_ready": "yes"}'),
        http("200 OK", '{"is_ready": true, "more": "' + 70_000 * "x" + '"}'),
        b"220 smtp.example ESMTP\r\n",
        b"",
    ],
)
def test_what_is_not_edge_store_is_not_taken_for_it(answer: bytes) -> None:
    with server(answer) as config:
        found, problem = ask_daemon(config, None)
    assert found is None
    assert problem


def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "ANSWER_TIMEOUT_S", 0.1)
    with server(None) as config:
        assert ask_daemon(config, None) == (None, "no answer within 0.1 s")


def test_nothing_that_listens_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found, problem = ask_daemon(ServerSection(port=port), None)
    assert found is None
    assert "refused" in str(problem)


def test_port_that_is_not_known_is_said() -> None:
    found, problem = ask_daemon(ServerSection(port=0), None)
    assert found is None
    assert "server.port is 0" in str(problem)
