"""Images in requests through a real daemon: stored once, given back as they were sent, gone with
the last result that has them.
"""

import base64
import json
import random
from functools import partial
from pathlib import Path

import httpx
import pytest
from support.batches import ended, line, submit, text_of
from support.daemon import Box, DaemonProcess, until

MIB = 1024 * 1024
IMAGE = b"\x89PNG\r\n\x1a\n" + random.Random(7).randbytes(MIB)
URL = "data:image/png;base64," + base64.b64encode(IMAGE).decode()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def seen(user: str, number: int) -> dict[str, object]:
    parts = [
        {"type": "text", "text": f"what is this, {number}?"},
        {"type": "image_url", "image_url": {"url": URL}},
    ]
    return {"model": "demo", "messages": [{"role": "user", "content": parts}], "user": user}


def ask(daemon: DaemonProcess, sent: bytes) -> str:
    kind = {"content-type": "application/json"}
    answer = daemon.post("/v1/chat/completions", content=sent, headers=kind)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def is_completed(daemon: DaemonProcess, where: str) -> bool:
    return bool(daemon.get(where).json()["status"] == "completed")


def test_a_hundred_requests_with_an_image_store_it_once(box: Box) -> None:
    with box.serve() as daemon:
        sent = {}
        for number in range(100):
            body = json.dumps(seen("ada", number), indent=number % 3).encode()
            sent[ask(daemon, body)] = body
        for name, body in list(sent.items())[::20]:
            raw = daemon.get(f"/v1/results/{name}/raw", params={"part": "request"})
            assert raw.content == body
        assert daemon.stop() == 0
    assert box.rows("SELECT media_type, length(bytes) FROM blobs") == [("image/png", len(IMAGE))]
    assert box.scalar("SELECT max(length(request_body)) FROM requests") < 1000
    assert box.database.stat().st_size < 1.5 * MIB
    assert box.proven().faults == ()


def test_what_was_asked_of_a_response_shares_its_image(box: Box) -> None:
    with box.serve() as daemon:
        parts = [{"type": "input_image", "image_url": URL}]
        asked = {"model": "demo", "input": [{"role": "user", "content": parts}], "user": "ada"}
        for is_behind in (False, True):
            made = daemon.post("/v1/responses", json={**asked, "background": is_behind}).json()
            where = f"/v1/responses/{made['id']}"
            until(partial(is_completed, daemon, where), "it has ended")
            (item,) = daemon.get(f"{where}/input_items").json()["data"]
            assert item["content"][0]["image_url"] == URL
        assert box.scalar("SELECT count(*) FROM blobs") == 1
        assert box.scalar("SELECT max(length(request)) FROM responses") < 1000
        after = {"model": "demo", "input": "go on", "previous_response_id": made["id"]}
        assert daemon.post("/v1/responses", json=after).status_code == 200  # its context has it
        assert box.scalar("SELECT count(*) FROM request_blobs") == 3
        assert httpx.delete(f"{daemon.url}{where}", timeout=60).status_code == 200
        assert box.scalar("SELECT count(*) FROM blobs") == 1
        config = ("--config", str(box.directory), "--yes")
        assert box.run("forget", "--where", "1", *config).returncode == 0
        assert box.scalar("SELECT count(*) FROM blobs") == 0
        assert daemon.stop() == 0
    assert box.proven().faults == ()


def test_an_image_goes_with_the_last_result_that_has_it(box: Box) -> None:
    with box.serve() as daemon:
        for user in ("ada", "bob"):
            ask(daemon, json.dumps(seen(user, 1)).encode())
        ended(daemon, submit(daemon, text_of([line("a", body=seen("bob", 2))])))
        config = ("--config", str(box.directory), "--yes")
        assert box.scalar("SELECT count(*) FROM request_blobs") == 3
        assert box.run("forget", "--user", "ada", *config).returncode == 0
        assert box.scalar("SELECT count(*) FROM blobs") == 1
        assert box.run("forget", "--user", "bob", *config).returncode == 0
        assert box.scalar("SELECT count(*) FROM blobs") == 0

        def is_gone() -> bool:
            found = box.everything()
            pieces = IMAGE[MIB // 2 : MIB // 2 + 64], URL[MIB : MIB + 64].encode()
            return not any(piece in found for piece in pieces)

        until(is_gone, "the WAL is emptied")
        assert daemon.stop() == 0
    assert box.proven().faults == ()
