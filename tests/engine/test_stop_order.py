"""The order of a stop: HTTP, the writer, Litestream, and SGLang last."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from support.daemon import DEADLINE_S, DaemonProcess, until
from support.engines import new_box, user
from support.processes import is_alive
from support.replicating import contents
from support.sglang import MODEL, START_S, descendants, environ

pytestmark = pytest.mark.sglang

LONG = {"max_tokens": 400, "ignore_eos": True}  # a second or more
ENDS = "SELECT count(*) FROM boots WHERE event = 'end'"


def is_asked_to_end(process_id: int) -> bool:
    """Whether SIGTERM waits for a process that is stopped."""
    status = Path(f"/proc/{process_id}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) & 1 << signal.SIGTERM - 1)


def streamed(url: str, has_begun: threading.Event) -> tuple[str, str]:
    """A long stream to its end: its id, and all of it."""
    body = {"model": MODEL, "messages": user("long"), "stream": True, **LONG}
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False
    ) as answer:
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if line.startswith("data: {"):
                has_begun.set()
    return answer.headers["x-edge-store-id"], "\n".join(lines)


def test_stop_goes_from_http_to_the_writer_to_litestream_to_sglang(tmp_path: Path) -> None:
    """Litestream is frozen before the stop, so that each step before its end can be looked at."""
    box = new_box("sglang", tmp_path / "box")
    settings = {
        "EDGE_STORE_REPLICA__ENABLED": "true",
        "EDGE_STORE_REPLICA__STOP_TIMEOUT_S": "1",  # then SIGTERM, which it cannot obey
    }
    has_begun = threading.Event()
    with (
        DaemonProcess(
            box, {**box.environ, **settings, **environ()}, start_deadline_s=START_S
        ) as daemon,
        ThreadPoolExecutor(1) as pool,
    ):
        litestream = daemon.logged("litestream_started")["process_id"]
        children = descendants(daemon.process_id).items()
        engine = [pid for pid, name in children if name.startswith("sglang::")]
        assert len(engine) == 2  # the scheduler and the detokenizer
        answer = pool.submit(streamed, daemon.url, has_begun)
        assert has_begun.wait(DEADLINE_S)
        os.kill(litestream, signal.SIGSTOP)
        try:
            daemon.terminate()
            daemon.logged("stop_requested")
            with suppress(httpx.TransportError):  # refused by us, or by the kernel
                assert daemon.chat("too late", model=MODEL).status_code == 503
            result_id, text = answer.result(DEADLINE_S)
            assert "data: [DONE]" in text  # HTTP let what ran come to its end
            until(lambda: is_asked_to_end(litestream), "Litestream is told to end")
            # the writer has ended before that: the last thing that it writes is there
            assert box.scalar(ENDS) == 1
            assert box.scalar("SELECT id FROM results") == result_id
            assert all(is_alive(pid) for pid in engine)  # and SGLang still waits
        finally:
            os.kill(litestream, signal.SIGCONT)
        assert daemon.wait() == 0, daemon.output()
    until(lambda: not any(is_alive(pid) for pid in [litestream, *engine]), "all have ended")
    copy = box.directory / "copy.db"
    box.environ["EDGE_STORE_REPLICA__ENABLED"] = "true"
    done = box.run("replica", "restore", "--config", str(box.directory), "--to", str(copy))
    assert done.returncode == 0, done.stderr
    assert contents(copy) == contents(box.database)
