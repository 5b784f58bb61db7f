"""``x-edge-store-wait`` over a real Litestream: what is said to be replicated outlives the box."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support.daemon import Box, DaemonProcess, until
from support.s3server import S3Server

ASKED: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
WAIT = "x-edge-store-wait"
LONG = "replicated; timeout=240"  # for what must happen; callers may wait for 60 s by default
RARELY = {
    "REPLICA__ENABLED": "true",
    "REPLICA__MONITOR_INTERVAL_S": "3600",
    "REPLICA__WAIT_MAX_S": "240",
    # A store without conditions lets who was slow at its claim wait for three times that.
    "REPLICA__OWNER_CHECK_S": "2",
}


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3") as server:
        yield server


def sdk(daemon: DaemonProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=280)


def ask(daemon: DaemonProcess, wait: str, **headers: str) -> httpx.Response:
    return daemon.post(
        "/v1/chat/completions", json=ASKED, headers={WAIT: wait, **headers}, timeout=280
    )


def durability(answer: httpx.Response) -> tuple[str, str | None]:
    assert answer.status_code == 200, answer.text
    found = answer.headers
    return found["x-edge-store-durability"], found.get("x-edge-store-not-replicated")


def receipt(daemon: DaemonProcess, result_id: str) -> str:
    found = daemon.get(f"/v1/results/{result_id}/receipt").json()
    state: str = found["replicated"]["state"]
    return state


def test_what_is_said_to_be_replicated_outlives_the_box(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", **RARELY, REPLICA__URL=f"file://{tmp_path}/replica")
    headers = {WAIT: LONG}
    with box.serve() as daemon, sdk(daemon) as client:
        raw = client.chat.completions.with_raw_response.create(**ASKED, extra_headers=headers)
        # it is asked for: what looks by itself does so once an hour
        assert raw.headers["x-edge-store-durability"] == "replicated"
        ids = [raw.headers["x-edge-store-id"]]
        assert receipt(daemon, ids[0]) == "replicated", "the receipt agrees, and at once"
        streamed = {**ASKED, "stream": True}
        stream = daemon.post("/v1/chat/completions", json=streamed, headers=headers, timeout=280)
        (said,) = [line for line in stream.text.splitlines() if line.startswith(": replicated ")]
        ids.append(said.split("id=")[1].split()[0])
        made = client.responses.with_raw_response.create(
            model="demo", input="hello", extra_headers=headers
        )
        assert made.headers["x-edge-store-durability"] == "replicated"
        ids.append(made.headers["x-edge-store-id"])
        daemon.kill()
    for file in box.directory.glob("results.db*"):
        file.unlink()
    copy = box.directory / "copy.db"
    config = ("--config", str(box.directory))
    done = box.run("replica", "restore", "--to", str(copy), *config)
    assert done.returncode == 0, done.stderr
    there = box.run("query", "--db", str(copy), "--nl", "select id from results order by seq")
    assert [json.loads(line)["id"] for line in there.stdout.splitlines()] == ids
    response = box.run("query", "--db", str(copy), "--nl", "select count(*) n from responses")
    assert json.loads(response.stdout) == {"n": 1}


def test_a_store_that_is_away_costs_the_wait_and_never_the_answer(
    tmp_path: Path, s3: S3Server
) -> None:
    box = Box.init(
        tmp_path / "box",
        **RARELY,
        REPLICA__URL=s3.url("fleet"),
        REPLICA__STOP_TIMEOUT_S="1",
        SERVER__DRAIN_TIMEOUT_S="1",
    )
    box.environ.update(s3.environ)
    answers: dict[str, Any] = {}
    key = {"idempotency-key": "once"}

    def later(daemon: DaemonProcess, name: str, wait: str, **headers: str) -> threading.Thread:
        def run() -> None:
            try:
                answers[name] = ask(daemon, wait, **headers)
            except httpx.HTTPError as exc:
                answers[name] = exc

        before = box.scalar("SELECT count(*) FROM results")
        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: box.scalar("SELECT count(*) FROM results") > before, "it is committed")
        return thread

    with box.serve() as daemon:
        assert durability(ask(daemon, LONG)) == ("replicated", None)
        s3.stop()
        assert durability(ask(daemon, "replicated; timeout=0.5")) == ("committed", "timeout")
        waiting = later(daemon, "until it is back", LONG)
        until(lambda: daemon.get("/readyz").json()["in_flight"] == 0, "its slot is free")
        s3.start()
        waiting.join()
        assert durability(answers["until it is back"]) == ("replicated", None)
        s3.stop()
        waiting = later(daemon, "killed", LONG, **key)
        daemon.kill()
        waiting.join()
        assert isinstance(answers["killed"], httpx.HTTPError)
    s3.start()
    with box.serve() as daemon:
        again = ask(daemon, LONG, **key)
        assert durability(again) == ("replicated", None)
        assert again.headers["idempotency-replayed"] == "true"
        assert receipt(daemon, again.headers["x-edge-store-id"]) == "replicated"
        s3.stop()
        waiting = later(daemon, "stopped", LONG)
        daemon.terminate()
        waiting.join()
        assert durability(answers["stopped"]) == ("committed", "stopping")
        s3.start()  # else Litestream has its 7 s for it
        assert daemon.wait() == 0
    assert box.proven().results == 5


def has_path(daemon: DaemonProcess) -> bool:
    return bool(daemon.get("/readyz").json()["replica"]["state"] == "ok")


def test_who_waits_on_a_box_without_a_replica_is_told(tmp_path: Path) -> None:
    first = Box.init(
        tmp_path / "first", "--device-id", "box-1", REPLICA__ENABLED="true",
        REPLICA__URL=f"file://{tmp_path}/replica",
    )  # fmt: skip
    second = Box.init(
        tmp_path / "second", "--device-id", "box-1", REPLICA__ENABLED="true",
        REPLICA__URL=f"file://{tmp_path}/replica",
    )  # fmt: skip
    with first.serve() as owner:
        until(lambda: has_path(owner), "the path is the first one's", 120)
        with second.serve() as other, sdk(other) as client:
            assert durability(ask(other, "replicated; timeout=60")) == ("committed", "taken")
            too_long = {WAIT: "replicated; timeout=61"}
            with pytest.raises(openai.BadRequestError, match=r"replica\.wait_max_s"):
                client.chat.completions.create(**ASKED, extra_headers=too_long)
    with second.serve(REPLICA__ENABLED="false") as off:
        assert durability(ask(off, "replicated; timeout=60")) == ("committed", "off")
