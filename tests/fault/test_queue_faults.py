"""The queue under kills, stops, dead engines and full disks: every line is completed once."""

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.batches import batch_of, ended, line, output_of, retrieved, submit, text_of
from support.daemon import DEADLINE_S, Box, until
from support.disks import small_disk_at
from support.rawserver import Peer, RawServer, answers

COMPLETED = "SELECT count(*) FROM results WHERE status = 'completed'"
ANSWER = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"raw","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


def killed_through(tmp_path: Path, lines: int, kills: int, seed: int) -> None:
    """A batch through so many SIGKILLs at random points of its lines."""
    random_points = random.Random(seed)
    box = Box.init(tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="1", QUEUE__SLOTS_MAX="32")
    names = [f"line-{n}" for n in range(lines)]
    batch_id = ""
    stored = 0
    for _ in range(kills):
        with box.serve() as daemon:
            batch_id = batch_id or submit(daemon, text_of([line(name) for name in names]))
            more = random_points.randrange(1, max(2, 2 * (lines - stored) // (kills + 1)))
            until(
                lambda goal=stored + more: box.scalar(COMPLETED) >= min(goal, lines - 1),  # type: ignore[misc]  # a default
                "as many lines are stored",
                60.0,
            )
            daemon.kill()
        stored = box.scalar(COMPLETED)
    with box.serve() as daemon:
        batch = ended(daemon, batch_id, 300.0)
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"completed": lines, "failed": 0, "total": lines}
        output = output_of(daemon, batch["output_file_id"])
        assert daemon.stop() == 0
    assert [one["custom_id"] for one in output] == names
    assert batch_of(box, batch_id) == {name: ["completed"] for name in names}
    box.proven()


def test_a_batch_killed_again_and_again_completes_each_line_once(tmp_path: Path) -> None:
    killed_through(tmp_path, 300, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_batch_of_5000_lines_survives_30_kills(tmp_path: Path) -> None:
    killed_through(tmp_path, 5000, 30, seed=2)


def test_lines_that_a_stop_cuts_are_asked_again(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", QUEUE__ATTEMPTS_MAX="1")
    with box.serve(ENGINE__DEMO__TOKEN_DELAY_MS="5000") as daemon:
        batch_id = submit(daemon, text_of([line(f"line-{n}") for n in range(20)]))
        until(lambda: daemon.get("/readyz").json()["queue"]["in_flight"] == 20, "all run")
        assert daemon.stop() == 0
    cut = batch_of(box, batch_id)
    assert [status for statuses in cut.values() for status in statuses].count("cancelled") > 0
    with box.serve() as daemon:
        batch = ended(daemon, batch_id)
    assert batch["request_counts"] == {"completed": 20, "failed": 0, "total": 20}


def test_a_pause_holds_across_a_restart(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    paused = box.run("queue", "pause", "--config", str(box.directory))
    assert (paused.returncode, paused.stdout) == (0, "the queue is paused\n")
    with box.serve() as daemon:
        batch_id = submit(daemon, text_of([line("only")]))
        until(lambda: retrieved(daemon, batch_id)["status"] == "in_progress", "it is validated")
        assert daemon.stop() == 0
    with box.serve() as daemon:
        until(lambda: daemon.get("/readyz").json()["queue"]["is_paused"], "it is paused")
        assert retrieved(daemon, batch_id)["status"] == "in_progress"
        assert batch_of(box, batch_id) == {}
        listed = box.run("queue", "ls", "--config", str(box.directory), "--nl")
        assert json.loads(listed.stdout) == {
            "what": batch_id, "state": "in_progress", "completed": 0, "refused": 0, "dead": 0,
            "waiting": 1,
        }  # fmt: skip
        assert "paused" in listed.stderr
        box.run("queue", "resume", "--config", str(box.directory))
        assert ended(daemon, batch_id)["status"] == "completed"


def test_a_queued_request_survives_sigkill_under_its_id(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="20")
    body = {"model": "demo", "messages": [{"role": "user", "content": "later"}]}
    with box.serve() as daemon:
        where = [
            daemon.post(
                "/v1/chat/completions", json=body, headers={"prefer": "respond-async"}
            ).headers["location"]
            for _ in range(10)
        ]
        daemon.kill()
    with box.serve() as daemon:
        for path in where:
            until(lambda path=path: daemon.get(path).status_code == 200, path)  # type: ignore[misc]  # a default
            assert daemon.get(path).json()["status"] == "completed"
    assert box.scalar("SELECT count(*) FROM results WHERE status = 'completed'") == len(where)


class Upstream:
    """A server that fails chats until told otherwise; its health is good."""

    def __init__(self) -> None:
        self.fails = True
        self.asked: list[str] = []

    async def __call__(self, peer: Peer) -> None:
        if not peer.request.target.endswith("/chat/completions"):
            await answers(b'{"object": "list", "data": []}')(peer)
            return
        text = json.loads(peer.request.body)["messages"][0]["content"]
        self.asked.append(text)
        if self.fails and "good" not in text:
            body = b'{"error": {"message": "out of memory"}}'
            await peer.head(500, f"Content-Length: {len(body)}")
            await peer.write(body)
        else:
            await answers(ANSWER)(peer)


@contextlib.contextmanager
def upstream_box(tmp_path: Path, **settings: str) -> Iterator[tuple[Box, Upstream]]:
    """A box whose engine is an ``Upstream`` on a thread of its own."""
    upstream = Upstream()
    started = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        stopped = asyncio.Event()
        found["stop"] = stopped
        found["loop"] = asyncio.get_running_loop()
        async with RawServer(upstream) as server:
            found["url"] = server.url
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(DEADLINE_S)
        yield (
            Box.init(
                tmp_path / "box", "--engine", "upstream", "--upstream", found["url"],
                QUEUE__RETRY_PAUSE_S="0.01", QUEUE__ATTEMPTS_MAX="3", **settings,
            ),
            upstream,
        )  # fmt: skip
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(DEADLINE_S)


def test_a_line_whose_engine_fails_is_dead_after_its_attempts_and_can_be_retried(
    tmp_path: Path,
) -> None:
    with upstream_box(tmp_path) as (box, upstream), box.serve() as daemon:
        batch_id = submit(daemon, text_of([line("good"), line("bad")]))
        batch = ended(daemon, batch_id)
        assert batch["request_counts"] == {"completed": 1, "failed": 1, "total": 2}
        assert batch_of(box, batch_id) == {"good": ["completed"], "bad": ["failed"] * 3}
        (error,) = output_of(daemon, batch["error_file_id"])
        assert error["custom_id"] == "bad"
        assert "out of memory" in error["error"]["message"]
        daemon.logged("line_dead")

        upstream.fails = False
        done = box.run("queue", "retry", batch_id, "--config", str(box.directory))
        assert (done.returncode, done.stdout) == (0, f"1 lines of {batch_id} are tried again\n")
        until(lambda: retrieved(daemon, batch_id)["error_file_id"] is None, "it goes on")
        batch = ended(daemon, batch_id)
        assert batch["request_counts"] == {"completed": 2, "failed": 0, "total": 2}
        names = [one["custom_id"] for one in output_of(daemon, batch["output_file_id"])]
        assert names == ["good", "bad"]
        again = box.run("queue", "retry", batch_id, "--config", str(box.directory))
        assert again.returncode == 1


def test_attempts_of_a_queued_request_have_ids_of_their_own(tmp_path: Path) -> None:
    with upstream_box(tmp_path) as (box, _), box.serve() as daemon:
        body = {"model": "raw", "messages": [{"role": "user", "content": "bad"}]}
        taken = daemon.post("/v1/chat/completions", json=body, headers={"prefer": "respond-async"})
        where = taken.headers["location"]
        until(lambda: daemon.get(where).status_code == 200, "its last attempt is stored")
        assert daemon.get(where).json()["status"] == "failed"
        result_id = taken.json()["id"]
        rows = box.rows("SELECT id FROM results WHERE batch_id = ? ORDER BY seq", result_id)
        assert [row[0] == result_id for row in rows] == [False, False, True]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    with small_disk_at(tmp_path / "disk", "16m") as folder:
        yield folder


@pytest.mark.parametrize("reserve_bytes", [0, 4 << 20])
def test_an_upload_that_fills_the_disk_is_507_and_leaves_nothing(
    small_disk: Path, reserve_bytes: int
) -> None:
    box = Box.init(small_disk / "box", STORE__DISK_RESERVE_BYTES=str(reserve_bytes))
    with box.serve() as daemon:
        text = 14 * 1024 * 1024 * b"x"
        kind = {"content-type": "multipart/form-data; boundary=b"}
        head = b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n'

        def chunked() -> Iterator[bytes]:
            yield head
            yield from (text[start : start + 65536] for start in range(0, len(text), 65536))

        if not reserve_bytes:
            (small_disk / "ballast").write_bytes(bytes(8 << 20))
        for body in (head + text, chunked()):  # announced, and not
            refused = daemon.post("/v1/files", content=body, headers=kind)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
            assert not (box.directory / "files").exists() or not [
                *(box.directory / "files").iterdir()
            ]
        assert daemon.chat("there is room again").status_code == 200
        assert ended(daemon, submit(daemon, text_of([line("only")])))["status"] == "completed"


def test_a_batch_costs_interactive_callers_no_refusal(tmp_path: Path) -> None:
    box = Box.init(
        tmp_path / "box", RECORDER__SLOTS="8", RECORDER__ADMISSION_TIMEOUT_S="0.5",
        ENGINE__DEMO__TOKEN_DELAY_MS="5", QUEUE__SLOTS_MAX="64",
    )  # fmt: skip
    with box.serve() as daemon:
        batch_id = submit(daemon, text_of([line(f"line-{n}") for n in range(2000)]))
        until(lambda: retrieved(daemon, batch_id)["request_counts"]["completed"], "it runs")
        with httpx.Client(base_url=daemon.url, timeout=DEADLINE_S, trust_env=False) as client:
            body = {"model": "demo", "messages": [{"role": "user", "content": "now"}]}
            asked = (client.post("/v1/chat/completions", json=body) for _ in range(30))
            statuses = [answer.status_code for answer in asked]
        assert retrieved(daemon, batch_id)["status"] == "in_progress", "else nothing is shown"
        assert set(statuses) == {200}
        in_flight = box.scalar("SELECT count(*) FROM results WHERE batch_id IS NULL")
        assert in_flight == 30
        assert daemon.get("/readyz").json()["queue"]["in_flight"] <= 6
        daemon.terminate()
        assert daemon.wait() == 0


def test_uploads_that_a_kill_cut_are_gone_after_the_next_start(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    folder = box.directory / "files"
    folder.mkdir()
    (folder / ".unfinished-0000-1").write_bytes(b"x")
    (folder / ("0" * 64)).write_bytes(b"nobody's")
    with box.serve() as daemon:
        daemon.logged("files_swept")
        assert list(folder.iterdir()) == []
