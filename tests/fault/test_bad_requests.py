"""Bodies that no caller should send: 400 in OpenAI's envelope, no row, and the daemon goes on."""

import itertools
import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("bad") / "box")
    with box.serve() as daemon:
        yield daemon
        assert daemon.stop() == 0
        box.proven()


def nested(depth: int) -> bytes:
    return b'{"messages": [], "x": ' + b"[" * depth + b"]" * depth + b"}"


def chat_with(field: str) -> bytes:
    return b'{"messages": [{"role": "user", "content": "x"}], ' + field.encode() + b"}"


BAD = {
    "empty": (CHAT, b""),
    "cut": (CHAT, b'{"messages": ['),
    "not utf-8": (CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    "overlong utf-8": (CHAT, b'{"messages": [{"role": "user", "content": "\xc0\xaf"}]}'),
    "lone surrogate": (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
    "raw control character": (CHAT, b'{"messages": [{"role": "user", "content": "a\x01"}]}'),
    "byte order mark": (CHAT, b"\xef\xbb\xbf{}"),
    "utf-16": (CHAT, json.dumps({"messages": []}).encode("utf-16")),
    "NaN": (CHAT, chat_with('"temperature": NaN')),
    "Infinity": (CHAT, chat_with('"temperature": -Infinity')),
    "number out of range": (CHAT, chat_with('"temperature": 1e999')),
    "10,000 deep array": (CHAT, nested(10_000)),
    "10,000 deep object": (CHAT, b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "only brackets": (CHAT, b"[" * 1_000_000),
    "not an object": (CHAT, b"[]"),
    "null": (CHAT, b"null"),
    "text": (CHAT, b'"text"'),
    "two documents": (CHAT, b"{}{}"),
    "no messages": (CHAT, b'{"model": "demo"}'),
    "messages no list": (CHAT, b'{"messages": "x"}'),
    "messages of texts": (CHAT, b'{"messages": ["x"]}'),
    "stream no boolean": (CHAT, chat_with('"stream": "yes"')),
    "n is zero": (CHAT, chat_with('"n": 0')),
    "n is a boolean": (CHAT, chat_with('"n": true')),
    "n is huge": (CHAT, chat_with('"n": 1' + "0" * 300)),
    "metadata no object": (CHAT, chat_with('"metadata": []')),
    "no prompt": ("/v1/completions", b"{}"),
    "no prompts": ("/v1/completions", b'{"prompt": []}'),
    "no text": ("/generate", b"{}"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_body_is_a_400_and_no_row(daemon: DaemonProcess, name: str) -> None:
    route, body = BAD[name]
    before = daemon.metrics()["edge_store_admitted_total"]
    answer = daemon.post(route, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert error["message"]
    assert daemon.metrics()["edge_store_admitted_total"] == before
    assert daemon.chat("and now?").status_code == 200


def test_every_depth_of_nesting_is_answered(daemon: DaemonProcess) -> None:
    """Somewhere near 1000 a decoder takes what an encoder a few frames deeper does not."""
    statuses = []
    with httpx.Client(base_url=daemon.url, timeout=DEADLINE_S) as caller:
        for depth in itertools.chain([100, 500], range(900, 1030, 2)):
            for field in ("x", "metadata", 'rid": "r", "x'):
                deep = b'{"a":' * depth + b"1" + b"}" * depth
                body = chat_with(f'"{field}": {deep.decode()}')
                statuses.append(caller.post(CHAT, content=body).status_code)
    assert set(statuses) == {200, 400}
    until(lambda: daemon.metrics()["edge_store_in_flight"] == 0, "nothing is in flight")


@pytest.mark.parametrize(
    "fields",
    [
        '"seed": 18446744073709551616',
        '"seed": -170141183460469231731687303715884105728',
        '"seed": 1' + "0" * 300,
        '"metadata": {"n": "18446744073709551616"}',
        '"user": "\\u0000"',
        '"user": "\\ud83d\\ude00"',
        '"model": "' + "m" * 100_000 + '"',
        '"a": 1, "a": 2',
    ],
)
def test_odd_but_good_body_is_recorded(daemon: DaemonProcess, fields: str) -> None:
    answer = daemon.post(CHAT, content=chat_with(fields))
    assert answer.status_code in (200, 400), answer.text
    stored = daemon.get(f"/v1/results/{answer.headers['x-edge-store-id']}").json()
    assert stored["status"] == ("completed" if answer.status_code == 200 else "failed")
    assert stored["request_body"].encode() == chat_with(fields)


@pytest.mark.parametrize("megabytes", [17, 50, 140])
def test_too_large_body_is_a_413_that_its_sender_sees(
    daemon: DaemonProcess, megabytes: int
) -> None:
    before = daemon.metrics()
    text = "x" * (megabytes << 20)
    try:
        answer = daemon.post("/generate", content=f'{{"text": "{text}"}}'.encode())
    except httpx.NetworkError:
        assert megabytes > 128  # eight times server.body_bytes_max: nobody reads that to the end
    else:
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "payload_too_large"
    assert daemon.chat("and now?").status_code == 200
    after = daemon.metrics()["edge_store_admitted_total"]
    assert after == before["edge_store_admitted_total"] + 1


def test_body_far_too_large_is_refused_before_it_comes(daemon: DaemonProcess) -> None:
    host, port = daemon.url.removeprefix("http://").split(":")
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as caller:
        caller.sendall(head)
        assert caller.recv(65536).startswith(b"HTTP/1.1 413")


def test_body_just_under_the_bound_is_recorded_whole(daemon: DaemonProcess) -> None:
    body = b'{"text": "' + b"y " * ((8 << 20) - 6) + b'"}'  # a long word is stored as a blob
    answer = daemon.post("/generate", content=body)
    assert answer.status_code == 200
    size = "SELECT length(request_body) FROM results JOIN requests USING (seq) WHERE id = ?"
    assert daemon.box.scalar(size, answer.headers["x-edge-store-id"]) == len(body)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /livez HTTP/1.1\r\n" + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_not_answered_with_an_error_of_ours(
    daemon: DaemonProcess, head: bytes
) -> None:
    host, port = daemon.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as caller:
        try:
            caller.sendall(head)
            answer = caller.recv(65536)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert daemon.chat("and now?").status_code == 200
