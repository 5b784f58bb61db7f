"""API keys on a real box: made and revoked by the command, used by the ``openai`` SDK as it is."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess, until
from support.files import files_in

from edge_store.keys import digest_of

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
NEXT_S = 30.0  # of two a minute, the next one comes


def create(box: Box, *options: str) -> str:
    """The key."""
    done = box.run("keys", "create", "app", *options, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def listed(box: Box) -> list[dict[str, Any]]:
    done = box.run("keys", "ls", "--nl", "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def key_id_of(box: Box, key: str) -> str:
    found = box.scalar("SELECT key_id FROM api_keys WHERE sha256 = ?", digest_of(key.encode()))
    return str(found)


def revoke(box: Box, key: str) -> None:
    done = box.run("keys", "revoke", key_id_of(box, key), "--config", str(box.directory))
    assert done.returncode == 0, done.stderr


def client_of(daemon: DaemonProcess, key: str, max_retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{daemon.url}/v1", api_key=key, max_retries=max_retries, timeout=DEADLINE_S
    )


def ask(client: openai.OpenAI, text: str = "hello", **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="demo", messages=messages, **fields)


def refused(client: openai.OpenAI) -> tuple[int, str | None]:
    """Status and code of what the SDK raises."""
    with client, pytest.raises(openai.APIStatusError) as caught:
        ask(client)
    assert caught.value.request_id
    return caught.value.status_code, caught.value.code


def test_a_key_holds_from_its_making_to_its_revocation(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    with box.serve() as daemon:
        with client_of(daemon, "anything") as client:
            ask(client)
        key = create(box, "--tenant", "shop")  # while the daemon runs
        assert refused(client_of(daemon, "anything")) == (401, "unauthorized")
        with client_of(daemon, key) as client:
            made = ask(client)
            assert client.models.list().data
        assert box.rows("SELECT tenant FROM results WHERE id = ?", made.id) == [("shop",)]
        other = create(box, "--tenant", "shop")
        revoke(box, key)
        assert refused(client_of(daemon, key)) == (401, "key_revoked")
        with client_of(daemon, other) as client:
            ask(client)
        assert daemon.stop() == 0
    third = create(box, "--tenant", "lab")  # while it is stopped
    revoke(box, other)
    with box.serve() as daemon:
        assert refused(client_of(daemon, other)) == (401, "key_revoked")
        with client_of(daemon, third) as client:
            ask(client)
    assert [row["state"] for row in listed(box)] == ["revoked", "revoked", "live"]
    box.proven()


def test_a_key_is_nowhere_but_with_who_made_it(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    with box.serve() as daemon:
        key = create(box, "--tenant", "shop")
        with client_of(daemon, key) as client:
            ask(client)
        written = files_in(box.directory)
        assert any(path.name == "results.db-wal" for path in written)
        assert [path for path, content in written.items() if key.encode() in content] == []
        assert key not in daemon.output()
    assert key not in json.dumps(listed(box))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box.init(tmp_path_factory.mktemp("keys") / "box", "--engine", "demo")


@pytest.fixture(scope="module")
def daemon(box: Box) -> Iterator[DaemonProcess]:
    create(box, "--tenant", "first")
    with box.serve(RECORDER__RESPONSE_BYTES_MAX="4096") as daemon:
        yield daemon


def count(daemon: DaemonProcess, name: str) -> float:
    return daemon.metrics().get(f"edge_store_{name}", 0.0)


def test_a_key_without_the_right_is_told_which_it_lacks(daemon: DaemonProcess, box: Box) -> None:
    reader = client_of(daemon, create(box, "--tenant", "shop", "--scope", "read_own"), 2)
    before = count(daemon, 'refused_total{code="forbidden"}')
    with reader, pytest.raises(openai.PermissionDeniedError, match="right generate") as caught:
        ask(reader)
    assert caught.value.code == "forbidden"
    assert count(daemon, 'refused_total{code="forbidden"}') == before + 1, "it is not asked again"


def test_the_sdk_does_not_try_a_wrong_key_again(daemon: DaemonProcess) -> None:
    before = count(daemon, 'refused_total{code="unauthorized"}')
    with client_of(daemon, "es-wrong", 2) as client, pytest.raises(openai.AuthenticationError):
        ask(client)
    assert count(daemon, 'refused_total{code="unauthorized"}') == before + 1


def test_the_sdk_waits_for_a_key_that_has_too_much_in_flight(
    daemon: DaemonProcess, box: Box
) -> None:
    key = create(box, "--tenant", "shop", "--concurrent", "1")
    begun = threading.Event()
    refusals = 'refused_total{code="concurrency_limited"}'
    before = count(daemon, refusals)

    def hold() -> None:  # until the other was refused, for which there is a minute and more
        with (
            client_of(daemon, key) as client,
            ask(client, "[demo:slow=3000] a story", stream=True) as stream,
        ):
            for _ in stream:
                begun.set()
                if count(daemon, refusals) > before:
                    return

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(DEADLINE_S)
    with client_of(daemon, key, 10) as client:
        assert ask(client).choices
    assert count(daemon, refusals) > before
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_what_is_over_the_rate_is_refused_with_what_is_left(
    daemon: DaemonProcess, box: Box
) -> None:
    took_s = NEXT_S
    while took_s >= NEXT_S:  # held up so long, it may ask once more
        key = create(box, "--tenant", "shop", "--requests-per-minute", "2")
        refused, began = None, time.monotonic()
        with client_of(daemon, key) as client:
            answers = [client.models.with_raw_response.list() for _ in range(2)]
            try:
                client.models.list()
            except openai.RateLimitError as exc:
                refused = exc
        took_s = time.monotonic() - began
    assert refused is not None
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0"]
    headers = refused.response.headers
    assert refused.code == "rate_limited"
    assert 0 < int(headers["retry-after"]) <= 30
    assert headers["x-should-retry"] == "true"
    assert headers["x-ratelimit-limit-requests"] == "2"


@pytest.mark.parametrize(
    ("prompt", "code", "attempts"),
    [("[demo:error] fail", "engine_refused", 2), ("x " * 2000, "response_too_large", 1)],
)
def test_the_sdk_asks_again_where_it_helps_and_else_not(
    daemon: DaemonProcess, box: Box, prompt: str, code: str, attempts: int
) -> None:
    tenant = f"retries-{code}"
    client = client_of(daemon, create(box, "--tenant", tenant), 1)
    with client, pytest.raises(openai.InternalServerError):
        ask(client, prompt, n=32, max_tokens=400)
    found = box.rows("SELECT error_type FROM results WHERE tenant = ?", tenant)
    assert found == [(code,)] * attempts


def test_a_fault_is_named_by_its_path(daemon: DaemonProcess, box: Box) -> None:
    with client_of(daemon, create(box, "--tenant", "shop")) as client:
        for fields, path in (
            ({"n": "two"}, "n"),
            ({"stream": 1}, "stream"),
            ({"messages": [{"role": "user", "content": "x"}, 7]}, "messages[1]"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(client, extra_body=fields)
            assert (caught.value.param, caught.value.code) == (path, "invalid_request")


ANSWERS = [
    ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/v1/models"),
    ("GET", "/v1/results"), ("GET", "/v1/results/nonsense"), ("POST", "/v1/chat/completions"),
    ("GET", "/v1/chat/completions"), ("POST", "/api/chat"), ("POST", "/v1/messages"),
    ("GET", "/nothing"), ("OPTIONS", "/v1/chat/completions"), ("DELETE", "/v1/results"),
    ("POST", "/flush_cache"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ANSWERS)
@pytest.mark.parametrize("has_key", [True, False], ids=["key", "no_key"])
def test_every_answer_has_an_id_and_lets_no_web_page_read_it(
    daemon: DaemonProcess, box: Box, method: str, path: str, *, has_key: bool
) -> None:
    headers = {
        "origin": "https://elsewhere.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    if has_key:
        headers["authorization"] = f"Bearer {create(box, '--tenant', 'shop')}"
    answer = httpx.request(method, daemon.url + path, headers=headers, timeout=DEADLINE_S)
    assert answer.headers["x-request-id"]
    assert [name for name in answer.headers if name.startswith("access-control")] == []
    if answer.status_code >= 400:
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["error"]


def test_who_comes_through_a_proxy_of_this_machine_is_not_local(daemon: DaemonProcess) -> None:
    for path, status in (("/livez", 200), ("/readyz", 401), ("/metrics", 401)):
        assert daemon.get(path).status_code == 200
        for forwarded in ("203.0.113.5", "127.0.0.1, 203.0.113.5"):
            answer = daemon.get(path, headers={"x-forwarded-for": forwarded})
            assert (path, answer.status_code) == (path, status)


def test_what_is_no_http_is_refused_in_the_envelope(daemon: DaemonProcess) -> None:
    url = httpx.URL(daemon.url)
    with socket.create_connection((url.host, url.port or 0), timeout=DEADLINE_S) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        received = b""
        while piece := connection.recv(4096):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-request-id: " in head
    assert b"\r\nx-should-retry: false" in head
    assert json.loads(body)["error"]["code"] == "invalid_request"


def test_a_wrong_wish_makes_no_key(daemon: DaemonProcess, box: Box) -> None:
    before = len(listed(box))
    for options in (
        ["--tenant", ""],
        ["--tenant", "t", "--expires", "2020-01-01"],
        ["--tenant", "t", "--expires", "soon"],
        ["--tenant", "t", "--scope", "root"],
        ["--tenant", "t", "--concurrent", "0"],
    ):
        done = box.run("keys", "create", "x", *options, "--config", str(box.directory))
        assert done.returncode in (1, 2), options
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    done = box.run("keys", "revoke", "key_none", "--config", str(box.directory))
    assert (done.returncode, "key_none" in done.stderr) == (1, True)
    assert len(listed(box)) == before


def test_an_address_that_others_reach_needs_a_key_or_leave(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    everywhere = {"SERVER__HOST": "0.0.0.0"}  # noqa: S104  (what the test is of)
    done = box.run("serve", "--config", str(box.directory), "--port", "0", **everywhere)
    assert done.returncode == 78
    assert "no API keys" in done.stderr
    assert "server.allow_open" in done.stderr
    assert "Traceback" not in done.stderr
    with box.serve(**everywhere, SERVER__ALLOW_OPEN="true") as daemon:
        assert daemon.logged("http_not_encrypted")["has_keys"] is False
        assert daemon.chat("open").status_code == 200
        assert daemon.stop() == 0
    key = create(box, "--tenant", "shop")
    with box.serve(**everywhere) as daemon:
        assert daemon.chat("closed").status_code == 401
        with client_of(daemon, key) as client:
            ask(client)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem and key.pem in a folder."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder


def test_with_a_certificate_the_sdk_talks_over_tls(tmp_path: Path, certificate: Path) -> None:
    tls = {
        "SERVER__TLS_CERTIFICATE": str(certificate / "cert.pem"),
        "SERVER__TLS_KEY": str(certificate / "key.pem"),
    }
    box = Box.init(tmp_path / "box", "--engine", "demo", **tls)
    key = create(box, "--tenant", "shop")
    with box.serve() as daemon:
        assert daemon.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=certificate / "cert.pem")
        http = openai.DefaultHttpxClient(verify=trust, timeout=DEADLINE_S)
        client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, http_client=http)
        with client, ask(client, stream=True) as stream:
            assert [chunk for chunk in stream if chunk.choices[0].finish_reason]
        port = daemon.url.rpartition(":")[2]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/livez", timeout=DEADLINE_S)
        status = box.run("status", "--config", str(box.directory), SERVER__PORT=port)
        assert (status.returncode, status.stderr) == (0, "")
        assert daemon.stop() == 0


def test_a_certificate_that_cannot_be_used_is_a_wrong_setting(
    tmp_path: Path, certificate: Path
) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    for settings in (
        {"SERVER__TLS_CERTIFICATE": "nowhere.pem"},
        {"SERVER__TLS_CERTIFICATE": cert},
        {"SERVER__TLS_CERTIFICATE": key, "SERVER__TLS_KEY": cert},
        {"SERVER__TLS_KEY": key},
    ):
        done = box.run("serve", "--config", str(box.directory), "--port", "0", **settings)
        assert done.returncode == 78, done.stderr
        assert "server.tls_" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_stream_that_runs_when_its_key_is_revoked_ends_well(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    key = create(box, "--tenant", "shop")
    with box.serve() as daemon, client_of(daemon, key) as client:
        stream = ask(client, "[demo:slow=200] a story", stream=True, max_tokens=30)
        next(iter(stream))
        revoke(box, key)
        assert refused(client_of(daemon, key)) == (401, "key_revoked")
        for given in ({}, {"API_KEY": key}):  # a command names where it looks for the key
            done = box.run("batch", "ls", "--url", daemon.url, **given)
            assert (done.returncode, "EDGE_STORE_API_KEY" in done.stderr) == (1, True)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason
        until(daemon.box.texts, "the stream is recorded")


def test_what_a_revoked_key_has_left_to_do_is_not_done(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    key, reader = create(box, "--tenant", "shop"), create(box, "--tenant", "shop")
    with box.serve() as daemon, client_of(daemon, key) as client:
        box.run("queue", "pause", "--config", str(box.directory))
        asked = {"model": "demo", "messages": [{"role": "user", "content": "later"}]}
        lines = [
            json.dumps({"custom_id": str(n), "method": "POST", "url": CHAT, "body": asked})
            for n in range(3)
        ]
        file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        later = httpx.post(
            f"{daemon.url}{CHAT}", json=asked,
            headers={"prefer": "respond-async", "authorization": f"Bearer {key}"},
            timeout=DEADLINE_S,
        )  # fmt: skip
        assert later.status_code == 202
        revoke(box, key)
        box.run("queue", "resume", "--config", str(box.directory))
        with client_of(daemon, reader) as other:
            until(
                lambda: other.batches.retrieve(batch.id).status in ("completed", "failed"),
                "the batch ends",
            )
            ended: Any = other.batches.retrieve(batch.id)
            assert (ended.request_counts.completed, ended.request_counts.failed) == (0, 3)
            found = other.files.content(ended.error_file_id).text.splitlines()
        errors = [json.loads(line)["error"] for line in found]
        assert [error["code"] for error in errors] == ["key_revoked"] * 3
        headers = {"authorization": f"Bearer {reader}"}
        place = later.headers["location"]
        told = until(
            lambda: (
                (found := daemon.get(place, headers=headers).json())["status"] == "failed" and found
            ),
            "what was asked for later has ended, too",
        )
        assert told["error"]["code"] == "key_revoked"
    assert box.scalar("SELECT count(*) FROM results") == 0


def test_who_sees_all_changes_its_own_alone(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    owner = {"authorization": f"Bearer {create(box, '--tenant', 'shop')}"}
    rights = ("--scope", "generate", "--scope", "read_all")
    auditor = {"authorization": f"Bearer {create(box, '--tenant', 'audit', *rights)}"}
    admin = {
        "authorization": f"Bearer {create(box, '--tenant', 'ops', *rights, '--scope', 'admin')}"
    }
    hello = {"role": "user", "content": "hello"}
    with box.serve() as daemon, httpx.Client(base_url=daemon.url, timeout=DEADLINE_S) as http:

        def made(path: str, **options: Any) -> Any:
            answer = http.post(path, headers=owner, **options)
            assert answer.status_code == 200, answer.text
            return answer.json()

        completion = made(CHAT, json={"model": "demo", "messages": [hello]})["id"]
        response = made(
            "/v1/responses", json={"model": "demo", "input": "hello", "background": True}
        )["id"]
        conversation = made("/v1/conversations", json={"items": [hello]})["id"]
        one = f"/v1/conversations/{conversation}"
        item = http.get(f"{one}/items", headers=auditor).json()["data"][0]["id"]
        asked = {"model": "demo", "messages": [hello]}
        line = json.dumps({"custom_id": "1", "method": "POST", "url": CHAT, "body": asked})
        file = made("/v1/files", files={"file": ("in", line)}, data={"purpose": "batch"})["id"]
        begun = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        batch = made("/v1/batches", json=begun)["id"]
        calls: list[tuple[str, str, Any]] = [
            ("POST", f"{CHAT}/{completion}", {"metadata": {"k": "v"}}),
            ("DELETE", f"{CHAT}/{completion}", None),
            (
                "POST",
                "/v1/responses",
                {"model": "demo", "input": "x", "conversation": conversation},
            ),
            ("POST", f"/v1/responses/{response}/cancel", None),
            ("DELETE", f"/v1/responses/{response}", None),
            ("POST", one, {"metadata": {"k": "v"}}),
            ("POST", f"{one}/items", {"items": [hello]}),
            ("DELETE", f"{one}/items/{item}", None),
            ("DELETE", one, None),
            ("POST", f"/v1/batches/{batch}/cancel", None),
            ("DELETE", f"/v1/files/{file}", None),
        ]
        paths = http.get("/openapi.json", headers=owner).json()["paths"]
        changing = [m for path, ms in paths.items() if "{" in path for m in ms if m != "get"]
        assert len(calls) == len(changing) + 1, "every route that changes something is tried"
        for method, path, body in calls:
            answer = http.request(method, path, headers=auditor, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path
        there = (
            *(f"{CHAT}/{completion}", f"/v1/responses/{response}", one, f"{one}/items/{item}"),
            *(f"/v1/batches/{batch}", f"/v1/files/{file}"),
        )
        for path in there:
            assert http.get(path, headers=auditor).status_code == 200, "it is there, as it was"
        stranger = {"authorization": f"Bearer {create(box, '--tenant', 'other')}"}
        for method, path, body in calls:
            answer = http.request(method, path, headers=stranger, json=body)
            assert answer.status_code == 404, "for who does not see it, it is not there"
        until(
            lambda: http.get(f"/v1/batches/{batch}", headers=owner).json()["status"] == "completed",
            "the batch is over",
        )
        for method, path, body in calls:
            answer = http.request(method, path, headers=admin, json=body)
            is_over = path.endswith(f"{batch}/cancel")
            assert answer.status_code == (400 if is_over else 200), answer.text
