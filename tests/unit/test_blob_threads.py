"""Images are taken out of a body, and hashed, before it waits for its COMMIT."""

import base64
import binascii
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.responding import responding
from support.scripted import chat_body, recording, replay

import edge_store.blobs
from edge_store.blobs import BODY_BYTES_MIN, Split, split
from edge_store.result import Content
from edge_store.sqlite import Connection

SCRIPT = replay([chat_body("seen")])
IMAGE = random.Random(5).randbytes(80_000)
DEADLINE_S = 10.0


class Threads:
    """Which threads write, and which decode an image."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writing: set[int] = set()
        self.splitting: list[int] = []
        decode = binascii.a2b_base64

        def decoding(*args: Any, **options: Any) -> bytes:
            self.splitting.append(threading.get_ident())
            return decode(*args, **options)

        monkeypatch.setattr(edge_store.blobs, "a2b_base64", decoding)

    def connected(self, connection: Connection) -> Any:
        self.writing.add(threading.get_ident())
        return connection


def asked(size: int) -> list[dict[str, Any]]:
    url = "data:image/png;base64," + base64.b64encode(IMAGE[:size]).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("size", [6_000, 80_000])
async def test_a_requests_images_are_taken_out_once_and_not_on_the_writers_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    threads = Threads(monkeypatch)
    path = tmp_path / "results.db"
    async with recording(path, SCRIPT, connected=threads.connected) as running:
        await running.ask({"messages": asked(size)})
    assert len(threads.splitting) == 1
    assert threads.writing.isdisjoint(threads.splitting)
    loop = threading.get_ident()
    assert (loop in threads.splitting) == (size < 64 * 1024)  # a long one holds no other up
    (stored,) = running.stored()
    assert base64.b64encode(IMAGE[:size]) in stored.result.content.request_body


@pytest.mark.parametrize("background", [False, True])
async def test_so_are_those_of_a_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, background: bool
) -> None:
    threads = Threads(monkeypatch)
    url = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    part = {"type": "input_image", "image_url": url, "detail": "auto"}
    body = {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": [part]}],
        "background": background,
    }
    path = tmp_path / "results.db"
    async with responding(path, SCRIPT, connected=threads.connected) as here:
        assert (await here.ask("/v1/responses", body)).status == 200
    assert threads.splitting
    assert threads.writing.isdisjoint(threads.splitting)


def test_a_long_body_that_is_split_on_a_thread_holds_no_other_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long, other = (
        Content(input_text=None, request_body=json.dumps(asked(size)).encode(), response_body=b"")
        for size in (80_000, 6_000)
    )
    begun, over = threading.Event(), threading.Event()

    def splitting(body: bytes) -> Split:
        if body is long.request_body:
            begun.set()
            over.wait(DEADLINE_S)
        return split(body)

    monkeypatch.setattr(edge_store.blobs, "split", splitting)
    with ThreadPoolExecutor(2) as threads:
        aside = threads.submit(lambda: long.split_body)
        assert begun.wait(DEADLINE_S)
        try:
            left, parts = threads.submit(lambda: other.split_body).result(DEADLINE_S / 2)
        finally:
            over.set()
        assert len(aside.result(DEADLINE_S)[1]) == len(parts) == 1
    assert len(left) < BODY_BYTES_MIN
